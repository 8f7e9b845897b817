/** The sheet of one item: why it is there, in words and numbers, what would remove it, and what is like it. */

import { ask, Problem } from "./api.js";
import { bars } from "./bars.js";
import { catalogue, describe, item, remember, wire } from "./catalogue.js";
import { rowItem } from "./card.js";
import { cover } from "./cover.js";
import { closeButton, closesOutside, floating } from "./dialog.js";
import { byId, h, title } from "./dom.js";
import { dismiss, forget, like, onFeedback, rate, readOnly, whom } from "./feedback.js";
import { say, usable, words } from "./fields.js";
import { entry, historyIds, mark, onProfile } from "./history.js";
import { stars } from "./stars.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { problemBlock } from "./states.js";
import { table } from "./tables.js";
import { count, figures, signed } from "./words.js";

const SIMILAR = 6;
const REASONS_OF = ["history", "not", "model", "swap"];
let control = null;

export function startSheet() {
  const sheet = byId("sheet");
  closesOutside(sheet);
  sheet.addEventListener("close", () => change({ item: null }));
  onChange((names) => {
    if (names.has("item")) show();
    else if (REASONS_OF.some((name) => names.has(name))) refresh();
  });
  onFeedback((_, __, stage) => stage !== "begun" && !isVisitor() && refresh());
  onProfile(() => byId("sheet").open && redraw());
}

export async function show() {
  const sheet = byId("sheet");
  control?.abort();
  if (state.item === null) {
    if (sheet.open) sheet.close();
    return;
  }
  control = new AbortController();
  const id = state.item;
  frame(sheet, item(id));
  if (!sheet.open) sheet.showModal();
  sheet.scrollTop = 0;
  const { signal } = control;
  await Promise.all([
    describe([id], signal).then(
      () => signal.aborted || byId("sheet-item").replaceWith(summary(item(id))),
      () => {},
    ),
    late(byId("sheet-why"), why, id, signal),
    late(byId("sheet-similar"), similar, id, signal),
  ]);
}

/** The history or the model has changed under the open sheet: what depends on it is asked again, and nothing else moves. */
async function refresh() {
  const sheet = byId("sheet");
  if (!sheet.open || state.item === null) return;
  control?.abort();
  control = new AbortController();
  const { signal } = control;
  const id = state.item;
  redraw();
  const parts = [late(byId("sheet-why"), why, id, signal)];
  if (byId("sheet-similar").querySelector(".skeleton")) parts.push(late(byId("sheet-similar"), similar, id, signal));
  await Promise.all(parts);
}

/** The summary anew; the focus stays in it. */
function redraw() {
  const focused = document.activeElement?.closest("#sheet-item");
  byId("sheet-item").replaceWith(summary(item(state.item)));
  if (focused) byId("sheet-item").querySelector("input:checked, button")?.focus();
}

const late = (part, fill, id, signal) =>
  fill(part, id, signal).catch((problem) => {
    if (problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) throw problem;
    part.replaceChildren(problemBlock(problem, () => late(part, fill, id, signal)));
  });

function frame(sheet, one) {
  sheet.replaceChildren(
    h(
      "div",
      { class: "sheet-head" },
      h("h2", { id: "sheet-title" }, "Why this one"),
      closeButton(() => sheet.close()),
    ),
    h(
      "div",
      { class: "sheet-body" },
      summary(one),
      h("section", { id: "sheet-why", class: "stack" }, bones(6)),
      h("section", { id: "sheet-similar", class: "stack" }, bones(3)),
    ),
    floating(sheet),
  );
}

const bones = (lines) =>
  h(
    "div",
    { class: "skeleton", role: "status", "aria-label": "Loading" },
    Array.from({ length: lines }, () => h("div", { class: "bone text tall" })),
  );

function summary(one) {
  const facts = usable()
    .map(({ name }) => [words(name), say(name, one.fields?.[name])])
    .filter(([, text]) => text);
  if (one.interactions !== undefined) facts.push(["Interactions", one.interactions.toLocaleString("en")]);
  return h(
    "section",
    { class: "sheet-item", id: "sheet-item" },
    cover(one),
    h(
      "div",
      { class: "sheet-words" },
      h("h3", { class: "sheet-name", dir: "auto" }, one.title),
      h(
        "dl",
        { class: "facts tight" },
        facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, text))]),
      ),
      feedbackRow(one),
    ),
  );
}

