/** Explore: the map of the catalogue, similar titles, and lists from a region of it. */

import { ask, Problem } from "./api.js";
import { catalogue, describe, item, remember, wire } from "./catalogue.js";
import { rowItem } from "./card.js";
import { byId, h } from "./dom.js";
import { onFeedback } from "./feedback.js";
import { question } from "./foryou.js";
import { words } from "./fields.js";
import { historyIds } from "./history.js";
import { COLOURS, catalogueMap } from "./map.js";
import { search } from "./search.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { problemBlock, stateBlock } from "./states.js";
import { count, figures, sentence } from "./words.js";

const K = 10;
let map = null;
let mapModel = null;

export function startExplore() {
  onChange((names) => {
    if (names.has("swap")) map = null;
    if (state.tab !== "explore") return;
    if (names.has("tab") || names.has("model") || names.has("swap")) draw();
    if (names.has("history") || names.has("user")) map?.mark([...historyIds()]);
  });
  onFeedback((_, __, stage) => stage === "done" && map?.mark([...historyIds()]));
  addEventListener("palate:theme", () => map?.recolour());
}

async function draw() {
  if (map && mapModel === state.model) return map.mark([...historyIds()]);
  const place = byId("explore");
  const stage = h("div", { class: "map", "aria-busy": "true" });
  place.replaceChildren(
    h(
      "div",
      { class: "view-head full" },
      h("h1", { id: "explore-title" }, "The catalogue as a map"),
      h("p", {}, "Each point is a title. Titles that the model finds alike lie close together."),
    ),
    h("div", { class: "wide stack", id: "map-side" }, stage),
    h(
      "div",
      { class: "narrow stack", id: "explore-side" },
      finder(),
      h("div", { class: "panel", id: "explore-panel" }, hint()),
    ),
  );
  try {
    const answer = await ask("v1/map", { query: { model: state.model } });
    mapModel = state.model;
    show(answer);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    byId("map-side").replaceChildren(problemBlock(problem, draw));
  }
}

function show(answer) {
  map = catalogueMap(answer, { choose: similar, region, history: () => [...historyIds()] });
  const part = answer.explained?.length
    ? ` The two directions hold ${Math.round(100 * (answer.explained[0] + answer.explained[1]))} % of the differences, so distance is a hint, not a measure.`
    : "";
  byId("map-side").replaceChildren(
    map.node,
    legend(answer),
    h(
      "div",
      { class: "spread" },
      h(
        "p",
        { class: "small muted" },
        `${sentence(answer.method)}.${part}${answer.total > map.points.count ? ` The ${map.points.count.toLocaleString("en")} most popular of ${answer.total.toLocaleString("en")} titles.` : ""}`,
      ),
      h(
        "button",
        { type: "button", class: "button compact no-print", on: { click: () => region(map.visible()) } },
        "Recommend from what is visible",
      ),
    ),
  );
}

function legend(answer) {
  const named = map.points.groups.map((name, at) => [name, at]);
  if (map.points.byGroup[COLOURS - 1].length && named.length) named.push(["Other", COLOURS - 1]);
  return h(
    "ul",
    { class: "legend", "aria-label": answer.group_name ? words(answer.group_name) : "Legend" },
    named.map(([name, at]) =>
      h("li", {}, h("i", { vars: { "--colour": `var(--group-${at})` } }), String(name).replaceAll("_", " ")),
    ),
    h("li", {}, h("i", { class: "ring" }), isVisitor() ? "Your history" : "The history"),
  );
}

const finder = () =>
  search({
    id: "find",
    label: "Find on the map",
    placeholder: "Search titles",
    choose: (one) => {
      if (!map?.find(one.item_id))
        byId("explore-panel").replaceChildren(
          stateBlock({ heading: "Not on the map", text: "The map shows the most popular titles only." }),
        );
      similar(one.item_id);
    },
  });

const hint = () => [
  h("h2", {}, "Pick a title"),
  h("p", { class: "muted" }, "Click a point to see what is like it."),
  h("h2", {}, "Or a region"),
  h("p", { class: "muted" }, "Draw around some points with the lasso, and get the best of them for this person."),
];

const open = (one) => change({ item: one.item_id }, { push: true });

async function similar(id) {
  const panel = byId("explore-panel");
  map.clearRegion();
  await fill(
    panel,
    () => similar(id),
    async () => {
      const [found] = await Promise.all([
        ask(`v1/similar/${encodeURIComponent(id)}`, { query: { k: K, fields: true, model: state.model } }),
        describe([id]),
      ]);
      const items = remember(found.items);
      map.show(items.map((one) => one.item_id));
      panel.replaceChildren(
        h("ul", { class: "rows" }, rowItem(item(id), open)),
        h("h2", {}, "Similar titles"),
        h(
          "p",
          { class: "small muted" },
          found.route === "item_vectors"
            ? "By the model's item vectors; 1 is the same."
            : "By who chose both; 1 is the same.",
        ),
        h(
          "ol",
          { class: "rows" },
          items.map((one) => rowItem(one, open, h("span", { class: "small muted number" }, one.score.toFixed(2)))),
        ),
      );
    },
  );
}

async function region(ids) {
  const panel = byId("explore-panel");
  if (!ids.length)
    return panel.replaceChildren(stateBlock({ heading: "No title in there", text: "Draw around some points." }));
  await fill(
    panel,
    () => region(ids),
    async () => {
      const answer = await ask("v1/recommend", {
        method: "POST",
        body: { ...question(K), candidates: ids.map((id) => wire(id)) },
      });
      const items = remember(answer.items);
      map.show(items.map((one) => one.item_id));
      panel.replaceChildren(
        h("h2", {}, "Best of this region"),
        h(
          "p",
          { class: "small muted" },
          [`${count(ids.length, "title")} in the region.`, ...(items.length ? [] : answer.notes)].join(" "),
        ),
        h(
          "ol",
          { class: "rows" },
          items.map((one) => rowItem(one, open)),
        ),
      );
    },
  );
}

/** Skeleton rows, then the answer, or what went wrong. */
async function fill(panel, retry, work) {
  panel.replaceChildren(
    h(
      "div",
      { class: "skeleton", role: "status", "aria-label": "Loading" },
      Array.from({ length: K }, () =>
        h("div", { class: "row-item" }, h("span"), h("div", { class: "cover" }), h("div", { class: "bone text" })),
      ),
    ),
  );
  try {
    await work();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    panel.replaceChildren(problemBlock(problem, retry));
  }
}
