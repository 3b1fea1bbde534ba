// Keyboard shortcuts of the page, and the list that explains them.

import { element } from "./elements.js";

const SHORTCUTS = [
  ["1 to 5", "show a view"],
  ["arrow keys", "move the point over an image, or step through frames"],
  ["Shift and arrow keys", "move the point faster"],
  ["Enter", "pin the point, or search there"],
  ["Escape", "let the point follow the mouse again"],
  ["Space", "play or pause a video; paint under the brush"],
  ["[ and ]", "previous and next block"],
  ["t", "switch between light and dark"],
  ["?", "show this list"],
];

// `views` are the names of the views, and `act` is called with the name of an action.
export function listenToKeys(views, showView, act) {
  const dialog = document.getElementById("shortcuts");
  const rows = SHORTCUTS.map(([keys, text]) => element("tr", {}, element("th", { scope: "row" }, keys), element("td", {}, text)));
  dialog.append(element("h2", {}, "Keyboard shortcuts"), element("table", {}, element("tbody", {}, ...rows)), element("form", { method: "dialog" }, element("button", {}, "Close")));
  const help = () => dialog.showModal();
  document.getElementById("help").addEventListener("click", help);
  const actions = { "?": help, t: () => act("theme"), "[": () => act("previous block"), "]": () => act("next block") };
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    if (event.target.matches("input, select, textarea")) return;
    if (event.key in actions) actions[event.key]();
    else if (views[Number(event.key) - 1]) showView(views[Number(event.key) - 1]);
  });
}
