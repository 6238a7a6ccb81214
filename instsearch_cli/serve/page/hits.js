// Hits: those found above the line, the rest below it.

const cards = new Map(); // "index:row" -> its card; they stay from answer to answer, so that nothing flickers
const keyOf = ({ index, row }) => `${index}:${row}`;

/** One hit a photograph: as its best place has it, with all of its places; ranks are of photographs. */
function byPhotograph(hits) {
  const first = new Map();
  for (const { score, boxes, ...hit } of hits) {
    const one = first.get(keyOf(hit));
    if (one) one.places.push({ score, boxes });
    else first.set(keyOf(hit), { ...hit, score, boxes, places: [{ score, boxes }] });
  }
  return [...first.values()].map((hit, i) => ({ ...hit, rank: i + 1 }));
}

/** The hit's picture as the service takes it: hits name an index by its place in the question. */
const hitRef = (hit) => ({ index: state.asked.indexes[hit.index], row: hit.row });

/** Scores with as many decimals as their size asks for; those that only order for now are not shown. */
function scoreText(score) {
  const { probability, final, hits } = state.answer;
  if (!final && pipelineOf()?.probability && !state.rerank) return "";
  if (probability) return (Math.floor(score * 100 + 1e-9) / 100).toFixed(2); // 0.499 is below 0.50
  const largest = Math.max(...hits.map((hit) => Math.abs(hit.score)));
  return score.toFixed(largest < 10 ? 3 : largest < 1000 ? 1 : 0);
}

function makeCard(key) {
  const img = make("img", { alt: "" });
  const overlay = shape("svg", { "aria-hidden": "true" });
  const frame = make("span", { class: "view" }, img, overlay);
  const open = make("button", { class: "open", onclick: () => openLight(key) }, frame);
  const rank = make("span", { class: "rank" });
  const score = make("span", { class: "score" });
  const bar = make("span", { class: "share" }, make("i"));
  const right = make("button", { class: "tool small right", "aria-pressed": "false", title: "Right: look for this too (r)", onclick: () => mark(cards.get(key).hit, false) }, icon("right"));
  const wrong = make("button", { class: "tool small wrong", "aria-pressed": "false", title: "Wrong: not this (w)", onclick: () => mark(cards.get(key).hit, true) }, icon("wrong"));
  const name = make("div", { class: "name" });
  const from = make("div", { class: "from" });
  const item = make("li", {}, open, make("div", { class: "line" }, rank, score, bar, make("span", { class: "judge" }, right, wrong)), name, from);
  on(item, "keydown", (event) => cardKey(event, key));
  return { item, img, overlay, frame, open, rank, score, bar: bar.firstChild, right, wrong, name, from };
}

function fillCard(card, hit, best) {
  const { image, size, rank, score } = hit;
  card.hit = hit;
  card.item.style.setProperty("--r", aspect(size).toFixed(4));
  card.frame.style.setProperty("--shape", aspect(size).toFixed(4));
  showLater(card.img, picturePath(hitRef(hit), 480));
  const text = scoreText(score);
  card.rank.textContent = rank;
  card.score.textContent = text;
  card.bar.style.width = `${best > 0 ? 100 * clamp(score / best, 0, 1) : 0}%`;
  card.right.setAttribute("aria-label", `Right: ${image} shows the object`);
  card.wrong.setAttribute("aria-label", `Wrong: ${image} does not show the object`);
  const cut = image.lastIndexOf("/") + 1;
  card.name.title = image;
  card.name.replaceChildren(...(cut ? [make("span", { class: "folder" }, image.slice(0, cut))] : []), make("span", { class: "file" }, image.slice(cut)));
  card.from.textContent = state.indexes.length > 1 ? indexOf(hitRef(hit).index).name : "";
}

/** The boxes of a photograph's best place, and of the others that are found; they change with the line. */
function showPlaces(card, hit, from) {
  hit.boxes = hit.places.filter((one, i) => !i || from === null || one.score >= from).flatMap((one) => one.boxes);
  drawBoxes(card.overlay, hit.size, hit.boxes.length ? hit.boxes : hit.box ? [hit.box] : []);
  const text = scoreText(hit.score);
  const places = hit.boxes.length > 1 ? `, in ${hit.boxes.length} places` : "";
  card.open.setAttribute("aria-label", `${hit.rank}. ${hit.image}${text ? `, score ${text}` : ""}${places}: show it large`);
}

/** Put cards into a list in their order; those that lie right already are not touched. */
function putCards(list, items) {
  const wanted = new Set(items);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  items.forEach((item, i) => {
    if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
  });
  list.hidden = !items.length;
}

