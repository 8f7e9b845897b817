/** The fields under a title: at most three, chosen from the kinds of the item table, changeable, kept on this device. */

import { catalogue } from "./catalogue.js";
import { h } from "./dom.js";

const KEPT = "palate-fields";
const MOST = 3;
const ORDER = ["tags", "category", "number", "date"];
const YEAR = /year|released/i;

/** Columns that can stand under a title: short ones. */
export const usable = () => catalogue.fields.filter(({ kind, name }) => ORDER.includes(kind) && name !== "title");

export function shownFields() {
  const names = usable().map(({ name }) => name);
  const kept = JSON.parse(localStorage.getItem(KEPT) ?? "null");
  if (kept) return kept.filter((name) => names.includes(name)).slice(0, MOST);
  const kinds = [...usable()].sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind));
  return kinds.slice(0, MOST).map(({ name }) => name);
}

/** "1977 · Action, Adventure, Sci-Fi". */
export function fieldsLine(item) {
  const texts = shownFields()
    .map((name) => say(name, item.fields?.[name]))
    .filter(Boolean);
  return h("p", { class: "card-fields" }, h("bdi", {}, texts.join(" · ")));
}

/** A value in words. */
export function say(name, value) {
  if (value === null || value === undefined || value === "") return "";
  const tags = catalogue.fields.find((field) => field.name === name)?.kind === "tags";
  if (tags || Array.isArray(value))
    return (Array.isArray(value) ? value : value.split(/[|;,]/))
      .slice(0, 3)
      .map((one) => String(one).replaceAll("_", " "))
      .join(", ");
  if (typeof value !== "number") return String(value);
  return YEAR.test(name) ? String(value) : value.toLocaleString("en", { maximumFractionDigits: 2 });
}

/** Checkboxes that choose the fields; calls `changed` afterwards. */
export function fieldsChooser(changed) {
  const boxes = usable().map(({ name }) => {
    const box = h("input", { type: "checkbox", value: name, on: { change: keep } });
    box.checked = shownFields().includes(name);
    return box;
  });
  function keep() {
    const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
    localStorage.setItem(KEPT, JSON.stringify(chosen));
    bound();
    changed();
  }
  function bound() {
    const full = boxes.filter((box) => box.checked).length >= MOST;
    for (const box of boxes) box.disabled = full && !box.checked;
  }
  bound();
  return h(
    "fieldset",
    { class: "choices" },
    h("legend", {}, `Under the title (up to ${MOST})`),
    h(
      "div",
      {},
      boxes.map((box) => h("label", { class: "check small" }, box, words(box.value))),
    ),
  );
}

/** A column's name in words: "mean_price" as "Mean price". */
export const words = (name) => {
  const text = name.replaceAll("_", " ").trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
};
