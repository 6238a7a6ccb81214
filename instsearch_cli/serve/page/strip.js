// The pictures that are asked with, side by side: one on the stage, the others a press away.

function goTo(i) {
  state.current = i;
  state.selected = null;
  state.against = picture().against && !picture().boxes.length;
  keepForReload();
  showState();
}

/** No longer ask with a picture, or with a mark. */
function removePicture(i) {
  change(() => {
    state.pictures.splice(i, 1);
    state.current = clamp(state.current > i ? state.current - 1 : state.current, 0, Math.max(state.pictures.length - 1, 0));
    state.selected = null;
  });
}

const thumbs = new Map(); // picture's key -> its img, which stays

const signOf = ({ boxes, against }) => (boxes.length ? boxes.every((box) => box.against) : against);

function stripItem(one, i) {
  const not = signOf(one);
  const img = thumbs.get(one.key) ?? make("img", { alt: "", width: 64, height: 64 });
  thumbs.set(one.key, img);
  showPicture(img, picturePath(one.ref, 320), false);
  const overlay = shape("svg", { "aria-hidden": "true" });
  drawBoxes(overlay, one.size, one.boxes.map(rounded), (i) => one.boxes[i].against);
  const frame = make("span", { class: "view" }, img, overlay);
  frame.style.setProperty("--shape", aspect(one.size));
  const words = `${one.name}, ${not ? "not this" : "the object"}${one.mark ? ", marked by you" : ""}`;
  const badge = make("i", { class: `badge ${not ? "not" : ""}` }, icon(not ? "wrong" : "right"));
  const show = make("button", { "aria-label": words, title: one.name, "aria-pressed": String(i === state.current), onclick: () => goTo(i) }, frame, badge);
  const drop = make("button", { class: "tool small", "aria-label": `Do not ask with ${one.name}`, title: "Remove", onclick: () => removePicture(i) }, icon("wrong"));
  return make("li", {}, show, state.pictures.length > 1 ? drop : null);
}

function showStrip() {
  const add = make("li", {}, make("button", { class: "add", title: "Another picture of the object", onclick: () => openBrowser("view") }, icon("plus"), "Add a view"));
  const buttons = () => [...$("strip").querySelectorAll("button")];
  const held = buttons().indexOf(document.activeElement);
  $("strip").replaceChildren(...state.pictures.map(stripItem), add);
  if (held >= 0) buttons()[Math.min(held, buttons().length - 1)].focus({ preventScroll: true });
  for (const key of thumbs.keys()) if (!state.pictures.some((one) => one.key === key)) thumbs.delete(key);
  $("strip-part").hidden = Boolean(state.info.task);
}

/** Show everything that is asked. */
function showState() {
  const any = state.pictures.length > 0;
  const task = Boolean(state.info.task);
  document.body.classList.toggle("asking", any);
  $("start").hidden = any || task;
  $("work").hidden = !any;
  $("new").hidden = !any || task;
  $("undo").disabled = !past.length;
  $("redo").disabled = !future.length;
  if (!any) {
    if (!task && !$("browse-dialog").open) $("browse-place").append(browser.element);
    return;
  }
  showStage();
  listBoxes();
  showSign();
  showStrip();
  showMarks();
  showUse();
}
