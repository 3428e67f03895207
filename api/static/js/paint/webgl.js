// The painter on the graphics card. A matrix and its halvings are one texture, uploaded once; drawing is one call.
// Columns run on in strips as wide as a texture may be, one above the other, so there are no tiles and no seams.

import { table } from "./colours.js";
import { pyramid, reading } from "./pyramid.js";

const STRIP = 4_096; // columns, where the card allows it
const PRETENDED = /swiftshader|llvmpipe|softpipe|software|basic render/i; // browsers do not always admit to the caveat

const VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

// A pixel that covers several values is their mean, one that covers less is the nearest or is interpolated.
const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D cells;
uniform highp sampler2D colours;
uniform int first;    // column of the texture where the level begins
uniform ivec2 size;   // columns and rows of the level
uniform int strip;
uniform vec2 origin;  // column and row at the lower left corner
uniform vec2 step_;   // columns and rows a pixel
uniform float end;    // right edge in columns
uniform vec2 scale;   // 8-bit value -> share of the colours: x times it, plus y
uniform bool smooth_;
out vec4 colour;

float cell(ivec2 at) {
  at = clamp(at, ivec2(0), size - 1);
  int column = first + at.x;
  return texelFetch(cells, ivec2(column % strip, (column / strip) * size.y + at.y), 0).r;
}

float row(float x, int y, bool between) {
  if (!between) return cell(ivec2(floor(x), y));
  float low = floor(x - 0.5);
  return mix(cell(ivec2(low, y)), cell(ivec2(low + 1.0, y)), x - 0.5 - low);
}

