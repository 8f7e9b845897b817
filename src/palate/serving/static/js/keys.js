/** The keyboard: / search, arrows through cards, Enter reasons, l like, n not interested, z undo, ? help. */

import { openDialog } from "./dialog.js";
import { byId, h } from "./dom.js";
import { undoLast } from "./feedback.js";
import { state } from "./state.js";

const KEYS = [
  [["/"], "Search"],
  [["←", "→", "↑", "↓"], "Go through the cards"],
  [["Enter"], "Reasons of a card"],
  [["l"], "More like this"],
  [["n"], "Not interested"],
  [["z"], "Undo"],
  [["+", "−", "0"], "Zoom the map"],
  [["Esc"], "Close"],
  [["?"], "This help"],
];

export function startKeys() {
  addEventListener("keydown", press);
  byId("help").addEventListener("click", help);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (
    document.querySelector("dialog[open]") ||
    event.target.matches("input:not([type=range], [type=checkbox], [type=radio]), select, textarea")
  )
    return;
  const act = { "/": find, "?": help, z: undoLast }[event.key] ?? (state.tab === "for-you" ? onCards(event) : null);
  if (!act) return;
  event.preventDefault();
  act();
}

function find() {
  (state.tab === "explore" ? byId("find") : byId("search"))?.focus();
}

/** What a key does on the cards, or null. */
function onCards(event) {
  const cards = [...document.querySelectorAll("#list .card[data-id]")];
  const here = cards.indexOf(document.activeElement?.closest("#list .card"));
  if (event.key.startsWith("Arrow")) {
    if (event.target.matches("input, canvas, .strip")) return null;
    return cards.length ? () => go(cards, here, event.key) : null;
  }
  if (here < 0) return null;
  if (event.key === "Enter" && document.activeElement === cards[here])
    return () => cards[here].querySelector(".card-title button").click();
  const button = { l: "like", n: "dismiss" }[event.key];
  return button ? () => cards[here].querySelector(`[data-act=${button}]`).click() : null;
}

function go(cards, here, key) {
  const perRow = cards.findIndex((card, at) => at && card.offsetTop > cards[0].offsetTop);
  const row = perRow < 0 ? cards.length : perRow;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[key];
  const next = here < 0 ? 0 : Math.min(cards.length - 1, Math.max(0, here + step));
  cards[next].focus({ focusVisible: true });
  cards[next].scrollIntoView({ block: "nearest" });
}

export function help() {
  openDialog(
    "Keyboard",
    h(
      "dl",
      { class: "keys-list" },
      KEYS.map(([keys, words]) => [
        h(
          "dt",
          { class: "row" },
          keys.map((key) => h("kbd", {}, key)),
        ),
        h("dd", {}, words),
      ]),
    ),
  );
}
