// Boxes on the stage: drawn, chosen, moved and resized by keys, and listed in words.

const shapes = new Map(); // id -> its <g>
const HANDLES = { nw: [0, 0], n: [0.5, 0], ne: [1, 0], e: [1, 0.5], se: [1, 1], s: [0.5, 1], sw: [0, 1], w: [0, 0.5] };
const coarse = matchMedia("(pointer: coarse)");

const kindOf = (box) => (box.against ? "not this" : "the object");
const numbers = (box) => rounded(box).map((value) => Math.round(value)).join(", ");

/** Where a box lies on the stage: x, y, w, h. */
const placed = ({ x, y, w, h }) => [x * view.scale + view.x, y * view.scale + view.y, w * view.scale, h * view.scale];

/** Draw the boxes of the picture where they lie now; elements stay, so that focus does. */
function showBoxes() {
  const overlay = $("overlay");
  const { boxes, size } = picture();
  for (const [id, group] of shapes) {
    if (boxes.some((box) => box.id === id)) continue;
    group.remove();
    shapes.delete(id);
  }
  const rect = ([x, y, width, height], more = {}) => shape("rect", { x, y, width, height, ...more });
  const whole = placed({ x: 0, y: 0, w: size[0], h: size[1] });
  $("light-places").replaceChildren(rect(whole), ...boxes.map((box) => rect(placed(box))));
  $("shade").replaceChildren(...(boxes.length ? [rect(whole, { mask: "url(#light-places)" })] : []));
  boxes.forEach((box, i) => showBox(box, i + 1));
}

function showBox(box, n) {
  let group = shapes.get(box.id);
  if (!group) {
    group = shape("g", { tabindex: 0, role: "group", "aria-roledescription": "box", "data-box": box.id });
    on(group, "focus", () => select(box.id));
    on(group, "keydown", (event) => boxKey(event, box.id));
    for (const kind of ["ring", "edge", "box"]) group.append(shape("rect", { class: kind }));
    group.append(shape("g", { class: "handles" }));
    shapes.set(box.id, group);
    $("overlay").append(group);
  }
  const chosen = box.id === state.selected;
  group.setAttribute("class", `${box.against ? "against" : "object"}${chosen ? " chosen" : ""}`);
  const keys = "Arrow keys move it, with Alt they resize it, Delete removes it.";
  group.setAttribute("aria-label", `Box ${n}, ${kindOf(box)}, at ${numbers(box)}. ${keys}`);
  const [x, y, width, height] = placed(box);
  for (const rect of group.querySelectorAll(":scope > rect")) {
    const grow = rect.classList.contains("ring") ? 5 : 0;
    for (const [k, v] of Object.entries({ x: x - grow, y: y - grow, width: width + 2 * grow, height: height + 2 * grow })) rect.setAttribute(k, v);
  }
  const handles = group.querySelector(".handles");
  handles.replaceChildren();
  const r = coarse.matches ? 7 : 5;
  if (chosen) for (const [fx, fy] of Object.values(HANDLES)) handles.append(shape("rect", { x: x + fx * width - r, y: y + fy * height - r, width: 2 * r, height: 2 * r, rx: 2 }));
}

function select(id) {
  if (state.selected === id) return;
  state.selected = id;
  state.against = false;
  showBoxes();
  listBoxes();
  showSign();
}

function removeBox(id) {
  const boxes = picture().boxes;
  const at = boxes.findIndex((box) => box.id === id);
  change(() => {
    boxes.splice(at, 1);
    state.selected = null;
    state.against = false;
  });
  const next = boxes[Math.min(at, boxes.length - 1)];
  (next ? shapes.get(next.id) : $("stage")).focus({ preventScroll: true });
}

/** What a new box is: "Not this" holds for the next one only. */
const nextSign = () => !selectedBox() && state.against;

/** A box in the middle, for those who draw by keys. */
function addBox() {
  const [width, height] = stageSize();
  const [x0, y0] = inPicture([Math.max(view.x, 0), Math.max(view.y, 0)]);
  const size = picture().size;
  const w = Math.min(size[0], width / view.scale);
  const h = Math.min(size[1], height / view.scale);
  const box = newBox([x0 + w / 4, y0 + h / 4, w / 2, h / 2], nextSign());
  change(() => {
    picture().boxes.push(box);
    state.selected = box.id;
  });
  shapes.get(box.id).focus({ preventScroll: true });
}

let nudged = { at: 0, id: null };

function boxKey(event, id) {
  const box = picture().boxes.find((one) => one.id === id);
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (way) {
    event.preventDefault();
    event.stopPropagation();
    if (nudged.id !== id || event.timeStamp - nudged.at > 900) remember();
    nudged = { id, at: event.timeStamp };
    const [dx, dy] = way.map((n) => n * (event.shiftKey ? 10 : 1));
    const [w, h] = picture().size;
    if (event.altKey || event.ctrlKey || event.metaKey) {
      box.w = clamp(box.w + dx, 1, w - box.x);
      box.h = clamp(box.h + dy, 1, h - box.y);
    } else {
      box.x = clamp(box.x + dx, 0, w - box.w);
      box.y = clamp(box.y + dy, 0, h - box.h);
    }
    changed();
  } else if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    removeBox(id);
  } else if (event.key === "Escape") $("stage").focus();
}

/** What the chosen box is, or else the next. */
function setSign(against) {
  if (state.info.task) return;
  state.against = against;
  const box = selectedBox();
  if (box && box.against !== against) change(() => (box.against = against));
  else if (!picture().boxes.length && picture().mark) change(() => (picture().against = against));
  showSign();
}

const signNow = () => selectedBox()?.against ?? state.against;

function showSign() {
  $("sign-object").setAttribute("aria-pressed", String(!signNow()));
  $("sign-not").setAttribute("aria-pressed", String(signNow()));
}

/** The boxes in words below the picture, each with what can be done to it; kept in place while one is dragged. */
function listBoxes() {
  const { boxes, against } = picture();
  $("boxes").replaceChildren(
    ...boxes.map((box, i) => {
      const toggle = make("button", { class: "what", "aria-pressed": String(box.id === state.selected), onclick: () => (select(box.id), shapes.get(box.id).focus({ preventScroll: true })) },
        make("i", { class: box.against ? "dot not" : "dot" }), make("span", {}, capital(kindOf(box))), make("span", { class: "where" }, numbers(box)));
      const drop = make("button", { class: "tool", "aria-label": `Remove box ${i + 1}`, title: "Remove (Delete)", onclick: () => removeBox(box.id) }, icon("wrong"));
      return make("li", {}, toggle, drop);
    }),
  );
  const first = against ? "This whole picture is not the object." : "The whole picture is asked for. Drag a box around the object to be exact.";
  const task = "Drag a box around the object.";
  const touch = coarse.matches ? "Two fingers zoom." : "Press B for a box by keys; the wheel zooms.";
  $("hint").textContent = boxes.length ? "" : `${state.info.task ? task : first} ${touch}`;
}

function startBoxes() {
  on($("sign-object"), "click", () => setSign(false));
  on($("sign-not"), "click", () => setSign(true));
  on($("undo"), "click", () => step(past, future));
  on($("redo"), "click", () => step(future, past));
}