void main() {
  vec2 at = origin + gl_FragCoord.xy * step_;
  if (at.x < 0.0 || at.y < 0.0 || at.x > end || at.y > float(size.y)) {
    colour = vec4(0.0);
    return;
  }
  bool across = smooth_ || step_.x > 1.0;
  bool up = smooth_ || step_.y > 1.0;
  int wide = step_.x > 1.0 ? 2 : 1;
  int high = int(clamp(ceil(step_.y), 1.0, 8.0));
  float sum = 0.0;
  for (int j = 0; j < high; j++) {
    float y = at.y + step_.y * ((float(j) + 0.5) / float(high) - 0.5);
    for (int i = 0; i < wide; i++) {
      float x = at.x + step_.x * ((float(i) + 0.5) / float(wide) - 0.5);
      float low = floor(y - 0.5);
      sum += up ? mix(row(x, int(low), across), row(x, int(low) + 1, across), y - 0.5 - low) : row(x, int(floor(y)), across);
    }
  }
  float share = clamp(sum / float(wide * high) * scale.x + scale.y, 0.0, 1.0);
  vec4 found = texture(colours, vec2((share * 255.0 + 0.5) / 256.0, 0.5));
  colour = vec4(found.rgb * found.a, found.a);
}`;

/**
 * A painter on a hidden WebGL2 canvas, or null where there is none, or (unless `slow` will do) only one that a processor
 * pretends to be: copying from that takes five times as long as painting by plain.js.
 */
export function webgl({ slow = false } = {}) {
  const canvas = document.createElement("canvas");
  const gl = canvas.getContext("webgl2", {
    antialias: false,
    depth: false,
    failIfMajorPerformanceCaveat: !slow,
    powerPreference: "low-power",
  });
  if (!gl || slow || !PRETENDED.test(renderer(gl))) return gl && new WebGLPainter(canvas, gl);
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // a page may have only so many
  return null;
}

function renderer(gl) {
  const name = gl.getParameter(gl.RENDERER);
  const extension = name.startsWith("WebKit") ? gl.getExtension("WEBGL_debug_renderer_info") : null; // the others say it
  return extension ? gl.getParameter(extension.UNMASKED_RENDERER_WEBGL) : name;
}

class WebGLPainter {
  #canvas;
  #gl;
  #program = null; // null while the context is lost
  #uniforms = {};
  #textures = new WeakMap(); // Matrix -> {texture, starts, cells}
  #tables = new WeakMap(); // table -> texture
  #dropped = new FinalizationRegistry(
    ({ texture, context }) => context === this.#program && this.#gl.deleteTexture(texture),
  );

  constructor(canvas, gl) {
    this.#canvas = canvas;
    this.#gl = gl;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // it may come back
      this.#program = null;
    });
    canvas.addEventListener("webglcontextrestored", () => this.#begin());
    this.#begin();
  }

  /** Whether it can paint now. */
  get works() {
    return this.#program !== null && !this.#gl.isContextLost();
  }

  forget(matrix) {
    const kept = this.#textures.get(matrix);
    if (kept) this.#gl.deleteTexture(kept.texture);
    this.#textures.delete(matrix);
  }

  /** As `paint` in painter.js. */
  paint(target, matrix, { colours, min, max, region, smooth }) {
    const gl = this.#gl;
    const { width, height } = target;
    // As large as what is painted: all of it is copied. Neighbours are mostly of one size.
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    const { texture, starts, cells } = this.#cells(matrix);
    const read = reading(cells, region, width, height);
    const by = 1 / (max > min ? max - min : 1);
    const at = this.#uniforms;
    gl.viewport(0, 0, width, height);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.#table(table(colours)));
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.uniform1i(at.first, starts[read.level]);
    gl.uniform2i(at.size, cells.levels[read.level].columns, cells.rows);
    gl.uniform2f(at.origin, read.left, read.bottom);
    gl.uniform2f(at.step_, read.across, read.up);
    gl.uniform1f(at.end, read.end);
    gl.uniform2f(at.scale, cells.span * by, (cells.min - min) * by);
    gl.uniform1i(at.smooth_, smooth ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    const context = target.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.drawImage(this.#canvas, 0, 0);
  }

  #begin() {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return;
    gl.useProgram(program);
    for (const name of ["cells", "colours", "first", "size", "strip", "origin", "step_", "end", "scale", "smooth_"]) {
      this.#uniforms[name] = gl.getUniformLocation(program, name);
    }
    gl.uniform1i(this.#uniforms.cells, 0);
    gl.uniform1i(this.#uniforms.colours, 1);
    gl.uniform1i(this.#uniforms.strip, this.#strip);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.#textures = new WeakMap();
    this.#tables = new WeakMap();
    this.#program = program;
  }

  get #strip() {
    return Math.min(STRIP, this.#gl.getParameter(this.#gl.MAX_TEXTURE_SIZE));
  }

  #cells(matrix) {
    const kept = this.#textures.get(matrix);
    if (kept) return kept;
    const gl = this.#gl;
    const strip = this.#strip;
    const cells = pyramid(matrix);
    const { rows, levels } = cells;
    const starts = [0];
    for (const { columns } of levels) starts.push(starts.at(-1) + columns);
    const texture = this.#texture(gl.NEAREST);
    const strips = Math.ceil(starts.at(-1) / strip);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R8, Math.min(strip, starts.at(-1)), strips * rows);
    levels.forEach(({ columns, bytes }, level) => {
      gl.pixelStorei(gl.UNPACK_ROW_LENGTH, columns);
      for (let done = 0; done < columns;) {
        const place = starts[level] + done;
        const count = Math.min(columns - done, strip - (place % strip));
        const [x, y] = [place % strip, Math.floor(place / strip) * rows];
        gl.texSubImage2D(gl.TEXTURE_2D, 0, x, y, count, rows, gl.RED, gl.UNSIGNED_BYTE, bytes, done);
        done += count;
      }
      gl.pixelStorei(gl.UNPACK_ROW_LENGTH, 0);
    });
    for (const level of levels) level.bytes = null; // the texture has them
    const entry = { texture, starts, cells };
    this.#textures.set(matrix, entry);
    this.#dropped.register(matrix, { texture, context: this.#program });
    return entry;
  }

  #table(colours) {
    const kept = this.#tables.get(colours);
    if (kept) return kept;
    const gl = this.#gl;
    const texture = this.#texture(gl.LINEAR);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colours);
    this.#tables.set(colours, texture);
    return texture;
  }

  #texture(filter) {
    const gl = this.#gl;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }
}
