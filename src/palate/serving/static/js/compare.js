/** Compare: two models for the same person; lines join what both recommend, and the difference is said in words. */

import { ask, Problem } from "./api.js";
import { card, catalogue, describe, item, remember } from "./catalogue.js";
import { rowItem } from "./card.js";
import { byId, h, svg, title } from "./dom.js";
import { onFeedback } from "./feedback.js";
import { question } from "./foryou.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { problemBlock, stateBlock } from "./states.js";
import { copyButton } from "./tables.js";
import { count } from "./words.js";

const K = 10;
const SHOWN_BY = ["tab", "user", "history", "not", "surprise", "variety", "filter", "model", "other", "swap"];
let control = null;

export function startCompare() {
  onChange((names) => state.tab === "compare" && SHOWN_BY.some((name) => names.has(name)) && draw());
  onFeedback((_, __, stage) => stage !== "begun" && state.tab === "compare" && draw());
  addEventListener("resize", () => state.tab === "compare" && joinUp());
}

const left = () => card(state.model).name;
const right = () =>
  catalogue.names.find((name) => name === state.other && name !== left()) ??
  catalogue.names.find((name) => name !== left());

async function draw() {
  const place = byId("compare");
  const head = h(
    "div",
    { class: "view-head full" },
    h("h1", { id: "compare-title" }, "Two models, one person"),
    h("p", {}, [
      "The same question, asked of both: ",
      isVisitor()
        ? `a new visitor with ${count(state.history.length, "title")} in the history.`
        : ["person ", title(state.user), "."],
    ]),
  );
  if (!right()) {
    place.replaceChildren(
      head,
      h(
        "div",
        { class: "full" },
        stateBlock({
          heading: "This service has one model",
          text: "Start it with a second run to see both side by side.",
          extra: h("code", {}, "palate serve runs/first runs/second"),
        }),
      ),
    );
    return;
  }
  control?.abort();
  control = new AbortController();
  const { signal } = control;
  if (!byId("versus"))
    place.replaceChildren(
      head,
      h(
        "div",
        { class: "full stack", id: "versus" },
        h(
          "div",
          { class: "skeleton", role: "status", "aria-label": "Loading" },
          Array.from({ length: K }, () => h("div", { class: "bone row-bone" })),
        ),
      ),
    );
  else place.firstChild.replaceWith(head);
  const listOf = (model) => ask("v1/recommend", { method: "POST", body: { ...question(K), model }, signal });
  try {
    const answers = await Promise.all([listOf(left()), listOf(right())]);
    const lists = answers.map((answer) => remember(answer.items));
    await describe(
      lists.flat().map((one) => one.item_id),
      signal,
    );
    if (!signal.aborted) show(lists, answers);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) throw problem;
    byId("versus").replaceChildren(problemBlock(problem, draw));
  }
}

function show(lists, answers) {
  const ranks = lists.map((list) => new Map(list.map((one) => [one.item_id, one.rank])));
  const side = (at) => {
    const name = at ? right() : left();
    const rows = lists[at].map((one) => {
      const there = ranks[1 - at].get(one.item_id);
      const row = rowItem(
        one,
        (each) => change({ item: each.item_id }, { push: true }),
        h("span", { class: "only" }, there ? `${there} in ${at ? left() : right()}` : "Only here"),
      );
      row.dataset.shared = String(Boolean(there));
      row.addEventListener("pointerenter", () => stress(one.item_id, true));
      row.addEventListener("pointerleave", () => stress(one.item_id, false));
      return row;
    });
    return h(
      "section",
      { "aria-label": name },
      h("div", { class: "rows-head" }, chooser(at, name), h("p", { class: "small muted" }, card(name).description)),
      lists[at].length
        ? h("ol", { class: "rows", data: { side: at } }, rows)
        : h("p", { class: "muted" }, answers[at].notes.join(" ") || "Nothing to recommend."),
    );
  };
  byId("versus").replaceChildren(
    h("div", { class: "panel", role: "status" }, h("p", {}, difference(lists, ranks))),
    h(
      "div",
      { class: "versus" },
      side(0),
      h("div", { class: "lines", "aria-hidden": "true" }, svg("svg", { id: "lines" })),
      side(1),
    ),
    h(
      "div",
      {},
      copyButton("Copy both lists", () => [
        ["rank", left(), right()],
        ...Array.from({ length: K }, (_, at) => [at + 1, lists[0][at]?.title, lists[1][at]?.title]),
      ]),
    ),
  );
  joinUp();
}

function chooser(at, name) {
  const id = `compare-${at}`;
  const options = catalogue.names.map((one) =>
    h("option", { value: one, selected: one === name, disabled: one === (at ? left() : right()) }, one),
  );
  const select = h(
    "select",
    { class: "field", id, on: { change: () => change(at ? { other: select.value } : { model: select.value }) } },
    options,
  );
  return h("div", {}, h("label", { class: "unseen", for: id }, at ? "Second model" : "First model"), select);
}

/** How the lists differ: what they share, what moved most, and which one keeps to popular titles. */
function difference(lists, ranks) {
  const shared = lists[0].filter((one) => ranks[1].has(one.item_id));
  const sentences = [
    shared.length
      ? `Both models recommend ${shared.length} of ${K} titles.`
      : `The lists have no title in common among the first ${K}.`,
  ];
  const moves = shared.map((one) => [Math.abs(one.rank - ranks[1].get(one.item_id)), one]).sort((a, b) => b[0] - a[0]);
  if (moves[0]?.[0] > 1)
    sentences.push(
      `The largest difference among these is “${moves[0][1].title}”: rank ${moves[0][1].rank} and ${ranks[1].get(moves[0][1].item_id)}.`,
    );
  else if (shared.length > 1) sentences.push("They order these almost alike.");
  const [a, b] = lists.map(
    (list) => list.reduce((sum, one) => sum + (item(one.item_id).popularity ?? 0), 0) / Math.max(list.length, 1),
  );
  if (Math.abs(a - b) > 0.03) sentences.push(`${a > b ? left() : right()} keeps closer to popular titles.`);
  return sentences.join(" ");
}

/** A line for each shared title, from its row on the left to its row on the right. */
function joinUp() {
  const lines = byId("lines");
  if (!lines) return;
  const frame = lines.getBoundingClientRect();
  const middle = (row) => {
    const box = row.getBoundingClientRect();
    return box.top + box.height / 2 - frame.top;
  };
  const rows = (at) => [...document.querySelectorAll(`.rows[data-side="${at}"] .row-item`)];
  const there = new Map(rows(1).map((row) => [row.dataset.id, row]));
  lines.replaceChildren(
    ...rows(0)
      .filter((row) => there.has(row.dataset.id))
      .map((row) => {
        const [y0, y1] = [middle(row), middle(there.get(row.dataset.id))];
        const bend = frame.width / 2;
        return svg("path", {
          d: `M8 ${y0} C${bend} ${y0} ${bend} ${y1} ${frame.width - 8} ${y1}`,
          "data-id": row.dataset.id,
        });
      }),
  );
}

function stress(id, on) {
  for (const node of document.querySelectorAll("#lines path, .versus .row-item"))
    if (node.dataset.id === id) node.classList.toggle("strong", on);
}