function feedbackRow(one) {
  const off = readOnly() ? { disabled: true, title: readOnly() } : {};
  const close = (act) => ({
    click: () => {
      change({ item: null });
      act(one);
    },
  });
  const mine = mark(one.item_id);
  const given = entry(one.item_id);
  return h(
    "div",
    { class: "stack tight" },
    catalogue.scale && !readOnly()
      ? h(
          "div",
          { class: "row" },
          stars(`Rating of ${one.title}`, given ? (given.rating ?? catalogue.scale[1]) : null, (value) => rate(one, value)),
        )
      : null,
    mine ? h("p", { class: "small muted" }, `${mine}.`) : null,
    h(
      "div",
      { class: "row" },
      mine
        ? given?.removable
          ? h(
              "button",
              {
                type: "button",
                class: "button compact",
                ...off,
                on: {
                  click: () => {
                    change({ item: null });
                    forget(one.item_id);
                  },
                },
              },
              "Remove from the history",
            )
          : null
        : [
            h("button", { type: "button", class: "button compact", ...off, on: close(like) }, "More like this"),
            h("button", { type: "button", class: "button compact", ...off, on: close(dismiss) }, "Not interested"),
          ],
    ),
  );
}

async function why(part, id, signal) {
  if (isVisitor() && !state.history.length) {
    part.replaceChildren(
      h("h3", {}, "Why"),
      h(
        "p",
        { class: "muted" },
        "Nothing is known about this visitor yet, so the list is what most people chose. Rate a few titles, and reasons appear here.",
      ),
    );
    return;
  }
  const found = await ask("v1/explain", {
    method: "POST",
    body: { ...whom(), item_id: wire(id), model: state.model },
    signal,
  });
  const listed = found.rank !== null;
  part.replaceChildren(
    h(
      "p",
      { class: "sentence", dir: "auto" },
      `${found.sentence.replace(/ \([+−-]\d[\d.,]*\)/g, "").replace(/\.?$/, "")}.`,
    ),
    found.contributions.length ? bars(found) : null,
    h("details", {}, h("summary", {}, "How the score adds up"), h("div", { class: "drawer-body" }, sum(found))),
    listed && historyIds().size ? removal(id) : null,
  );
}

function sum(found) {
  const parts = [
    ...found.base_parts.map(({ label, value }) => [label, value]),
    ...found.contributions.map(({ label, value }) => [label, value]),
  ];
  if (found.other) parts.push(["all other contributions", found.other]);
  if (found.residual) parts.push(["residual", found.residual]);
  const columns = [
    { head: "Part", cell: ([label]) => title(label) },
    { head: "Value", number: true, cell: ([, value]) => signed(value) },
  ];
  return [
    table("Parts of the score", columns, parts.concat([["Score", found.score]])),
    h(
      "p",
      { class: "small muted" },
      `Method: ${found.method}. ${found.contributions.some(({ error }) => error) ? "± is two standard errors." : "Its numbers are exact."}${found.fit ? ` Fit R² ${figures(found.fit)}.` : ""} ${found.notes.join(" ")}`,
    ),
  ];
}

/** What would remove the item from the list; asked for on request, because the search takes longer. */
function removal(id) {
  const place = h("div", { class: "stack" });
  const button = h(
    "button",
    { type: "button", class: "button compact", on: { click: find } },
    "What would remove this",
  );
  place.append(h("div", {}, button));
  async function find() {
    button.disabled = true;
    button.textContent = "Searching";
    try {
      const { counterfactual: answer } = await ask("v1/explain", {
        method: "POST",
        body: { ...whom(), item_id: wire(id), model: state.model, counterfactual: true, k: 12, top: 1 },
      });
      const ids = (answer?.removed ?? []).map((one) => String(one.item_id));
      place.replaceChildren(
        h("h3", {}, "What would remove this"),
        h("p", { dir: "auto" }, answer?.sentence || answer?.reason || "No answer was found."),
        isVisitor() && ids.length
          ? h(
              "div",
              {},
              h(
                "button",
                {
                  type: "button",
                  class: "button compact",
                  on: {
                    click: () => change({ item: null, history: state.history.filter((one) => !ids.includes(one.id)) }),
                  },
                },
                `Try the list without ${count(ids.length, "title")}`,
              ),
            )
          : "",
      );
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      place.replaceChildren(problemBlock(problem, () => place.replaceWith(removal(id))));
    }
  }
  return place;
}

async function similar(part, id, signal) {
  const found = await ask(`v1/similar/${encodeURIComponent(id)}`, {
    query: { k: SIMILAR, fields: true, model: state.model },
    signal,
  });
  const open = (one) => change({ item: one.item_id }, { push: true });
  part.replaceChildren(
    h("h3", {}, "Similar titles"),
    h(
      "ol",
      { class: "rows" },
      remember(found.items).map((one) =>
        rowItem(
          one,
          open,
          h("span", { class: "small muted number", title: "Cosine similarity, at most 1" }, one.score.toFixed(2)),
        ),
      ),
    ),
  );
}
