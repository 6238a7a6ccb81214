// Where and how to look: indexes, pipelines and rerankers, each with what it is for.

function option(kind, name, { value, checked, title, about, disabled, onchange }) {
  const input = make("input", { type: kind, name, value, checked, disabled, onchange });
  const words = make("span", {}, make("b", {}, title), about ? make("small", {}, about) : null);
  return make("label", { class: "option" }, input, words);
}

function choose(deed) {
  deed();
  Object.assign(state, { refine: false, least: null, floor: null, k: 40 });
  forget("problem");
  showChoices();
  keepForReload();
  if (state.pictures.length) ask();
}

const group = (title, ...options) => make("fieldset", {}, make("legend", { class: "label" }, title), ...options);

function indexChoices() {
  return state.info.indexes.map(({ id, name, path, images, problem }) =>
    option("checkbox", "index", {
      ...{ value: id, title: name, disabled: Boolean(problem), checked: state.indexes.includes(id) },
      about: problem || `${plural(images, "photograph")} · ${path}`,
      onchange: (event) =>
        choose(() => {
          const chosen = state.indexes.filter((one) => one !== id);
          if (event.target.checked) chosen.push(id);
          state.indexes = chosen.length ? chosen.sort((a, b) => a - b) : [id];
          if (!indexOf(state.indexes[0]).pipelines.some((one) => one.name === state.pipeline)) state.pipeline = null;
        }),
    }),
  );
}

function pipelineChoices() {
  const chosen = pipelineOf();
  return (indexOf(state.indexes[0])?.pipelines ?? []).map(({ name, about }) =>
    option("radio", "pipeline", { value: name, title: name, about, checked: name === chosen?.name, onchange: () => choose(() => Object.assign(state, { pipeline: name, rerank: null })) }),
  );
}

function rerankerChoices() {
  const own = pipelineOf()?.rerankers ?? [];
  const { rerank } = state;
  const pick = (value) => () => choose(() => (state.rerank = value));
  const none = rerank?.[0] === "none";
  const some = rerank && !none;
  const options = [
    option("radio", "rerank", { value: "own", title: "As the pipeline has it", about: own.join(", then ") || "none", checked: !rerank, onchange: pick(null) }),
    own.length ? option("radio", "rerank", { value: "none", title: "None", about: "Fastest; scores only order", checked: none, onchange: pick(["none"]) }) : null,
    option("radio", "rerank", { value: "these", title: "These", about: some ? rerank.join(", then ") : "Choose them yourself", checked: some, onchange: pick(own.length ? own : state.info.rerankers.slice(0, 1).map((one) => one.name)) }),
  ];
  const each = ({ name, about }) =>
    option("checkbox", "reranker", {
      ...{ value: name, title: name, about, checked: rerank.includes(name) },
      onchange: (event) => {
        const names = rerank.filter((one) => one !== name);
        if (event.target.checked) names.push(name);
        pick(names.length ? names : ["none"])();
      },
    });
  if (some) options.push(make("div", { class: "nested" }, ...state.info.rerankers.map(each)));
  return options;
}

function placesChoice() {
  return option("checkbox", "places", { title: "Every place in a photograph", about: "Several boxes where the object is there several times", checked: state.places > 1, onchange: (event) => choose(() => (state.places = event.target.checked ? 5 : 1)) });
}

function showChoices() {
  const panel = $("choices");
  const at = panel.contains(document.activeElement) ? [document.activeElement.name, document.activeElement.value] : null;
  const { indexes } = state.info;
  const pipelines = pipelineChoices();
  panel.replaceChildren(
    group(indexes.length > 1 ? "Collections" : "Collection", ...indexChoices()),
    pipelines.length ? group("How to look", ...pipelines) : "",
    pipelines.length && (state.info.rerankers ?? []).length ? group("Second look at the best", ...rerankerChoices().filter(Boolean)) : "",
    pipelineOf()?.per_image ? group("Photographs", placesChoice()) : "",
  );
  if (at) [...panel.querySelectorAll("input")].find((one) => one.name === at[0] && one.value === at[1])?.focus();
  const names = state.indexes.map((id) => indexOf(id).name).join(" + ");
  const pipeline = pipelineOf();
  $("choices-text").textContent = pipeline ? `${names} · ${pipeline.name}${state.refine ? ", refined" : ""}` : names || "Collections";
  $("choices-button").hidden = !indexes.length;
}

function startChoices() {
  const usable = state.info.indexes.filter((index) => !index.problem);
  const [first] = usable;
  const alike = usable.filter((index) => index.last === first.last);
  state.indexes = alike.map((index) => index.id);
  for (const { name, problem } of state.info.indexes.filter((index) => index.problem)) {
    notice("index", `${name}: ${problem}`, null, true);
  }
  menu($("choices-button"), $("choices"), showChoices);
  showChoices();
}
