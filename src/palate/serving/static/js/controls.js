/** How the list is tuned: familiar or surprising, similar or varied, filters, which model, and what stands under a title. */

import { card, catalogue } from "./catalogue.js";
import { byId, h } from "./dom.js";
import { fieldsChooser, words } from "./fields.js";
import { change, onChange, state } from "./state.js";

const WAIT_MS = 150;
const MOST_VALUES = 18;
const MOST_FILTERS = 4;

export function startControls(fieldsChanged) {
  const wide = matchMedia("(width >= 1024px)");
  arrange(wide);
  wide.addEventListener("change", arrange);
  const place = byId("controls");
  const parts = [
    slider("surprise", "Familiar or surprising", -100, 100, ["Familiar", "Surprising"], percent),
    slider("variety", "Similar or varied", 0, 100, ["Similar", "Varied"], (value) =>
      value ? `${value} % varied` : "Best matches",
    ),
    ...catalogue.fields.map(filterOf).filter(Boolean).slice(0, MOST_FILTERS),
    catalogue.names.length > 1 ? modelChoice() : null,
    fieldsChooser(fieldsChanged),
    h(
      "button",
      { type: "button", class: "button compact", on: { click: () => change({ surprise: 0, variety: 0, filter: {} }) } },
      "Reset",
    ),
  ];
  place.replaceChildren(...parts.filter(Boolean));
  onChange(() =>
    place.querySelectorAll("[data-state]").forEach((node) => node.dispatchEvent(new Event("palate:state"))),
  );
}

/** Beside the list if there is room; else closed, and after the titles to rate, which come first. */
function arrange({ matches: wide }) {
  const drawer = byId("drawer");
  drawer.open = wide;
  if (wide) byId("who").closest(".side").append(drawer);
  else byId("onboarding").after(drawer);
}

const percent = (value) => (value === 0 ? "Balanced" : `${Math.abs(value)} % ${value < 0 ? "familiar" : "surprising"}`);

/** Keeps a control equal to the state, also when the back button changes it. */
function follows(node, set) {
  node.dataset.state = "";
  node.addEventListener("palate:state", set);
  set();
  return node;
}

function slider(name, label, min, max, ends, say) {
  let timer;
  const input = h("input", {
    type: "range",
    id: `slider-${name}`,
    min,
    max,
    step: 10,
    on: {
      input: () => {
        value();
        clearTimeout(timer);
        timer = setTimeout(() => change({ [name]: Number(input.value) }), WAIT_MS);
      },
    },
  });
  const value = () => input.setAttribute("aria-valuetext", say(Number(input.value)));
  follows(input, () => {
    input.value = state[name];
    value();
  });
  return h(
    "div",
    { class: "slider labelled" },
    h("label", { for: `slider-${name}` }, label),
    input,
    h(
      "div",
      { class: "slider-ends", "aria-hidden": "true" },
      ends.map((word) => h("span", {}, word)),
    ),
  );
}

function filterOf(field) {
  if (field.values?.length) return valuesOf(field);
  if (field.kind === "number" && field.low !== null && field.low < field.high) return rangeOf(field);
  return null;
}

function put(column, chosen) {
  const { [column]: _, ...rest } = state.filter;
  change({ filter: chosen ? { ...rest, [column]: chosen } : rest });
}

function valuesOf({ name, values }) {
  const chosen = () => state.filter[name]?.values ?? [];
  const toggles = values.slice(0, MOST_VALUES).map((value) => {
    const input = h("input", {
      type: "checkbox",
      on: {
        change: () => {
          const next = input.checked ? [...chosen(), value] : chosen().filter((one) => one !== value);
          put(name, next.length ? { values: next } : null);
        },
      },
    });
    return h(
      "label",
      { class: "toggle" },
      follows(input, () => {
        input.checked = chosen().includes(value);
      }),
      h("span", {}, String(value).replaceAll("_", " ")),
    );
  });
  return h("fieldset", { class: "choices" }, h("legend", {}, words(name)), h("div", { class: "options" }, toggles));
}

function rangeOf({ name, low, high }) {
  const bound = (key, label, hint) => {
    const input = h("input", {
      type: "number",
      class: "field number",
      id: `filter-${name}-${key}`,
      placeholder: hint,
      min: low,
      max: high,
      step: "any",
      on: { change: keep },
    });
    return (
      follows(input, () => {
        input.value = state.filter[name]?.[key] ?? "";
      }) && [h("label", { class: "unseen", for: input.id }, `${words(name)} ${label}`), input]
    );
  };
  const number = (input) => (input.value === "" ? null : Number(input.value));
  const [from, to] = [bound("low", "from", low), bound("high", "to", high)];
  function keep() {
    const chosen = { low: number(from[1]), high: number(to[1]) };
    put(name, chosen.low === null && chosen.high === null ? null : chosen);
  }
  return h(
    "fieldset",
    { class: "choices" },
    h("legend", {}, words(name)),
    h("div", { class: "range" }, from, h("span", { class: "muted small" }, "to"), to),
  );
}

function modelChoice() {
  const select = h(
    "select",
    { class: "field", id: "model-choice", on: { change: () => change({ model: select.value }) } },
    catalogue.names.map((name) => h("option", { value: name }, name)),
  );
  follows(select, () => {
    select.value = card(state.model).name;
  });
  return h("div", { class: "labelled" }, h("label", { for: "model-choice" }, "Model"), select);
}
