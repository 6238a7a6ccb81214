// What is taken away: tables, pages, photographs, the command line, the session.

const FORMATS = [
  ["csv", "CSV table", "for spreadsheets: names, scores, boxes", "hits.csv"],
  ["html", "HTML report", "one file to look at and hand on", "hits.html"],
  ["zip", "Photographs", "a zip of those found", "hits.zip"],
  ["json", "JSON", "for programs, as query --json prints it", "hits.json"],
  ["annotations", "W3C annotations", "boxes for annotation tools", "annotations.json"],
  ["trec", "TREC run", "for evaluation", "hits.trec"],
];

async function save(button, path, json, fallback) {
  button.disabled = true;
  try {
    await download(path, { json }, fallback);
    done(button.querySelector("b"), "Saved");
    say("Saved");
  } catch (error) {
    if ([404, 410].includes(error.status) && (await sendAgain().catch(() => false))) notice("problem", "The pictures were sent again. Please save once more.");
    else complain(error);
  } finally {
    button.disabled = false;
    if (document.activeElement === document.body) button.focus(); // where it was lost to the disabled button
  }
}

/** Which of the views, and of what the object is not, are marks: by their places. */
function sessionMarks() {
  const [views, against] = Object.values(parts()).map((some) => some.flatMap(({ one }, i) => (one.mark ? [i] : [])));
  return { views, against, least: state.least };
}

function row(title, about, onclick) {
  return make("button", { class: "deed", onclick: (event) => onclick(event.currentTarget) }, icon("save"), make("span", {}, make("b", {}, title), make("small", {}, about)));
}

function showSaving() {
  const n = foundHits().length;
  const from = line();
  const title = from === null ? plural(n, "photograph") : `${n} found of at least ${from.toFixed(2)}`;
  const rows = FORMATS.map(([format, text, about, name]) => row(text, about, (button) => save(button, `/v1/export?format=${format}`, { question: foundQuestion() }, name)));
  const code = make("code", { class: "command", tabindex: 0, role: "group", "aria-label": "Command line" }, "…");
  const copy = make("button", { class: "button", onclick: () => copyText(code.textContent, "Command").then(() => done(copy, "Copied")) }, icon("copy"), make("span", {}, "Copy"));
  const session = row("Session", "query, boxes and marks, to open again here or with query --session", (button) => save(button, "/v1/session", { question: foundQuestion(), marks: sessionMarks() }, "session.json"));
  $("saving").replaceChildren(
    make("p", { class: "label" }, title),
    ...rows,
    make("p", { class: "label" }, "The same on the command line"),
    make("div", { class: "commands" }, code, copy),
    make("p", { class: "label" }, "To go on later"),
    session,
    make("button", { class: "deed", onclick: () => $("file").click() }, icon("open"), make("span", {}, make("b", {}, "Open a session"), make("small", {}, "a file that was saved here"))),
  );
  callJson("/v1/command", { json: { question: foundQuestion() } }).then(
    ({ command }) => (code.textContent = command),
    (error) => {
      code.textContent = "not to be had just now";
      complain(error);
    },
  );
}

/** Ask as a session file does: its pictures, boxes and marks. */
async function openSession(file) {
  const { question: asked, marks, pictures } = await callJson("/v1/session/open", { body: file, method: "POST" });
  const list = [];
  const place = ({ picture: ref, box }, against, mark) => {
    const is = pictures.find((one) => same(one, ref)) ?? { ...ref, name: "picture", size: [1, 1] };
    let one = list.find((other) => same(other.ref, ref) && other.mark === mark && other.boxes.length && box);
    if (!one) list.push((one = newPicture({ ...is, against, mark })));
    if (box) one.boxes.push(newBox(box, against));
  };
  asked.views.forEach((seen, i) => place(seen, false, Boolean(marks?.views?.includes(i))));
  asked.against.forEach((seen, i) => place(seen, true, Boolean(marks?.against?.includes(i))));
  change(() => {
    const usable = (asked.indexes ?? []).filter((id) => indexOf(id) && !indexOf(id).problem);
    Object.assign(state, { pictures: list, current: 0, selected: null, against: false, k: 40, least: marks?.least ?? asked.min_score ?? null });
    Object.assign(state, { rerank: asked.rerank ?? null, pipeline: asked.pipeline ?? null, refine: asked.refine, places: asked.per_image ?? 1, floor: asked.min_score ?? null });
    if (usable.length) state.indexes = usable;
  });
  const dialog = $("browse-dialog");
  if (dialog.open) dialog.close();
  showChoices();
  say("Session opened");
}

function startSaving() {
  menu($("save"), $("saving"), showSaving);
}
