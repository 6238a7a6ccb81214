// What is asked: pictures with their boxes, where and how to look; undo and redo.

const state = {
  info: null, // GET /v1/indexes
  pictures: [], // {key, ref, name, size, boxes: [{id, x, y, w, h, against}], against, mark}
  current: 0, // the picture on the stage
  selected: null, // id of the box whose handles show
  against: false, // what the next box is
  indexes: [],
  pipeline: null,
  rerank: null,
  refine: false, // an opened session's
  places: 1,
  k: 40,
  least: null, // the slider, once it was moved
  floor: null, // an opened session's least score where scores only order
  answer: null,
  asked: null, // the question that the answer is of
};
const files = new Map(); // upload id -> File, to send it again
const past = [];
const future = [];
let lastId = 0;

const picture = () => state.pictures[state.current];
const same = (a, b) => (a.upload ? a.upload === b.upload : a.index === b.index && a.row === b.row);
const refOf = ({ upload, index, row }) => (upload ? { upload } : { index, row });
const indexOf = (id) => state.info.indexes.find((index) => index.id === id);
const selectedBox = () => picture()?.boxes.find((box) => box.id === state.selected);

function newPicture({ name, size, boxes = [], against = false, mark = false, ...ref }) {
  lastId += 1;
  return { key: lastId, ref: refOf(ref), name, size, boxes: boxes.map((box) => newBox(box, against)), against, mark };
}

function newBox([x, y, w, h], against = false) {
  lastId += 1;
  return { id: lastId, x, y, w, h, against };
}

const snapshot = () => JSON.stringify({ pictures: state.pictures, current: state.current });

/** Remember how things are, before they change. */
function remember(before = snapshot()) {
  if (before === past[past.length - 1]) return;
  past.push(before);
  if (past.length > 200) past.shift();
  future.length = 0;
}

function step(from, to) {
  if (!from.length) return;
  to.push(snapshot());
  Object.assign(state, JSON.parse(from.pop()));
  state.current = clamp(state.current, 0, Math.max(state.pictures.length - 1, 0));
  changed();
}

/** Change what is asked, so that it can be undone, and ask. */
function change(deed) {
  const before = snapshot();
  deed();
  if (snapshot() !== before) remember(before);
  changed();
}

/** Show what is asked, and ask. */
function changed() {
  keepForReload();
  showState();
  ask();
}

const rounded = ({ x, y, w, h }) => [x, y, w, h].map((value) => Math.round(value * 10) / 10);

/** The views that are asked with, and what the object is not: each a picture with a box, or null. */
function parts() {
  const views = [];
  const against = [];
  for (const one of state.pictures) {
    for (const box of one.boxes) (box.against ? against : views).push({ one, box: rounded(box) });
    if (!one.boxes.length) (one.against ? against : views).push({ one, box: null });
  }
  const whole = state.pictures.find((one) => !one.mark && !(one.against && !one.boxes.length));
  if (!views.length && whole) views.push({ one: whole, box: null });
  return { views, against };
}

/** The question as the service takes it; null where there is nothing to look for. */
function question() {
  const [views, against] = Object.values(parts()).map((some) => some.map(({ one, box }) => ({ picture: one.ref, box })));
  if (!views.length) return null;
  const { indexes, rerank, refine, places, k, floor } = state;
  const own = pipelineOf();
  return {
    ...{ views, against, indexes, pipeline: pipelineOfAll(), rerank, refine, k, per_image: own?.per_image ? places : 1 },
    min_score: own?.probability && !rerank ? 0 : floor,
  };
}

/** The pipeline that is chosen, as its index describes it. */
function pipelineOf() {
  const pipelines = indexOf(state.indexes[0])?.pipelines ?? [];
  const name = state.pipeline ?? indexOf(state.indexes[0])?.last;
  return pipelines.find((one) => one.name === name) ?? pipelines[0];
}

/** The name of the pipeline that is asked, so that it stays the same; null where it goes by another name in some index. */
function pipelineOfAll() {
  const { name } = pipelineOf() ?? {};
  const has = (id) => indexOf(id).pipelines.some((one) => one.name === name);
  return state.pipeline ?? (name && state.indexes.every(has) ? name : null);
}

/** Where found ends: the slider's score, else the answer's own; null where scores only order. */
function line() {
  const { answer, least } = state;
  if (!answer?.final) return null;
  return answer.probability ? (least ?? (answer.line || pipelineOf()?.min_score || 0.5)) : answer.line; // a line of 0 is the question's own
}

function foundHits() {
  const from = line();
  return from === null ? state.answer.hits : state.answer.hits.filter((hit) => hit.score >= from);
}

/** The question of what is shown as found, for what is taken away. */
function foundQuestion() {
  const from = line();
  const many = state.answer?.probability ? state.info.limits.k : state.k;
  return { ...question(), k: many, min_score: state.answer?.probability ? from : question().min_score };
}

// -- a page loaded again shows what it showed -------------------------------------------------------------

function keepForReload() {
  try {
    const { pictures, current, indexes, pipeline, rerank, refine, places, floor } = state;
    sessionStorage.setItem("state", JSON.stringify({ pictures, current, indexes, pipeline, rerank, refine, places, floor, lastId }));
  } catch {
    // storage is full or forbidden: a reload begins anew
  }
}

function restore() {
  try {
    const { lastId: last, ...kept } = JSON.parse(sessionStorage.getItem("state") ?? "{}");
    if (!kept.pictures?.length || kept.indexes.some((id) => !indexOf(id) || indexOf(id).problem)) return;
    Object.assign(state, kept);
    lastId = last;
  } catch {
    // what another edition of the page has kept
  }
}
