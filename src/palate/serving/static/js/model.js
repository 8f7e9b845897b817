/** The card of the model: how good it is and for whom, how it learnt, what it learnt from, and what it is not for. */

import { card, catalogue } from "./catalogue.js";
import { byId, h } from "./dom.js";
import { words } from "./fields.js";
import { healthPanel } from "./health.js";
import { learning } from "./learning.js";
import { quality, slices } from "./quality.js";
import { change, onChange, state } from "./state.js";
import { panel } from "./tables.js";
import { age, day, figures, list, sentence } from "./words.js";

const ANSWERS = {
  known_user: "people in the data",
  history: "visitors by their history",
  new_user: "people by their attributes",
  new_item: "new items",
  similar_items: "similar items",
  rating: "predicted ratings",
};

export function startModel() {
  onChange((names) => state.tab === "model" && (names.has("tab") || names.has("model") || names.has("swap")) && draw());
}

function draw() {
  const one = card(state.model);
  byId("model").replaceChildren(
    h(
      "div",
      { class: "view-head full" },
      h("div", { class: "spread" }, h("h1", { id: "model-title" }, one.name), chooser(one)),
      h("p", {}, one.description),
    ),
    h("div", { class: "wide stack roomy" }, quality(one), slices(one), learning(one)),
    h("div", { class: "narrow stack roomy" }, purpose(one), data(one), healthPanel(), settings(one)),
  );
}

function chooser(one) {
  if (catalogue.names.length < 2) return null;
  const options = catalogue.names.map((name) => h("option", { value: name, selected: name === one.name }, name));
  const select = h(
    "select",
    { class: "field fit", id: "model-pick", on: { change: () => change({ model: select.value }) } },
    options,
  );
  return h("div", { class: "row" }, h("label", { class: "small muted", for: "model-pick" }, "Model"), select);
}

function purpose(one) {
  const answers = one.answers.map((name) => ANSWERS[name]).filter(Boolean);
  const feedback = one.fold_in
    ? "New feedback changes the scores at once."
    : "New feedback takes titles out of the list; the scores change when the model is trained again.";
  const bullets = [feedback, ...(one.limits ?? [])].map((text) => h("li", {}, text));
  return panel(
    "What it is for",
    h("p", {}, `It answers for ${list(answers)}.`),
    h("ul", { class: "bullets" }, bullets),
  );
}

function data(one) {
  const { users, items, interactions, ratings, first, last, notes = [] } = one.data;
  const facts = [
    ["Users", users.toLocaleString("en")],
    ["Items", items.toLocaleString("en")],
    ["Interactions", interactions.toLocaleString("en")],
    ["Per user", figures(interactions / Math.max(users, 1))],
    ratings && ["Ratings", `${ratings.low} to ${ratings.high}, mean ${figures(ratings.mean)}`],
    first && ["From", day(first)],
    last && ["To", day(last)],
  ];
  return panel(
    "What it learnt from",
    definitions(facts.filter(Boolean)),
    notes.map((note) => h("p", { class: "small muted" }, sentence(note))),
  );
}

function settings(one) {
  const all = [...Object.entries(one.config ?? {}), ...Object.entries(one.training ?? {})];
  const plain = all.filter(([, setting]) => setting !== null && typeof setting !== "object");
  return h(
    "details",
    { class: "panel roomy" },
    h("summary", {}, "Settings"),
    h(
      "div",
      { class: "drawer-body" },
      h("p", { class: "small muted" }, `Saved ${age(one.age_s)} ago. Hash `, h("code", {}, one.model_id)),
      definitions(plain.map(([name, setting]) => [words(name), String(setting)])),
    ),
  );
}

const definitions = (facts) =>
  h(
    "dl",
    { class: "facts" },
    facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]),
  );
