// The stage: how the picture lies on it, zoom and pan.

const view = { scale: 1, x: 0, y: 0, fitted: true }; // stage pixel = scale * image pixel + (x, y)
const MAX_SCALE = 12;

function stageSize() {
  const { clientWidth, clientHeight } = $("stage");
  return [Math.max(clientWidth, 1), Math.max(clientHeight, 1)];
}

function fitScale() {
  const [w, h] = picture().size;
  const [width, height] = stageSize();
  return Math.min(width / w, height / h);
}

/** The whole picture, in the middle. */
function fit() {
  if (!picture()) return;
  view.scale = fitScale();
  view.fitted = true;
  place();
}

/** Keep the picture on the stage, and draw it and its boxes there. */
function place() {
  if (!picture()) return;
  const [w, h] = picture().size;
  const [width, height] = stageSize();
  const least = fitScale();
  view.scale = clamp(view.scale, least, Math.max(MAX_SCALE, 2 * least));
  view.fitted = view.scale <= least * 1.001;
  const along = (offset, room, length) => (length <= room ? (room - length) / 2 : clamp(offset, room - length, 0));
  view.x = along(view.x, width, w * view.scale);
  view.y = along(view.y, height, h * view.scale);
  const { style } = $("picture");
  style.width = `${w * view.scale}px`;
  style.height = `${h * view.scale}px`;
  style.transform = `translate(${view.x}px, ${view.y}px)`;
  $("stage").classList.toggle("zoomed", !view.fitted);
  $("zoom-out").disabled = view.fitted;
  $("zoom-fit").disabled = view.fitted;
  showBoxes();
  sharpen();
}

/** Zoom by a factor about a point of the stage, its middle unless said. */
function zoom(factor, [px, py] = stageSize().map((n) => n / 2)) {
  const least = fitScale();
  const scale = clamp(view.scale * factor, least, Math.max(MAX_SCALE, 2 * least));
  const by = scale / view.scale;
  view.x = px - (px - view.x) * by;
  view.y = py - (py - view.y) * by;
  view.scale = scale;
  place();
}

function pan(dx, dy) {
  view.x += dx;
  view.y += dy;
  place();
}

/** A point of the screen on the stage, and a point of the stage in the picture. */
function onStage({ clientX, clientY }) {
  const { left, top } = $("stage").getBoundingClientRect();
  return [clientX - left, clientY - top];
}

const inPicture = ([x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];

/** More pixels, once a large picture is looked at closely. */
function sharpen() {
  const { ref, size } = picture();
  const shown = view.scale * Math.max(...size) * devicePixelRatio;
  const side = shown > 2048 && Math.max(...size) > 2048 ? 4096 : 2048;
  const path = picturePath(ref, side);
  if ($("picture").dataset.path !== path) loadStage(path);
}

async function loadStage(path) {
  const img = $("picture");
  const other = img.dataset.of !== String(picture().key);
  img.dataset.of = picture().key;
  img.alt = "";
  if (other) img.removeAttribute("src");
  const wait = setTimeout(() => ($("stage-wait").hidden = false), 300);
  const shown = await showPicture(img, path);
  clearTimeout(wait);
  if (img.dataset.path === path) $("stage-wait").hidden = true;
  if (!shown && img.classList.contains("missing") && img.dataset.path === path) {
    img.dataset.path = "";
    if (await sendAgain().catch(() => false)) sharpen();
    else notice("problem", `${picture().name} cannot be shown: it is not here any more. Open it again.`);
  }
}

/** Show the current picture on the stage. */
function showStage() {
  const one = picture();
  if (!one) return;
  $("stage").style.setProperty("--shape", clamp(one.size[0] / one.size[1], 0.4, 3));
  $("stage").setAttribute("aria-label", `${one.name}, ${one.size[0]} by ${one.size[1]} pixels`);
  if (view.of !== one.key) {
    view.of = one.key;
    fit();
  } else place();
}

function startView() {
  let scrolled = -1000;
  on(document, "scroll", () => (scrolled = performance.now()), { passive: true });
  new ResizeObserver(() => picture() && (view.fitted ? fit() : place())).observe($("stage"));
  on($("stage"), 
    "wheel",
    (event) => {
      const scrolling = performance.now() - scrolled < 250 || (event.deltaY > 0 && view.fitted);
      if (!picture() || (scrolling && !event.ctrlKey)) return; // the page scrolls on
      event.preventDefault();
      const speed = event.ctrlKey ? 0.01 : event.deltaMode ? 0.05 : 0.0018;
      zoom(Math.exp(-event.deltaY * speed), onStage(event));
    },
    { passive: false },
  );
  on($("zoom-in"), "click", () => zoom(1.5));
  on($("zoom-out"), "click", () => zoom(1 / 1.5));
  on($("zoom-fit"), "click", fit);
  on($("hand"), "click", () => hand($("hand").getAttribute("aria-pressed") !== "true"));
}

function hand(on) {
  $("hand").setAttribute("aria-pressed", String(on));
  $("stage").classList.toggle("grab", on);
}
