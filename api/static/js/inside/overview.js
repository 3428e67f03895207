// All of the network at once, from the sound to the answer. Pointing at a part lights up what feeds it.

import { h, s } from "../dom.js";
import { focus } from "../focus.js";
import { className, percent } from "../format.js";
import { chain, groupName } from "./graph.js";
import { drawLinks, linksOf } from "./links.js";
import { Picture } from "./picture.js";
import { look } from "./scale.js";
import { sentence, size, spoken } from "./words.js";

const CLASSES = 4; // in the answer
const COLUMN = 88; // px: where there is less for a column, the groups become rows
const HINT = "Point at a part to see what feeds it, click it to look into it.";
const KEY = " Green arcs are shortcuts around a block, dashed where they change the shape.";

/** `onOpen(id)` is called for a part that was chosen. Returns {element, repaint(), mark(id), focus(id), ids, close()}. */
export function overview(net, result, onOpen) {
  const { nodes, groups, axes } = net;
  const elements = new Map(); // id -> what stands for it
  const pictures = new Map();
  const ids = [...nodes.values()].filter(({ matrix }) => matrix).map(({ id }) => id);
  const links = linksOf(nodes);
  let paths = [];

  const hint = HINT + ([...nodes.values()].some(({ shortcut }) => shortcut) ? KEY : "");
  const caption = h("p", { class: "caption", text: hint });
  const svg = s("svg", { class: "links", "aria-hidden": "true" });
  const flow = h("div", { class: "groups" }, groups.map(group), svg);
  const element = h("div", { class: "overview" }, flow, caption);
  flow.style.setProperty("--columns", groups.length);
  flow.style.setProperty("--rows", Math.max(...groups.map((one) => one.length)));
  flow.style.setProperty("--aspect", Math.min(Math.max(axes.frames / axes.mels, 1.3), 2.4));
  flow.toggleAttribute("data-pyramid", net.pooled.length > 1);
  roving(ids[0]);

  function group(members) {
    const [first] = members;
    const name = TITLES[first.kind] ?? groupName(members);
    const shape = first.shape.length && first.kind !== "cam" ? members.at(-1).shape.join(" × ") : null;
    return h(
      "div",
      { class: "group", role: "group", "aria-label": name, data: { part: first.kind } },
      h(
        "p",
        { class: "name" },
        h("b", { text: name }),
        shape ? h("span", { text: shape, title: "channels × rows × columns" }) : null,
      ),
      h("div", { class: "members" }, members.map(member)),
    );
  }

  function member(node) {
    const made = node.kind === "answer" ? answer() : node.kind === "pool" ? pool(node) : part(node);
    elements.set(node.id, made);
    made.dataset.id = node.id;
    return made;
  }

  function part(node) {
    const picture = node.matrix ? new Picture({ axes }) : null;
    if (picture) pictures.set(node.id, picture);
    const block = node.id.split(".")[1];
    return h(
      "button",
      {
        type: "button",
        class: "node",
        tabindex: -1,
        disabled: !node.matrix,
        "aria-label": `${spoken(node)}, ${node.kind === "cam" ? "class activation" : size(node.shape)}`,
        "aria-expanded": node.matrix ? "false" : null,
      },
      picture?.element ?? h("span", { class: "picture none", text: "no map" }),
      block ? h("span", { class: "tag", text: block.replace("block", ""), "aria-hidden": "true" }) : null,
      node.kind === "cam" ? h("span", { class: "under", text: node.title }) : null,
    );
  }

  function pool(node) {
    const pyramid = node.inputs.length > 1;
    return h(
      "div",
      { class: "node pool" },
      h("span", { text: pyramid ? "pyramid and means" : "mean of each channel" }),
    );
  }

  function answer() {
    return h(
      "ol",
      { class: "node answer" },
      result.predictions.slice(0, CLASSES).map(({ class: name, confidence }) => {
        const bar = h("i", { "aria-hidden": "true" });
        bar.style.transform = `scaleX(${confidence})`;
        return h(
          "li",
          {},
          h("span", { text: className(name) }),
          h("b", { class: "number", text: percent(confidence) }),
          bar,
        );
      }),
    );
  }

  function light(id) {
    const lit = id ? chain(nodes, id) : null;
    flow.toggleAttribute("data-lit", Boolean(id));
    for (const [one, made] of elements) made.classList.toggle("lit", lit?.has(one) ?? false);
    for (const path of paths) path.classList.toggle("lit", Boolean(lit?.has(path.link.to) && lit.has(path.link.from)));
    caption.replaceChildren(
      ...(id ? [h("b", { text: title(nodes.get(id)) }), ` ${sentence(nodes.get(id), net)}`] : [hint]),
    );
  }

  function lay() {
    const width = flow.clientWidth;
    if (!width) return;
    flow.toggleAttribute("data-rows", width / groups.length < COLUMN);
    paths = drawLinks(svg, flow, links, (id) => elements.get(id).querySelector(".picture") ?? elements.get(id));
  }

  function repaint() {
    for (const [id, picture] of pictures) picture.show(look(nodes.get(id), net));
  }

  function roving(id) {
    for (const one of ids) elements.get(one).tabIndex = one === id ? 0 : -1;
  }

  const idOf = (event) => event.target.closest?.(".node")?.dataset.id ?? null;
  flow.addEventListener("pointerover", (event) => light(idOf(event)));
  flow.addEventListener("pointerleave", () => light(null));
  flow.addEventListener("focusin", (event) => {
    const id = idOf(event);
    if (id) roving(id);
    if (event.target.matches(":focus-visible")) light(id);
  });
  flow.addEventListener("focusout", () => light(null));
  flow.addEventListener("click", (event) => {
    const id = idOf(event);
    if (ids.includes(id)) onOpen(id);
  });

  // What a cell of an opened map can hear, also here: the spectrogram itself may be out of sight.
  const ear = h("div", { class: "ear", hidden: true });
  pictures.get("input")?.element.append(ear);
  const hear = () => {
    const { region } = focus;
    ear.hidden = !region;
    if (!region) return;
    const share = (time) => `${(100 * (time - axes.start)) / axes.seconds}%`;
    Object.assign(ear.style, {
      left: share(region.start),
      width: share(region.end - region.start + axes.start),
      bottom: `${100 * region.low}%`,
      height: `${100 * (region.high - region.low)}%`,
    });
  };
  focus.addEventListener("change", hear);

  const sized = new ResizeObserver(lay);
  sized.observe(flow);
  repaint();

  return {
    element,
    ids,
    repaint,
    /** Mark the part that is open, or none. */
    mark(id) {
      for (const one of ids) elements.get(one).setAttribute("aria-expanded", String(one === id));
      if (id) roving(id);
    },
    focus: (id) => elements.get(id).focus(),
    close() {
      sized.disconnect();
      focus.removeEventListener("change", hear);
      for (const picture of pictures.values()) picture.close();
    },
  };
}

const TITLES = { input: "Spectrogram", cam: "Pooling", pool: "Pooling", answer: "Answer" };

/** How a part is called in a sentence of its own. */
function title(node) {
  return `${node.id.includes(".") || node.kind === "stage" ? node.id : node.title[0].toUpperCase() + node.title.slice(1)}:`;
}
