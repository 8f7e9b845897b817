/** The history: what the list is made of, as chips that can be removed. */

import { ask, Problem } from "./api.js";
import { catalogue, describe, item, remember } from "./catalogue.js";
import { byId, h, icon, title } from "./dom.js";
import { forget, like, onFeedback, readOnly } from "./feedback.js";
import { forgetPerson, showPerson } from "./person.js";
import { search } from "./search.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { count } from "./words.js";

const AT_FIRST = 8;
const MOST = 100;
let profile = null;
let all = false;
let control = null;
let profiled = () => {};

/** Calls `listener()` when the stored history of the person is there, at first and after each change. */
export const onProfile = (listener) => (profiled = listener);

export function startHistory() {
  const box = h("div", { class: "stack", id: "history-chips" });
  byId("history").append(
    search({ id: "search", label: "Add titles you know", placeholder: "Search titles", choose: like, mark }),
    box,
  );
  onChange((names) => {
    if (names.has("user")) profile = null;
    if (["user", "history", "not"].some((name) => names.has(name))) draw();
  });
  onFeedback((id, type, stage) => stage !== "begun" && !isVisitor() && draw());
}

/** Words for an item that the history has already. */
export function mark(id) {
  if (isVisitor())
    return state.history.some((one) => one.id === id) ? "In the history" : state.not.includes(id) ? "Not for me" : "";
  return historyIds().has(id) ? "In the history" : "";
}

/** What the history says of an item: its rating (null for a liked one), and whether it can be removed; undefined if nothing. */
export function entry(id) {
  const same = (one) => String(one.item_id ?? one.id) === id;
  if (isVisitor()) {
    const mine = state.history.find(same);
    return mine && { rating: mine.rating, removable: true };
  }
  const stored = profile?.feedback.items.find(same);
  if (stored) return { rating: stored.value ?? null, removable: !readOnly() };
  const trained = profile?.training.items.find(same);
  return trained && { rating: trained.rating ?? null, removable: false };
}

/** Ids of the items that the shown person has. */
export function historyIds() {
  if (isVisitor()) return new Set(state.history.map(({ id }) => id));
  return new Set(
    [
      ...(profile?.feedback.items ?? []).filter(({ type }) => type !== "not_interested"),
      ...(profile?.training.items ?? []),
    ].map((one) => String(one.item_id)),
  );
}

export async function draw() {
  control?.abort();
  control = new AbortController();
  const { signal } = control;
  if (!isVisitor() && !profile) byId("history-chips").replaceChildren(bones());
  try {
    if (isVisitor()) {
      await describe([...state.history.map(({ id }) => id), ...state.not], signal);
      if (!signal.aborted) visitor();
    } else {
      profile = await ask(`v1/users/${encodeURIComponent(state.user)}`, {
        query: { limit: MOST, fields: true },
        signal,
      });
      showPerson(profile);
      person();
      profiled();
    }
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) throw problem;
    byId("history-chips").replaceChildren(
      h("p", { class: "small muted" }, problem.unknown ? "No history." : problem.message),
    );
  }
}

/** As high as the history that will come, so that nothing below it moves. */
const bones = () =>
  h(
    "div",
    { class: "chip-group skeleton", role: "status", "aria-label": "Loading" },
    h("div", { class: "bone text short" }),
    h("div", { class: "chips" }, Array.from({ length: AT_FIRST }, () => h("div", { class: "chip bone" }))),
    h("div", { class: "bone text tall" }),
  );

function visitor() {
  const chips = [...state.history]
    .reverse()
    .map(({ id, rating }) => chip(id, rating === null ? "" : `${rating}`, { removable: true }));
  const not = state.not.map((id) => chip(id, "", { removable: true, disliked: true }));
  byId("history-chips").replaceChildren(...group("Your history", chips), ...group("Not for me", not));
}

function person() {
  const ids = (some) => remember(some).map((one) => ({ ...one, id: one.item_id }));
  const stored = ids(profile.feedback.items);
  const trained = ids(profile.training.items).filter((one) => !stored.some(({ id }) => id === one.id));
  const chips = (some, how) =>
    some.map((one) => chip(one.id, one.value ?? one.rating ?? "", { ...how, disliked: one.type === "not_interested" }));
  const shown = all ? trained : trained.slice(0, AT_FIRST);
  byId("history-chips").replaceChildren(
    ...group(
      "Stored since training",
      chips(stored, { removable: !readOnly() }),
      stored.length && !readOnly()
        ? h(
            "button",
            {
              type: "button",
              class: "button quiet compact",
              on: { click: () => forgetPerson(state.user, () => change({ user: null }, { push: true })) },
            },
            "Forget all",
          )
        : null,
    ),
    ...group(
      `From training, newest of ${profile.training.count.toLocaleString("en")}`,
      chips(shown, {}),
      trained.length > AT_FIRST ? moreButton(trained.length) : null,
    ),
    ...(readOnly() ? [h("p", { class: "small muted" }, `${readOnly()}.`)] : []),
  );
}

function moreButton(total) {
  const words = all ? "Show fewer" : `Show ${count(total - AT_FIRST, "more").replace("mores", "more")}`;
  return h(
    "button",
    {
      type: "button",
      class: "button quiet compact",
      on: {
        click: () => {
          all = !all;
          person();
        },
      },
    },
    words,
  );
}

function group(heading, chips, end = null) {
  if (!chips.length) return [];
  return [
    h(
      "section",
      { class: "chip-group" },
      h("h3", { class: "small muted" }, heading),
      h("ul", { class: "chips" }, chips),
      end,
    ),
  ];
}

function chip(id, rating, { removable = false, disliked = false }) {
  const name = item(id).title;
  const words =
    rating === ""
      ? null
      : h(
          "span",
          { class: "number muted" },
          h("span", { class: "unseen" }, "rated "),
          rating,
          catalogue.scale ? h("span", { "aria-hidden": "true" }, " ★") : null,
        );
  return h(
    "li",
    { class: `chip${disliked ? " disliked" : ""}`, data: { id } },
    h(
      "button",
      { type: "button", class: "chip-name", title: name, on: { click: () => change({ item: id }, { push: true }) } },
      title(name),
      words,
    ),
    removable
      ? h(
          "button",
          { type: "button", class: "chip-remove", "aria-label": `Remove ${name}`, on: { click: () => forget(id) } },
          icon("close"),
        )
      : null,
  );
}
