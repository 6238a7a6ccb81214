// Mouse, finger and pen on the stage: draw, move and resize boxes, pan, pinch.

const fingers = new Map(); // pointer id -> its latest event
let drag = null; // {mode, before, from, box, start, ...} of the pointer that is down
let spaceDown = false;

const LEAST = 4; // pixels of the screen that a box has at least
const WORTH = 32; // and for it to be asked while it is drawn

/** What lies under a point of the stage: a handle of the chosen box, a box, or the picture. */
function under([px, py], touch) {
  const reach = touch ? 22 : 10;
  const chosen = selectedBox();
  if (chosen) {
    const [x, y, w, h] = placed(chosen);
    let best = null;
    for (const [name, [fx, fy]] of Object.entries(HANDLES)) {
      // handles of small boxes are taken from outside, so that the box can still be moved
      const hx = x + fx * w + (fx - 0.5) * (w < 4 * reach ? reach : 0);
      const hy = y + fy * h + (fy - 0.5) * (h < 4 * reach ? reach : 0);
      const far = Math.max(Math.abs(px - hx), Math.abs(py - hy));
      const corner = name.length === 2 ? 0.5 : 0; // corners first
      if (far <= reach && (!best || far - corner < best.far)) best = { far: far - corner, name };
    }
    if (best) return { mode: "resize", box: chosen, handle: best.name };
  }
  const inside = picture().boxes.filter((box) => {
    const [x, y, w, h] = placed(box);
    return px >= x && px <= x + w && py >= y && py <= y + h;
  });
  inside.sort((a, b) => (b === chosen) - (a === chosen) || a.w * a.h - b.w * b.h);
  return inside.length ? { mode: "move", box: inside[0] } : { mode: "draw" };
}

function pointerDown(event) {
  if (!picture() || (event.pointerType === "mouse" && event.button > 1)) return;
  fingers.set(event.pointerId, event);
  $("stage").setPointerCapture(event.pointerId);
  if (fingers.size === 2) return beginPinch();
  if (fingers.size > 2 || drag) return;
  event.preventDefault();
  const at = onStage(event);
  const panning = event.button === 1 || spaceDown || $("stage").classList.contains("grab");
  const what = panning ? { mode: "pan" } : event.shiftKey ? { mode: "draw" } : under(at, event.pointerType === "touch");
  drag = { ...what, pointer: event.pointerId, before: snapshot(), at, last: at, from: inPicture(at) };
  if (what.box) {
    drag.start = { ...what.box };
    select(what.box.id);
    shapes.get(what.box.id).focus({ preventScroll: true });
  }
  $("stage").classList.toggle("dragging", true);
}

function pointerMove(event) {
  if (!picture()) return;
  if (!fingers.has(event.pointerId)) return hover(event);
  fingers.set(event.pointerId, event);
  if (drag?.mode === "pinch") return pinch();
  if (drag?.pointer !== event.pointerId) return;
  const at = onStage(event);
  if (drag.mode === "pan") {
    pan(at[0] - drag.last[0], at[1] - drag.last[1]);
    drag.last = at;
    return;
  }
  const [w, h] = picture().size;
  const [x, y] = inPicture(at);
  if (drag.mode === "draw") drawTo(clamp(x, 0, w), clamp(y, 0, h), at);
  else if (drag.mode === "move") {
    drag.box.x = clamp(drag.start.x + x - drag.from[0], 0, Math.max(w - drag.start.w, 0));
    drag.box.y = clamp(drag.start.y + y - drag.from[1], 0, Math.max(h - drag.start.h, 0));
  } else resizeTo(x - drag.from[0], y - drag.from[1], w, h);
  if (!drag.box) return;
  showBoxes();
  listBoxes();
  if (Math.min(drag.box.w, drag.box.h) * view.scale >= WORTH) ask(true);
}

function drawTo(x, y, at) {
  const far = Math.min(Math.abs(at[0] - drag.at[0]), Math.abs(at[1] - drag.at[1]));
  if (!drag.box) {
    if (far < LEAST) return;
    drag.box = newBox([0, 0, 1, 1], nextSign());
    picture().boxes.push(drag.box);
    Object.assign(state, { selected: drag.box.id, against: false });
    showSign();
  }
  const [w, h] = picture().size;
  const [x0, y0] = [clamp(drag.from[0], 0, w), clamp(drag.from[1], 0, h)];
  Object.assign(drag.box, between([x, x0], [y, y0], w, h));
}

