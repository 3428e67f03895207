// The painter on the GPU. A matrix and its halved levels are one texture, uploaded once; drawing is one call.
// Columns continue in strips as wide as a texture may be, one above the other, so there are no tiles and no seams.

import { context2d } from "../view/dom.js";
import { colourTable } from "./colormaps.js";
import { createPyramid, locate } from "./pyramid.js";

/** @import { PaintOptions } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Table } from "./colormaps.js" */

/**
 * @typedef {object} Uploaded  a matrix on the GPU
 * @property {WebGLTexture} texture
 * @property {number[]} starts  first column of each level in the texture
 * @property {{rows: number, min: number, span: number, levels: {columns: number}[]}} pyramid
 */

const STRIP = 4_096; // columns, where the GPU allows it
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i; // browsers do not always report the caveat
const UNIFORMS = /** @type {const} */ ([
  "cells",
  "colours",
  "first",
  "size",
  "strip",
  "origin",
  "step_",
  "end",
  "scale",
  "smooth_",
]);

const VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

// A pixel that covers several values shows their mean; one that covers less shows the nearest value or interpolates.
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
 * A painter on a hidden WebGL2 canvas; null where there is no WebGL2, or only one in software: copying from that takes five
 * times as long as painting with cpu.js.
 * @param {object} [options]
 * @param {boolean} [options.software]  accept a software renderer
 */
export function createWebGLPainter({ software = false } = {}) {
  const canvas = document.createElement("canvas");
  const gl = canvas.getContext("webgl2", {
    antialias: false,
    depth: false,
    failIfMajorPerformanceCaveat: !software,
    powerPreference: "low-power",
  });
  if (!gl) return null;
  if (software || !SOFTWARE.test(renderer(gl))) return new WebGLPainter(canvas, gl);
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // the number of contexts of a page is limited
  return null;
}

/**
 * The name of the renderer. Firefox reports it as RENDERER, Chromium and Safari by an extension.
 * @param {WebGL2RenderingContext} gl
 * @returns {string}
 */
function renderer(gl) {
  const name = gl.getParameter(gl.RENDERER);
  const extension = name.startsWith("WebKit") ? gl.getExtension("WEBGL_debug_renderer_info") : null;
  return extension ? gl.getParameter(extension.UNMASKED_RENDERER_WEBGL) : name;
}

