// Asking: answers as they come, also while a box is dragged; a newer question ends the one before.

const LIVE = 90; // ms at least between questions of one drag
const PATIENCE = 800; // ms that a question of a drag may take before a newer one ends it
let flight = null; // {controller, began, answered} of the question that is out
let later = null;
let mostSeconds = 1; // what the last answer took, for the meter

/** Ask what is drawn now; `live`: while it is still being drawn; `again`: what is forgotten was sent again. */
function ask(live = false, again = false) {
  if (state.info.task) return;
  clearTimeout(later);
  const now = performance.now();
  if (live && flight) {
    const wait = flight.answered ? LIVE - (now - flight.began) : PATIENCE - (now - flight.began);
    if (wait > 0) {
      later = setTimeout(ask, Math.min(wait, LIVE), true);
      return;
    }
  }
  const asked = question();
  const is = (other) => asked && JSON.stringify(asked) === JSON.stringify(other);
  if (!live && flight && !flight.live && is(flight.asked)) return; // already on its way
  flight?.controller.abort();
  flight = null;
  if (state.answer?.final && is(state.asked)) {
    working(false);
    showAnswer();
    return;
  }
  if (asked) sendQuestion(asked, live, again);
  else showNothing();
}

function showNothing() {
  state.answer = state.asked = null;
  working(false);
  showAnswer();
}

async function sendQuestion(asked, live = false, again = false) {
  const mine = { controller: new AbortController(), began: performance.now(), answered: false, asked, live };
  flight = mine;
  working(true);
  const { signal } = mine.controller;
  try {
    const response = await call(live ? "/v1/query?steps=1" : "/v1/query", { json: asked, accept: "application/x-ndjson", signal });
    let final = false;
    for await (const answer of jsonLines(response, signal)) {
      if (flight !== mine) return;
      if (answer.problem) throw new Problem(answer.problem.status, answer.problem.detail);
      mine.answered = true;
      final = answer.final;
      if (!final) answer.hits.length = Math.min(answer.hits.length, asked.k);
      answer.full = answer.hits.length >= asked.k; // there may be more
      answer.hits = byPhotograph(answer.hits);
      Object.assign(state, { answer, asked });
      forget("problem");
      showAnswer();
    }
    if (flight !== mine) return;
    if (!final && !live) throw offline();
    flight = null;
    if (live) return;
    mostSeconds = (performance.now() - mine.began) / 1000;
    working(false);
    askForMore();
  } catch (error) {
    if (flight !== mine) return;
    flight = null;
    if ([404, 410].includes(error.status) && !again && (await sendAgain().catch(() => false))) {
      ask(false, true); // what was being drawn may be drawn, asked and answered by now
      return;
    }
    working(false);
    if (!live || !error.status) failed(error); // a box that is still being drawn may hold nothing yet
  }
}

function failed(error) {
  complain(error, () => ask());
  if (error.name === "AbortError") return;
  document.title = "instsearch";
  $("results").classList.add("stale");
  $("title").textContent = "No answer";
  $("under").textContent = state.answer ? "What is below is of the question before." : "";
}

/** Where all that came counts as found there is more to be found. */
function askForMore() {
  const { answer, k } = state;
  const { k: most } = state.info.limits;
  if (!answer.probability || !answer.full || k >= most || foundHits().length < answer.hits.length) return;
  state.k = Math.min(4 * k, most);
  ask();
}

function working(on) {
  $("results").setAttribute("aria-busy", String(on));
  $("results").classList.toggle("stale", on && !flight?.answered);
  const meter = $("meter");
  meter.classList.toggle("on", on);
  meter.firstElementChild.style.animationDuration = `${Math.max(mostSeconds * 1.6, 0.5)}s`;
}