/** The box between two edges each way, one pixel at least, and within the picture. */
function between(xs, ys, w, h) {
  const [x0, y0] = [Math.min(...xs, w - 1), Math.min(...ys, h - 1)];
  return { x: x0, y: y0, w: Math.max(Math.max(...xs) - x0, 1), h: Math.max(Math.max(...ys) - y0, 1) };
}

/** The edges that the handle has, moved; past the other edge the box turns over. */
function resizeTo(dx, dy, w, h) {
  const { x, y, w: bw, h: bh } = drag.start;
  const [fx, fy] = HANDLES[drag.handle];
  const edges = [x + (fx === 0 ? dx : 0), y + (fy === 0 ? dy : 0), x + bw + (fx === 1 ? dx : 0), y + bh + (fy === 1 ? dy : 0)];
  const within = (i, most) => [edges[i], edges[i + 2]].map((n) => clamp(n, 0, most));
  Object.assign(drag.box, between(within(0, w), within(1, h), w, h));
}

function pointerUp(event) {
  if (!fingers.delete(event.pointerId)) return;
  if (drag?.mode === "pinch") {
    if (!fingers.size) drag = null;
    return;
  }
  if (drag?.pointer !== event.pointerId) return;
  const { mode, box, before, at } = drag;
  drag = null;
  $("stage").classList.remove("dragging");
  if (mode === "pan") return;
  if (box && before !== snapshot()) {
    remember(before);
    changed();
    shapes.get(box.id)?.focus({ preventScroll: true });
  } else if (!box) {
    select(null);
    $("stage").focus({ preventScroll: true });
  }
  hover(event);
}

/** Leave a drag undone, as a second finger or a lost pointer ends it. */
function dropDrag() {
  if (!drag) return;
  const { before } = drag;
  drag = null;
  $("stage").classList.remove("dragging");
  if (before && before !== snapshot()) {
    Object.assign(state, JSON.parse(before), { selected: null });
    changed();
  }
}

function beginPinch() {
  dropDrag();
  drag = { mode: "pinch", ...spread() };
}

/** The middle of two fingers on the stage, and how far apart they are. */
function spread() {
  const [a, b] = [...fingers.values()].map(onStage);
  return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], apart: Math.hypot(a[0] - b[0], a[1] - b[1]) };
}

function pinch() {
  if (fingers.size !== 2) return;
  const { middle, apart } = spread();
  zoom(apart / Math.max(drag.apart, 1), middle);
  pan(middle[0] - drag.middle[0], middle[1] - drag.middle[1]);
  Object.assign(drag, { middle, apart });
}

function hover(event) {
  if (event.pointerType !== "mouse" || !picture()) return;
  const { mode, handle } = under(onStage(event), false);
  const way = { n: "ns", s: "ns", e: "ew", w: "ew", nw: "nwse", se: "nwse", ne: "nesw", sw: "nesw" }[handle];
  const grab = spaceDown || $("stage").classList.contains("grab");
  $("stage").style.cursor = grab ? "grab" : mode === "resize" ? `${way}-resize` : mode === "move" ? "move" : "crosshair";
}

function startPointer() {
  const stage = $("stage");
  on(stage, "pointerdown", pointerDown);
  on(stage, "pointermove", pointerMove);
  on(stage, "pointerup", pointerUp);
  on(stage, "pointercancel", (event) => {
    fingers.delete(event.pointerId);
    dropDrag();
  });
  on(stage, "auxclick", (event) => event.preventDefault());
  on(document, "keydown", (event) => {
    if (event.key === " " && (event.target === stage || stage.contains(event.target) || event.target === document.body)) {
      spaceDown = true;
      event.preventDefault();
    }
  });
  on(document, "keyup", (event) => event.key === " " && (spaceDown = false));
  on(stage, "keydown", (event) => {
    const way = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    if (!way || event.target !== stage || view.fitted) return;
    event.preventDefault();
    pan(...way);
  });
}
