/** Cards of the list, compact rows, and skeletons of the same size. */

import { cover } from "./cover.js";
import { h, icon, title } from "./dom.js";
import { fieldsLine } from "./fields.js";

/** `actions`: open(item), like(item), dismiss(item), each optional; `readonly` says why feedback is not possible. */
export function card(item, actions) {
  const name = h("button", { type: "button", on: { click: () => actions.open(item) } }, title(item.title));
  return h(
    "li",
    {
      class: "card",
      tabindex: "-1",
      data: { id: item.item_id },
      "aria-label": `${item.rank ?? ""} ${item.title}`.trim(),
    },
    item.rank ? h("span", { class: "card-place", "aria-hidden": "true" }, item.rank) : null,
    h(
      "button",
      {
        type: "button",
        class: "card-cover",
        tabindex: "-1",
        "aria-hidden": "true",
        on: { click: () => actions.open(item) },
      },
      cover(item),
    ),
    h(
      "div",
      { class: "card-words" },
      h("h3", { class: "card-title" }, name),
      fieldsLine(item),
      reasonLine(item.reason),
    ),
    buttons(item, actions),
  );
}

function buttons(item, { like, dismiss, readonly }) {
  const off = readonly ? { "aria-disabled": "true", title: readonly } : {};
  const press = (act) => ({ click: () => act(item) });
  return h(
    "div",
    { class: "card-actions no-print" },
    h(
      "button",
      {
        type: "button",
        class: "button quiet compact",
        data: { act: "like" },
        on: press(like),
        ...off,
        "aria-label": `More like ${item.title}`,
      },
      icon("plus"),
      "More",
    ),
    h(
      "button",
      {
        type: "button",
        class: "button quiet compact",
        data: { act: "dismiss" },
        on: press(dismiss),
        ...off,
        "aria-label": `Not interested in ${item.title}`,
      },
      icon("close"),
      "Not for me",
    ),
  );
}

/** The place of the sentence is there before the sentence is: reasons arrive after the list. */
function reasonLine(reason) {
  if (reason) return h("p", { class: "card-reason", dir: "auto" }, shortened(reason));
  return h("p", { class: "card-reason", "aria-hidden": "true" }, h("span", { class: "bone text" }));
}

/** Fills in a reason, or clears its place if there is none. */
export function showReason(node, reason) {
  const place = node.querySelector(".card-reason");
  place.removeAttribute("aria-hidden");
  place.setAttribute("dir", "auto");
  place.textContent = reason ? shortened(reason) : "";
}

/** The sentence as short as a card wants it: its numbers, years and lesser clauses are in the sheet. */
export function shortened(reason) {
  const main = reason.replace(/^Recommended because /, "Because ").replace(/ \([+−-]\d[\d.,]*\)/g, "");
  return main.split(/, despite |; /)[0].replace(/ \(\d{4}\)/g, "");
}

export function skeletons(count) {
  return Array.from({ length: count }, () =>
    h(
      "li",
      { class: "card skeleton", "aria-hidden": "true" },
      h("div", { class: "cover card-cover" }),
      h(
        "div",
        { class: "card-words" },
        h("div", { class: "bone text" }),
        h("div", { class: "bone text short" }),
        h("p", { class: "card-reason" }, h("span", { class: "bone text" })),
      ),
      h("div", { class: "card-actions" }, h("span", { class: "button compact quiet" })),
    ),
  );
}

/** A row of a compact list; `note` stands at its end. */
export function rowItem(item, open, note = null) {
  return h(
    "li",
    { class: "row-item", data: { id: item.item_id } },
    h("span", { class: "place" }, item.rank ?? ""),
    cover(item),
    h(
      "div",
      { class: "card-words" },
      h(
        "h3",
        { class: "card-title" },
        h("button", { type: "button", on: { click: () => open(item) } }, title(item.title)),
      ),
      fieldsLine(item),
    ),
    note,
  );
}
