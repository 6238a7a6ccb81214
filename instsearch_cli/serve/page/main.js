// Everything begins here.

function startKeys() {
  on(document, "keydown", () => document.body.classList.add("keys"), true);
  on(document, "pointerdown", () => document.body.classList.remove("keys"), true);
  on(document, "keydown", (event) => {
    if (document.querySelector("dialog[open]") || !picture()) return;
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key.toLowerCase() === "z" && !typing(event)) {
      event.preventDefault();
      if (event.shiftKey) step(future, past);
      else step(past, future);
    } else if (command && event.key.toLowerCase() === "y" && !typing(event)) {
      event.preventDefault();
      step(future, past);
    } else if (!command && !event.altKey && !typing(event)) {
      const deed = { b: addBox, n: () => setSign(!signNow()), "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit }[event.key];
      if (!deed) return;
      event.preventDefault();
      deed();
    }
  });
}

async function start() {
  try {
    state.info = await callJson("/v1/indexes");
  } catch (error) {
    complain(error, start);
    return;
  }
  if (!state.started) {
    state.started = true;
    startView();
    startPointer();
    startBoxes();
    startKeys();
  }
  if (state.info.task) return startBoxTask();
  if (!state.info.indexes.some((index) => !index.problem)) {
    for (const { name, problem } of state.info.indexes) notice(`index-${name}`, `${name}: ${problem}`);
    if (!state.info.indexes.length) notice("index", "There is no index to search: start the command with --index DIR.");
    return;
  }
  startGetting();
  startHits();
  startLight();
  startSaving();
  startChoices();
  startBrowsing();
  const n = state.info.indexes.reduce((sum, index) => sum + (index.problem ? 0 : index.images), 0);
  $("start-title").textContent = `Find an object in ${plural(n, "photograph")}`;
  restore();
  showChoices();
  showState();
  if (state.pictures.length) ask();
}

for (const element of document.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
start();