function showAnswer() {
  const { answer } = state;
  const hits = answer?.hits ?? [];
  const best = Math.max(...hits.map((hit) => hit.score), 0);
  const held = document.activeElement;
  const seen = new Set();
  for (const hit of hits) {
    const key = keyOf(hit);
    seen.add(key);
    if (!cards.has(key)) cards.set(key, makeCard(key));
    fillCard(cards.get(key), hit, best);
  }
  for (const [key, card] of cards) {
    if (seen.has(key)) continue;
    near.unobserve(card.img);
    card.item.remove();
    cards.delete(key);
  }
  $("results").classList.toggle("stale", false);
  $("results").classList.toggle("unsure", Boolean(answer && !answer.final));
  part();
  if (held !== document.activeElement && held?.isConnected) held.focus({ preventScroll: true });
  $("cautions").replaceChildren(...(answer?.cautions ?? []).map((text) => make("li", {}, capital(text.replace(/\.?$/, ".")))));
  showMarks();
  histogram();
  refreshLight();
}

/** Part the hits by the line, and say how many there are. */
function part() {
  const { answer } = state;
  const hits = answer?.hits ?? [];
  const from = line();
  const n = answer ? foundHits().length : 0;
  for (const hit of hits) showPlaces(cards.get(keyOf(hit)), hit, from);
  const items = hits.map((hit) => cards.get(keyOf(hit)).item);
  putCards($("found"), items.slice(0, n));
  putCards($("rest"), items.slice(n));
  $("parting").hidden = n === hits.length || from === null;
  if (from !== null) $("parting").textContent = `below ${from.toFixed(2)}`;
  $("save").hidden = !answer || Boolean(state.info.task);
  $("least-part").hidden = !answer?.final || !answer.probability;
  $("none").hidden = !answer || hits.length > 0;
  $("none").textContent = state.asked?.against.length ? "Every photograph agrees as well with what is not the object. Take a mark back." : "No photograph has anything in common with it.";
  $("more").hidden = !answer?.final || !answer.full || state.k >= state.info.limits.k;
  heading(n, from);
}

function heading(n, from) {
  const { answer } = state;
  if (!answer) {
    $("title").textContent = "Nothing to look for yet";
    $("under").textContent = "Draw a box around the object.";
    document.title = "instsearch";
    return;
  }
  const more = n === answer.hits.length && answer.full ? "at least " : "";
  const title = !answer.final ? "Most alike so far" : from === null ? `The ${answer.hits.length} most alike` : n ? `${capital(more)}${n} found` : "None found";
  $("title").textContent = title;
  const searched = `among ${plural(answer.images, "photograph")}`;
  const without = answer.dropped ? `, ${answer.dropped} left out as “not this”` : "";
  $("under").textContent = answer.final ? `${searched}, ${answer.seconds.toFixed(2)} s${without}` : `${searched}, looking closer …`;
  document.title = `${title} - instsearch`;
  $("least-text").textContent = from === null ? "" : `at least ${from.toFixed(2)}`;
  if (from !== null) {
    $("least").value = from;
    $("least").setAttribute("aria-valuetext", `${from.toFixed(2)}: ${n} found`);
  }
  if (answer.final) say(`${title} ${searched}`);
}

/** How the scores lie over the slider: found in the colour of marks. */
function histogram() {
  const { answer } = state;
  if (!answer?.final || !answer.probability) return;
  const counts = new Array(25).fill(0);
  for (const { score } of answer.hits) counts[Math.min(24, Math.floor(score * 25))] += 1;
  const most = Math.max(...counts, 1);
  const from = line();
  $("histogram").replaceChildren(
    ...counts.map((n, i) => {
      const height = n ? 2 + 22 * Math.sqrt(n / most) : 0.6;
      return shape("rect", { x: i * 4 + 0.4, y: 24 - height, width: 3.2, height, rx: 0.6, class: (i + 0.5) / 25 >= from ? "in" : "" });
    }),
  );
}

function cardKey(event, key) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { hit, item } = cards.get(key);
  const all = [...document.querySelectorAll("#hits li")];
  const next = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (event.key === "r" || event.key === "w") mark(hit, event.key === "w");
  else if (next) all[all.indexOf(item) + next]?.querySelector(".open").focus();
  else return;
  event.preventDefault();
}

function startHits() {
  on($("least"), "input", () => {
    state.least = Number($("least").value);
    part();
    histogram();
  });
  on($("least"), "change", askForMore);
  on($("more"), "click", () => {
    state.k = Math.min(2 * state.k, state.info.limits.k);
    ask();
  });
}
