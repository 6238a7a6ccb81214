// A hit, large: its boxes, its place, beside the query with what agrees and what does not.

const light = { key: null, flight: null };
const lit = () => cards.get(light.key)?.hit;

function openLight(key) {
  light.key = key;
  if (!$("light").open) $("light").showModal();
  showLight();
}

function showLight() {
  const hit = lit();
  if (!hit) return;
  const { image, path, rank, score, size, boxes, box } = hit;
  $("light-swap").setAttribute("aria-pressed", "false");
  $("light-rank").textContent = rank;
  $("light-score").textContent = scoreText(score);
  const cut = image.lastIndexOf("/") + 1;
  $("light-name").textContent = image.slice(cut);
  $("light-where").textContent = path;
  const shown = boxes.length ? boxes : box ? [box] : [];
  showLarge(picturePath(hitRef(hit), 2048), size, shown, image);
  showTurns();
  const { root } = hit;
  const deeds = [
    ["box", box ? "Look for what is in its box" : "Look for this picture", () => leave(() => askHit(hit, "new"))],
    box && ["tune", "Correct its box", () => leave(() => correct(hit))],
    box && ["grid", "Another like this whole picture", () => leave(() => take({ ...hitRef(hit), name: image, size }, "new"))],
    ["folder", "Show its folder", () => leave(() => openFolder(hit))],
    ["copy", "Copy its path", (event) => copyText(path, "Path").then(() => done(event.currentTarget ?? event.target.closest("button"), "Copied"))],
    ["open", "Open the file", () => openFile(hit)],
    ["save", "Save the file", () => download(`${picturePath(hitRef(hit), 0).split("?")[0]}/file`, {}, image.slice(cut)).catch(complain)],
  ];
  $("light-where").title = root;
  $("light-deeds").replaceChildren(...deeds.filter(Boolean).map(([sign, text, onclick]) => make("button", { class: "deed", onclick }, icon(sign), make("span", {}, text))));
  showLightMarks();
  compare(hit);
}

/** Whether there is a hit before and after; focus stays in the dialog where its button goes out. */
function showTurns() {
  const { hits } = state.answer;
  const at = hits.indexOf(lit());
  $("light-back").disabled = at <= 0;
  $("light-on").disabled = at >= hits.length - 1;
  if (!$("light").contains(document.activeElement) || document.activeElement.disabled) $("light").focus();
}

async function showLarge(path, size, boxes, alt) {
  const img = $("light-picture");
  $("light-view").style.setProperty("--shape", size ? size[0] / size[1] : 1);
  img.alt = alt;
  $("light-boxes").replaceChildren();
  if (img.dataset.path !== path) img.removeAttribute("src");
  if (path.startsWith("data:")) {
    img.dataset.path = path;
    img.src = path;
  } else await showPicture(img, path);
  if (img.dataset.path === path) drawBoxes($("light-boxes"), size, boxes);
}

/** The picture of query and hit aligned, where the pipeline's rerankers can tell. */
async function compare(hit) {
  light.flight?.abort();
  light.flight = new AbortController();
  const { signal } = light.flight;
  $("light-aligned").hidden = true;
  $("light-beside").removeAttribute("src");
  $("light-text").textContent = "";
  try {
    const own = same(state.asked.views[hit.view ?? 0].picture, hitRef(hit)); // a mark is no news beside itself
    const json = { question: state.asked, view: own ? 0 : (hit.view ?? 0), hit: hitRef(hit) };
    const { picture: beside, text } = await callJson("/v1/aligned", { json, signal });
    if (signal.aborted || (!beside && !text)) return;
    if (beside) $("light-beside").src = beside;
    $("light-swap").hidden = !beside;
    $("light-text").textContent = text;
    $("light-aligned").hidden = false;
  } catch (error) {
    if (error.name === "AbortError" || ![0, 401].includes(error.status)) return; // nothing to compare by
    complain(error);
  }
}

/** The comparison large, or the photograph again. */
function swap() {
  const on = $("light-swap").getAttribute("aria-pressed") !== "true";
  const hit = lit();
  $("light-swap").setAttribute("aria-pressed", String(on));
  const img = $("light-beside");
  if (on) showLarge(img.src, [img.naturalWidth, img.naturalHeight], [], img.alt);
  else showLarge(picturePath(hitRef(hit), 2048), hit.size, hit.boxes, hit.image);
}

function showLightMarks() {
  const card = cards.get(light.key);
  if (!card) return;
  for (const sign of ["right", "wrong"]) $(`light-${sign}`).setAttribute("aria-pressed", card[sign].getAttribute("aria-pressed"));
}

/** A new answer while a hit is large: it stays if it is still a hit. */
function refreshLight() {
  if (!$("light").open || !state.answer?.final) return;
  if (!lit()) $("light").close();
  else {
    showTurns();
    $("light-rank").textContent = lit().rank;
    $("light-score").textContent = scoreText(lit().score);
  }
}

function leave(deed) {
  light.key = null; // so that focus goes where the deed puts it
  $("light").close();
  deed();
}

function askHit(hit, as) {
  const { image: name, size, box } = hit;
  take({ ...hitRef(hit), name, size, boxes: box ? [box] : [] }, as);
}

/** The hit on the stage as a further view, its box there to be corrected. */
function correct(hit) {
  if (markedPlace(hit) < 0) mark(hit, false);
  goTo(markedPlace(hit));
  const [box] = picture().boxes;
  if (!box) return;
  select(box.id);
  shapes.get(box.id).focus();
  scrollTo({ top: 0 });
}

function openFolder(hit) {
  const { index } = hitRef(hit);
  browser.index = index;
  browser.which.value = index;
  openBrowser("new", hit.image.slice(0, hit.image.lastIndexOf("/") + 1));
}

/** The file itself in a tab of its own; what the browser cannot show is saved instead. */
async function openFile(hit) {
  const tab = open("", "_blank");
  try {
    const response = await call(`/v1/indexes/${hitRef(hit).index}/images/${hit.row}/file`);
    const blob = await response.blob();
    const address = URL.createObjectURL(blob);
    if (tab && /^image\/(jpeg|png|webp|gif|avif|bmp)/.test(blob.type)) tab.location.replace(address);
    else {
      tab?.close();
      make("a", { href: address, download: hit.image.slice(hit.image.lastIndexOf("/") + 1) }).click();
    }
    setTimeout(() => URL.revokeObjectURL(address), 600000);
  } catch (error) {
    tab?.close();
    complain(error);
  }
}

function goLight(by) {
  const { hits } = state.answer;
  const next = hits[hits.indexOf(lit()) + by];
  if (next) openLight(keyOf(next));
}

function startLight() {
  const dialog = $("light");
  on($("light-back"), "click", () => goLight(-1));
  on($("light-on"), "click", () => goLight(1));
  on($("light-right"), "click", () => mark(lit(), false));
  on($("light-wrong"), "click", () => mark(lit(), true));
  on($("light-swap"), "click", swap);
  on(dialog, "close", () => {
    light.flight?.abort();
    cards.get(light.key)?.open.focus({ preventScroll: true });
    light.key = null;
  });
  on(dialog, "keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !lit()) return;
    const deed = { ArrowLeft: () => goLight(-1), ArrowRight: () => goLight(1), r: () => mark(lit(), false), w: () => mark(lit(), true) }[event.key];
    if (!deed) return;
    event.preventDefault();
    deed();
  });
}