class WebGLPainter {
  #canvas;
  #gl;
  /** Null while the context is lost. @type {WebGLProgram | null} */
  #program = null;
  #uniforms = /** @type {Record<(typeof UNIFORMS)[number], WebGLUniformLocation | null>} */ ({});
  /** @type {WeakMap<Matrix, Uploaded>} */
  #matrices = new WeakMap();
  /** @type {WeakMap<Table, WebGLTexture>} */
  #tables = new WeakMap();
  /** Deletes the texture of a matrix that was garbage-collected. */
  #textures = new FinalizationRegistry(
    (/** @type {{texture: WebGLTexture, program: WebGLProgram | null}} */ uploaded) => {
      if (uploaded.program === this.#program) this.#gl.deleteTexture(uploaded.texture);
    },
  );

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {WebGL2RenderingContext} gl
   */
  constructor(canvas, gl) {
    this.#canvas = canvas;
    this.#gl = gl;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // so that it can be restored
      this.#program = null;
    });
    canvas.addEventListener("webglcontextrestored", () => this.#initialise());
    this.#initialise();
  }

  /** Whether it can paint now. */
  get works() {
    return this.#program !== null && !this.#gl.isContextLost();
  }

  /**
   * As `paint` in painter.js.
   * @param {HTMLCanvasElement} target
   * @param {Matrix} matrix
   * @param {PaintOptions} options
   */
  paint(target, matrix, { colours, min, max, region, smooth }) {
    const gl = this.#gl;
    const { width, height } = target;
    // As large as the target, since all of it is copied. Consecutive targets mostly have one size.
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    const { texture, starts, pyramid } = this.#upload(matrix);
    const at = locate(pyramid, region, width, height);
    const factor = 1 / (max > min ? max - min : 1);
    const uniform = this.#uniforms;
    gl.viewport(0, 0, width, height);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.#table(colourTable(colours)));
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.uniform1i(uniform.first, starts[at.level]);
    gl.uniform2i(uniform.size, pyramid.levels[at.level].columns, pyramid.rows);
    gl.uniform2f(uniform.origin, at.left, at.bottom);
    gl.uniform2f(uniform.step_, at.across, at.up);
    gl.uniform1f(uniform.end, at.end);
    gl.uniform2f(uniform.scale, pyramid.span * factor, (pyramid.min - min) * factor);
    gl.uniform1i(uniform.smooth_, smooth ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    const context = context2d(target);
    context.clearRect(0, 0, width, height);
    context.drawImage(this.#canvas, 0, 0);
  }

  #initialise() {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const { kind, source } of [
      { kind: gl.VERTEX_SHADER, source: VERTEX },
      { kind: gl.FRAGMENT_SHADER, source: FRAGMENT },
    ]) {
      const shader = gl.createShader(kind);
      if (!shader) return; // the context is lost again
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return;
    gl.useProgram(program);
    for (const name of UNIFORMS) this.#uniforms[name] = gl.getUniformLocation(program, name);
    gl.uniform1i(this.#uniforms.cells, 0);
    gl.uniform1i(this.#uniforms.colours, 1);
    gl.uniform1i(this.#uniforms.strip, this.#strip);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.#matrices = new WeakMap();
    this.#tables = new WeakMap();
    this.#program = program;
  }

  get #strip() {
    return Math.min(STRIP, this.#gl.getParameter(this.#gl.MAX_TEXTURE_SIZE));
  }

  /**
   * @param {Matrix} matrix
   * @returns {Uploaded}
   */
  #upload(matrix) {
    const cached = this.#matrices.get(matrix);
    if (cached) return cached;
    const gl = this.#gl;
    const strip = this.#strip;
    const pyramid = createPyramid(matrix);
    const { rows, levels } = pyramid;
    /** @type {number[]} */
    const starts = [];
    let columns = 0; // of all levels
    for (const level of levels) {
      starts.push(columns);
      columns += level.columns;
    }
    const texture = this.#texture(gl.NEAREST);
    const strips = Math.ceil(columns / strip);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R8, Math.min(strip, columns), strips * rows);
    levels.forEach((level, i) => {
      gl.pixelStorei(gl.UNPACK_ROW_LENGTH, level.columns);
      for (let done = 0; done < level.columns;) {
        const column = starts[i] + done;
        const count = Math.min(level.columns - done, strip - (column % strip));
        const [x, y] = [column % strip, Math.floor(column / strip) * rows];
        gl.texSubImage2D(gl.TEXTURE_2D, 0, x, y, count, rows, gl.RED, gl.UNSIGNED_BYTE, level.bytes, done);
        done += count;
      }
      gl.pixelStorei(gl.UNPACK_ROW_LENGTH, 0);
    });
    // Without the bytes, which are in the texture now.
    const uploaded = {
      texture,
      starts,
      pyramid: { ...pyramid, levels: levels.map((one) => ({ columns: one.columns })) },
    };
    this.#matrices.set(matrix, uploaded);
    this.#textures.register(matrix, { texture, program: this.#program });
    return uploaded;
  }

  /**
   * @param {Table} colours
   * @returns {WebGLTexture}
   */
  #table(colours) {
    const cached = this.#tables.get(colours);
    if (cached) return cached;
    const gl = this.#gl;
    const texture = this.#texture(gl.LINEAR);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colours);
    this.#tables.set(colours, texture);
    return texture;
  }

  /** @param {number} filter  gl.NEAREST or gl.LINEAR */
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
