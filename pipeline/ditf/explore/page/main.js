// The page: its views, and the address bar, which holds everything that a view shows.

import * as channels from "./channels.js";
import { findEntry, findTask } from "./choose.js";
import { element, message } from "./elements.js";
import * as match from "./match.js";
import { acceptImages } from "./own.js";
import * as pairs from "./pairs.js";
import * as search from "./search.js";
import { listenToKeys } from "./shortcuts.js";
import * as source from "./source.js";
import * as video from "./video.js";

const VIEWS = source.STATIC ? { match, pairs } : { match, pairs, video, search, channels };
const POLL = 5000; // milliseconds between checks for rebuilt features

let project = null;
let current = null; // the view that is shown
let turn = 0; // counts the views that were asked for

export function readState() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

// Changes the address. A new entry of the history is made only if the user may want to go back.
function writeState(changes, { remember = false } = {}) {
  const parameters = new URLSearchParams(location.hash.slice(1));
  for (const [key, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) parameters.delete(key);
    else parameters.set(key, value);
  }
  const address = `#${parameters}`;
  if (address === location.hash) return;
  if (remember) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

async function show() {
  const view = document.getElementById("view");
  current?.stop?.();
  current = null;
  const state = readState();
  const name = state.view in VIEWS ? state.view : "match";
  document.querySelector("nav").replaceChildren(
    ...Object.entries(VIEWS).map(([key, view]) =>
      element("a", { href: `#${new URLSearchParams({ ...shared(state), view: key })}`, "aria-current": key === name ? "page" : null }, view.title),
    ),
  );
  // A slow view may finish after the next one was asked for, and must not replace it.
  turn += 1;
  const asked = turn;
  let controls = []; // which stay if something else of the view fails, so that another choice can be made
  const mount = (...children) => {
    if (asked !== turn) return;
    view.replaceChildren(...children);
    controls = view.querySelectorAll(":scope > .controls, .picker");
  };
  const report = (error) => asked === turn && notify(error.message);
  view.setAttribute("aria-busy", "true");
  let next = null;
  try {
    next = await VIEWS[name].show({ mount, report, project, state, writeState, go });
  } catch (error) {
    mount(...controls, message(error.message));
  }
  if (asked !== turn) {
    next?.stop?.();
    return;
  }
  current = next;
  window.explorer = current; // for tests and the console
  view.setAttribute("aria-busy", "false");
  document.title = `${VIEWS[name].title} - DiTF explorer`;
}

function go(changes) {
  writeState(changes, { remember: true });
  return show();
}

// The entry whose features an uploaded image gets.
function shownEntry() {
  const state = readState();
  const index = state.view === "search" && findTask(project, state, "retrieval");
  return index ? index.features : (findEntry(project, state)?.name ?? "");
}

function showUpload(entry, image) {
  const { view } = readState();
  const place = view === "search" || view === "channels" ? view : "match";
  go({ view: place, entry, source: image, targets: "", point: "", area: "", channel: "" });
}

function notify(text) {
  const notice = document.getElementById("notice");
  notice.replaceChildren(text, " ", element("button", { type: "button", onclick: () => (notice.hidden = true) }, "Close"));
  notice.hidden = false;
}

function act(action) {
  if (action === "theme") document.getElementById("theme").click();
  const state = readState();
  const blocks = (findEntry(project, state)?.blocks ?? []).map((each) => each.block);
  const place = blocks.includes(Number(state.block)) ? blocks.indexOf(Number(state.block)) : blocks.length - 1;
  const next = blocks[place + { "previous block": -1, "next block": 1 }[action]];
  if (next !== undefined) go({ block: next });
}

// The parts of the state that a change of the view keeps.
function shared({ entry, block, descriptor, source: image }) {
  return Object.fromEntries(Object.entries({ entry, block, descriptor, source: image }).filter(([, value]) => value));
}

async function poll() {
  const notice = document.getElementById("notice");
  try {
    const latest = await source.project();
    const revisions = (state) => JSON.stringify(state.entries.map((entry) => [entry.name, entry.revision, entry.missing]));
    const changed = revisions(latest) !== revisions(project);
    if (changed) notice.replaceChildren("The features changed. ", element("button", { type: "button", onclick: () => location.reload() }, "Load the page again"));
    if (changed || notice.dataset.lost) notice.hidden = !changed;
    delete notice.dataset.lost;
  } catch (error) {
    notify(error.message);
    notice.dataset.lost = true;
  }
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.getElementById("theme");
  button.textContent = dark ? "☀" : "☾";
  button.onclick = () => {
    const next = dark ? "light" : "dark";
    localStorage.setItem("theme", next);
    setTheme(next);
    window.dispatchEvent(new Event("theme"));
  };
}

setTheme(localStorage.getItem("theme"));
window.addEventListener("hashchange", show);
window.addEventListener("popstate", show);
try {
  project = await source.project();
  document.querySelector("h1 a").append(element("span", {}, ` · ${project.name}`));
  await show();
  if (source.STATIC) {
    document.getElementById("add").remove();
    document.body.append(element("footer", {}, project.note));
  } else {
    setInterval(poll, POLL);
    acceptImages({ entry: shownEntry, limit: project.limits.upload_bytes, onready: showUpload, onerror: notify });
  }
  listenToKeys(Object.keys(VIEWS), (view) => go({ view }), act);
} catch (error) {
  document.getElementById("view").replaceChildren(message(error.message));
}
