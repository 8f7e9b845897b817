/** The list: asked again with every change, reasons after it, and each of its states. */

import { ask, Problem } from "./api.js";
import { catalogue, remember, wire } from "./catalogue.js";
import { card, showReason, skeletons } from "./card.js";
import { byId, h } from "./dom.js";
import { dismiss, like, onFeedback, readOnly, whom } from "./feedback.js";
import { inWords, where } from "./filters.js";
import { flip } from "./flip.js";
import { choosePerson } from "./person.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { problemBlock, stateBlock } from "./states.js";
import { copyButton } from "./tables.js";
import { age } from "./words.js";

const K = 12;
const MOST = 96;
const LIST_STATE = ["tab", "user", "history", "not", "surprise", "variety", "filter", "model", "swap"];
let items = [];
let length = K;
let control = null;
let stale = true;

const actions = {
  open: (one) => change({ item: one.item_id }, { push: true }),
  like,
  dismiss,
  get readonly() {
    return readOnly();
  },
};

export function startList() {
  onChange((names) => {
    if (names.has("user")) length = K;
    if (LIST_STATE.some((name) => names.has(name) && name !== "tab")) stale = true;
    if (state.tab === "for-you" && stale) load();
  });
  onFeedback((id, _, stage) => {
    if (stage === "begun") takeOut(id);
    else load();
  });
  byId("list-tools").append(
    copyButton("Copy list", () => [
      ["rank", "id", "title", "reason"],
      ...items.map((one) => [one.rank, one.item_id, one.title, one.reason ?? ""]),
    ]),
  );
}

/** Draws the cards again, for example with other fields under the titles. */
export function redraw() {
  byId("list").replaceChildren(...items.map((one) => card(one, actions)), ...more());
}

export function question(k = length) {
  return {
    ...whom(),
    k,
    fields: true,
    exclude: state.not.map((id) => wire(id)),
    filter: where(state.filter, catalogue.fields),
    familiarity: -state.surprise / 100,
    diversity: state.variety / 100,
    model: state.model,
  };
}

/** Asks for the list unless that was done; `again` asks anyway. Not before its tab is shown. */
export function showList(again) {
  stale ||= again;
  if (state.tab === "for-you" && stale) load();
}

async function load() {
  stale = false;
  control?.abort();
  control = new AbortController();
  const { signal } = control;
  const list = byId("list");
  if (!items.length) list.replaceChildren(...skeletons(K));
  list.setAttribute("aria-busy", "true");
  try {
    show(await ask("v1/recommend", { method: "POST", body: question(), signal }));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) throw problem;
    failed(problem);
  } finally {
    if (!signal.aborted) list.setAttribute("aria-busy", "false");
  }
  if (items.length && !signal.aborted) await reasons(signal);
}

function show(answer) {
  const old = new Map(items.map((one) => [one.item_id, one.reason]));
  items = remember(answer.items).map((one) => ({ ...one, reason: old.get(one.item_id) }));
  byId("for-you-title").textContent = heading(answer.route);
  byId("list-about").replaceChildren(about(answer));
  byId("list-tools").hidden = !items.length;
  byId("list-state").replaceChildren();
  if (items.length) flip(byId("list"), [...items.map((one) => card(one, actions)), ...more()]);
  else empty(answer);
}

function more() {
  if (items.length < length || length >= MOST) return [];
  const click = () => {
    length += K;
    load();
  };
  return [
    h("li", { class: "more no-print" }, h("button", { type: "button", class: "button", on: { click } }, "Show more")),
  ];
}

/** The second question, with reasons: it takes longer, and the list does not wait for it or fail with it. */
async function reasons(signal) {
  let by = new Map();
  try {
    const body = { ...question(), explain: true, fields: false };
    const found = await ask("v1/recommend", { method: "POST", body, signal });
    by = new Map(found.items.map((one) => [String(one.item_id), one.reason]));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) throw problem;
  }
  for (const one of items) one.reason = by.get(one.item_id) ?? one.reason ?? "";
  for (const node of byId("list").querySelectorAll("[data-id]")) {
    const one = items.find(({ item_id: id }) => id === node.dataset.id);
    if (one) showReason(node, one.reason);
  }
}

function takeOut(id) {
  if (!items.some((one) => one.item_id === id)) return;
  items = items.filter((one) => one.item_id !== id);
  const list = byId("list");
  list.setAttribute("aria-busy", "true"); // the next list is on its way
  flip(
    list,
    [...list.children].filter((node) => node.dataset.id !== id),
  );
}

function heading(route) {
  if (!route.startsWith("popularity")) return isVisitor() ? "For you" : `For person ${state.user}`;
  return isVisitor() && !state.history.length ? "Popular to begin with" : "Popular with everyone";
}

const ROUTES = {
  known_user: "The model knows this person from training.",
  content: "Found by the attributes of this person.",
  popularity_within: "Popular with people who have the same attributes.",
  popularity: "The same for everyone, because nothing is known that the model can use.",
};

function about(answer) {
  const count = state.history.length;
  const folded = answer.feedback?.folded_in ?? 0;
  const sentences = [
    answer.route === "history"
      ? isVisitor()
        ? `From ${count === 1 ? "the one title" : `the ${count} titles`} in your history.`
        : "From the history of this person."
      : ROUTES[answer.route],
    folded ? `${folded} new ${folded === 1 ? "answer counts" : "answers count"} already.` : "",
    `Model ${answer.model}, ${age(answer.model_age_s)} old.`,
    ...(answer.items.length ? (answer.notes ?? []) : []),
  ];
  return sentences.filter(Boolean).join(" ");
}

/** An empty list says its true reason, and which filter to loosen. */
function empty(answer) {
  byId("list").replaceChildren();
  const loosen = inWords(state.filter).map(([column, words]) => [
    `Remove “${words}”`,
    () => {
      const { [column]: _, ...rest } = state.filter;
      change({ filter: rest });
    },
  ]);
  const back =
    state.not.length && answer.empty_reason === "excluded"
      ? [["Allow what was not of interest", () => change({ not: [] })]]
      : [];
  byId("list-state").replaceChildren(
    stateBlock({
      heading: loosen.length ? "No title passes the filters" : "There is nothing left to recommend",
      text: (answer.notes ?? []).join(" ") || "Every title is in the history already.",
      actions: [...loosen, ...back],
    }),
  );
}

function failed(problem) {
  items = [];
  byId("list").replaceChildren();
  byId("list-about").textContent = "";
  byId("list-tools").hidden = true;
  const block = problem.unknown && !isVisitor() ? unknownUser(problem) : problemBlock(problem, load);
  byId("list-state").replaceChildren(block);
}

function unknownUser(problem) {
  return stateBlock({
    heading: `Nobody is known as ${state.user}`,
    text: `${problem.detail} Choose somebody else, or begin with an empty history.`,
    actions: [
      ["Choose a person", choosePerson],
      ["Begin as a visitor", () => change({ user: null }, { push: true })],
    ],
  });
}
