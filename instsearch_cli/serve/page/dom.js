// Elements, words for screen readers, messages.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const on = (element, kind, listener, options) => element.addEventListener(kind, listener, options);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** An element; attributes that are functions listen ("onclick"), true and false set and leave out. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") on(element, name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function shape(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function icon(name) {
  const element = shape("svg", { class: "icon", "aria-hidden": "true" });
  element.append(shape("use", { href: `#i-${name}` }));
  return element;
}

/** Say something to those who listen to the page. */
function say(text) {
  if ($("said").textContent !== text) $("said").textContent = text;
}

/** A message at the top that stays until it is closed, its cause goes away (`forget(kind)`) or one of its kind comes. */
function notice(kind, text, deed, quiet = false) {
  forget(kind);
  const close = make("button", { class: "tool", "aria-label": "Close the message", onclick: () => forget(kind) }, icon("wrong"));
  const act = deed && make("button", { class: "button", onclick: deed.act }, deed.text);
  document.querySelector("dialog[open]")?.prepend($("notices")); // what is behind a dialog is not seen
  $("notices").append(make("p", { class: quiet ? "notice quiet" : "notice", "data-kind": kind }, make("span", {}, text), act, close));
}

function forget(kind) {
  for (const message of document.querySelectorAll(`.notice[data-kind="${kind}"]`)) message.remove();
}

/** A button that opens a panel below it: Escape, a press elsewhere and leaving it by Tab close it. */
function menu(button, panel, opened = () => {}) {
  const set = (open) => {
    if (panel.hidden === !open) return;
    panel.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open) opened();
  };
  on(button, "click", () => set(panel.hidden));
  const inside = (node) => node && (panel.contains(node) || button.contains(node));
  on(document, "pointerdown", (event) => inside(event.target) || set(false));
  on(panel.parentElement, "focusout", (event) => {
    if (event.relatedTarget && !inside(event.relatedTarget)) set(false);
  });
  on(panel.parentElement, "keydown", (event) => {
    if (event.key !== "Escape" || panel.hidden) return;
    event.stopPropagation();
    set(false);
    button.focus();
  });
  return set;
}

async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "away", "aria-hidden": "true" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`${what} copied`);
}

/** For a moment, a button says what it has done. */
function done(button, text) {
  const label = button.querySelector("span") ?? button;
  const before = label.textContent;
  if (label.dataset.busy) return;
  label.dataset.busy = "1";
  label.textContent = text;
  setTimeout(() => {
    label.textContent = before;
    delete label.dataset.busy;
  }, 1400);
}

function typing(event) {
  return event.target.matches?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select");
}
