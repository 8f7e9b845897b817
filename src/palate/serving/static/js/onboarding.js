/** The first minute: rate three titles, and the list below changes with each. */

import { ask } from "./api.js";
import { catalogue, remember } from "./catalogue.js";
import { cover } from "./cover.js";
import { byId, h, title } from "./dom.js";
import { dismiss, like, rate } from "./feedback.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { stars } from "./stars.js";

const ENOUGH = 3;
const PICKS = 16;
let picks = null;
let open = false;
let asking = null;

export function startOnboarding() {
  onChange((names) => (names.has("history") || names.has("not") || names.has("user") || names.has("tab")) && draw());
}

/** Shows the picks as long as a visitor's history is short, and until they are put away. */
export async function draw() {
  const place = byId("onboarding");
  if (state.history.length < ENOUGH) open = true;
  if (!isVisitor() || !open || state.tab !== "for-you") {
    place.hidden = true;
    return;
  }
  if (!picks) {
    if (!place.childElementCount) place.replaceChildren(head(), bones());
    place.hidden = false;
    asking ??= ask("v1/onboard", { query: { k: PICKS } }).then(
      ({ items }) => {
        picks = remember(items);
      },
      () => {
        picks = [];
      },
    );
    await asking;
  }
  place.hidden = !picks.length;
  if (place.querySelector(".pick:not(.skeleton)")) update(place);
  else
    place.replaceChildren(
      head(),
      h("ul", { class: "strip", tabindex: "0", "aria-label": "Titles to rate" }, picks.map(pick)),
    );
}

function update(place) {
  place.firstChild.replaceWith(head());
  for (const node of place.querySelectorAll(".pick")) {
    const one = picks.find((each) => each.item_id === node.dataset.id);
    if (node.dataset.answer !== answer(one)) node.replaceWith(pick(one));
  }
}

function head() {
  const count = state.history.length;
  const left = ENOUGH - count;
  const verb = catalogue.scale ? "Rate" : "Choose";
  const heading =
    left > 0
      ? `${verb} ${count ? `${left} more` : "three"} ${left === 1 ? "title" : "titles"} you know`
      : "That is enough to begin with";
  const text =
    left > 0
      ? "The list below changes with each answer. Nothing is stored: your answers are in this page and its address only."
      : "More answers make the list more yours.";
  return h(
    "div",
    { class: "spread" },
    h("div", { class: "view-head" }, h("h2", { id: "onboarding-title" }, heading), h("p", { class: "small" }, text)),
    h(
      "div",
      { class: "row" },
      h(
        "span",
        { class: "progress", role: "img", "aria-label": `${Math.min(count, ENOUGH)} of ${ENOUGH}` },
        [0, 1, 2].map((at) => h("i", { class: at < count ? "on" : "" })),
      ),
      left > 0 ? null : h("button", { type: "button", class: "button compact", on: { click: putAway } }, "Hide these"),
    ),
  );
}

function putAway() {
  open = false;
  draw();
  byId("for-you-title").scrollIntoView({ block: "nearest" });
}

const answer = (one) =>
  JSON.stringify([
    state.history.find(({ id }) => id === one.item_id)?.rating,
    state.history.some(({ id }) => id === one.item_id),
    state.not.includes(one.item_id),
  ]);

function pick(one) {
  const given = state.history.find(({ id }) => id === one.item_id);
  return h(
    "li",
    { class: "pick", data: { id: one.item_id, answer: answer(one) } },
    h(
      "button",
      {
        type: "button",
        class: "card-cover",
        tabindex: "-1",
        "aria-hidden": "true",
        on: { click: () => change({ item: one.item_id }, { push: true }) },
      },
      cover(one),
    ),
    h(
      "h3",
      { class: "card-title" },
      h(
        "button",
        { type: "button", on: { click: () => change({ item: one.item_id }, { push: true }) } },
        title(one.title),
      ),
    ),
    catalogue.scale
      ? stars(`Rating of ${one.title}`, given ? (given.rating ?? catalogue.scale[1]) : null, (value) =>
          rate(one, value),
        )
      : likeButtons(one, given),
  );
}

function likeButtons(one, given) {
  const button = (words, on, act) =>
    h(
      "button",
      {
        type: "button",
        class: "button compact",
        "aria-pressed": String(Boolean(on)),
        "aria-label": `${words}: ${one.title}`,
        on: { click: act },
      },
      words,
    );
  return h(
    "div",
    { class: "row" },
    button("Like", given, () => like(one)),
    button("No", state.not.includes(one.item_id), () => dismiss(one)),
  );
}

const bones = () =>
  h(
    "div",
    { class: "strip", "aria-hidden": "true" },
    Array.from({ length: 8 }, () =>
      h(
        "div",
        { class: "pick skeleton" },
        h("div", { class: "cover" }),
        h("div", { class: "bone text" }),
        h("div", { class: "stars" }, h("label", {})),
      ),
    ),
  );
