// A picture to look for: opened, dropped, pasted, taken with the camera, or of the collection.

let getAs = "new"; // or "view": beside the pictures that are there

/** Ask with a picture, alone or as another view of the object. */
function take(picture, as = getAs) {
  const dialog = $("browse-dialog");
  forget("index");
  if (dialog.open) dialog.close();
  change(() => {
    const marks = as === "new" ? [] : state.pictures;
    state.pictures = [...marks, newPicture(picture)];
    state.current = state.pictures.length - 1;
    state.selected = null;
    state.against = false;
    if (as === "new") Object.assign(state, { least: null, floor: null, k: 40 });
  });
  fit();
  $("stage").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

async function send(file) {
  const { bytes } = state.info.limits;
  if (file.size > bytes) throw new Problem(413, `${file.name} is larger than the ${Math.round(bytes / 1e6)} MB that this service takes.`);
  const picture = await callJson(`/v1/pictures?name=${encodeURIComponent(file.name || "pasted.png")}`, { body: file, method: "POST" });
  files.set(picture.upload, file);
  return picture;
}

/** Ask with files: the first alone (or all as views), the others as further views; a session is opened. */
async function takeFiles(list, as = getAs) {
  const all = [...list];
  if (!all.length || state.info.task) return;
  forget("problem");
  busy(true);
  try {
    for (const [i, file] of all.entries()) {
      if (/\.json$/i.test(file.name)) await openSession(file);
      else take(await send(file), i ? "view" : as);
    }
  } catch (error) {
    complain(error, () => takeFiles(all, as));
  } finally {
    busy(false);
  }
}

/** Send the uploads of the question again, which the service has forgotten; says whether all could be. */
async function sendAgain() {
  const gone = new Set(state.pictures.map((one) => one.ref.upload).filter(Boolean));
  for (const upload of gone) {
    const file = files.get(upload);
    if (!file) return false;
    const { upload: id } = await send(file);
    for (const one of state.pictures) if (one.ref.upload === upload) one.ref.upload = id;
  }
  keepForReload();
  return gone.size > 0;
}

function busy(on) {
  document.body.classList.toggle("busy", on);
  if (on) say("One moment");
}

async function pasteButton() {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((one) => one.startsWith("image/"));
      if (type) return takeFiles([new File([await item.getType(type)], "pasted.png", { type })]);
    }
    notice("problem", "There is no picture on the clipboard. Copy one, then paste it here.");
  } catch {
    notice("problem", "This browser lets the page read the clipboard by its keys only: press Ctrl+V (or ⌘V).");
  }
}

function startGetting() {
  for (const button of document.querySelectorAll("[data-get]")) {
    const way = button.dataset.get;
    on(button, "click", () => (way === "paste" ? pasteButton() : $(way).click()));
  }
  for (const input of [$("file"), $("camera")]) {
    on(input, "change", () => {
      takeFiles(input.files);
      input.value = "";
    });
  }
  on(document, "paste", (event) => {
    const given = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
    if (!given.length || typing(event)) return;
    event.preventDefault();
    takeFiles(given.slice(0, 1));
  });
  startDropping();
}

function startDropping() {
  let depth = 0;
  const carries = (event) => event.dataTransfer?.types.includes("Files") && !state.info?.task;
  const show = (on) => {
    if (!on) depth = 0;
    $("dropping").hidden = !on || !state.pictures.length;
    $("drop").classList.toggle("over", on);
  };
  on(document, "dragenter", (event) => {
    if (!carries(event)) return;
    depth += 1;
    show(true);
  });
  on(document, "dragleave", (event) => {
    if (!carries(event)) return;
    depth -= 1;
    if (depth <= 0) show(false);
  });
  on(document, "dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    for (const place of $("dropping").children) place.classList.toggle("over", place === event.target);
  });
  on(document, "drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    show(false);
    takeFiles(event.dataTransfer.files, event.target.dataset?.drop ?? getAs);
  });
}
