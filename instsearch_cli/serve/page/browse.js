// The collection: browse it, search it by name, take a picture of it.

const PAGE = 60; // pictures asked for at once
const browser = { index: 0, search: "", total: 0, offset: 0, flight: null, element: null, grid: null };

function makeBrowser() {
  const usable = state.info.indexes.filter((index) => index.images);
  browser.index = (usable[0] ?? { id: 0 }).id;
  browser.input = make("input", { type: "search", placeholder: "Search by name or folder", "aria-label": "Search the collection by name", autocomplete: "off", spellcheck: "false" });
  on(browser.input, "input", () => {
    clearTimeout(browser.timer);
    browser.timer = setTimeout(() => browse(browser.input.value.trim()), 160);
  });
  browser.count = make("p", { class: "soft", "aria-live": "polite" });
  browser.grid = make("ul", { class: "grid", "aria-label": "Pictures of the collection" });
  browser.more = make("button", { class: "button", hidden: true, onclick: browseOn }, "Show more");
  const which = make("select", { "aria-label": "Collection", onchange: () => ((browser.index = Number(which.value)), browse(browser.search)) });
  for (const { id, name } of usable) which.append(make("option", { value: id }, name));
  browser.element = make(
    "div",
    { class: "browser" },
    make("div", { class: "browse-head" }, make("h2", {}, "Or start from the collection"), browser.count, make("span", { class: "gap" }), usable.length > 1 ? which : null, browser.input),
    browser.grid,
    make("p", { class: "buttons centre" }, browser.more),
  );
  new IntersectionObserver((entries) => entries.some((one) => one.isIntersecting) && browser.offset < 600 && browseOn(), { rootMargin: "300px" }).observe(browser.more);
  which.value = browser.index;
  browser.which = which;
}

/** Show the pictures whose name has the text in it. */
function browse(search) {
  browser.flight?.abort();
  Object.assign(browser, { search, offset: 0, flight: null });
  browser.grid.dataset.stale = "1";
  return browseOn();
}

async function browseOn() {
  if (browser.flight) return;
  const flight = new AbortController();
  browser.flight = flight;
  const { index, search, offset } = browser;
  try {
    const query = new URLSearchParams({ search, offset, limit: PAGE });
    const { total, images } = await callJson(`/v1/indexes/${index}/images?${query}`, { signal: flight.signal });
    if (browser.flight !== flight) return;
    if (browser.grid.dataset.stale) browser.grid.replaceChildren();
    delete browser.grid.dataset.stale;
    browser.grid.append(...images.map((image) => tile(index, image)));
    browser.offset = offset + images.length;
    browser.more.hidden = browser.offset >= total || !images.length;
    browser.count.textContent = total || !search ? plural(total, "picture") : `Nothing is called “${search}”`;
  } catch (error) {
    complain(error, () => browse(browser.search));
  } finally {
    if (browser.flight === flight) browser.flight = null;
  }
}

function tile(index, { row, name, size }) {
  const img = make("img", { alt: name, width: 160, height: 160 });
  showLater(img, picturePath({ index, row }, 320));
  const button = make("button", { title: name, onclick: () => take({ index, row, name, size }) }, img);
  const item = make("li", {}, button);
  item.style.setProperty("--r", aspect(size).toFixed(4));
  return item;
}

/** The collection in its dialog, to choose a picture for a new question ("new") or one beside ("view"). */
function openBrowser(as, search) {
  getAs = as;
  $("browse-dialog-title").textContent = as === "view" ? "Add a view" : "New search";
  $("browse-dialog-place").append(browser.element);
  if (search !== undefined) {
    browser.input.value = search;
    browse(search);
  }
  if (!$("browse-dialog").open) $("browse-dialog").showModal();
  browser.input.focus();
}

function startBrowsing() {
  makeBrowser();
  $("browse-place").append(browser.element);
  on($("browse-dialog"), "close", () => {
    getAs = "new";
    if (!state.pictures.length) $("browse-place").append(browser.element);
  });
  on($("new"), "click", () => openBrowser("new"));
  for (const dialog of document.querySelectorAll("dialog")) {
    on(dialog.querySelector("[data-close]"), "click", () => dialog.close());
    on(dialog, "click", (event) => event.target === dialog && dialog.close());
    on(dialog, "close", () => document.querySelector(".bar").after($("notices")));
  }
  browse("");
}
