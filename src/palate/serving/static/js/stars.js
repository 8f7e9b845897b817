/** A rating: one radio for each of five steps of the scale, so that arrows and screen readers work. */

import { catalogue } from "./catalogue.js";
import { h, svg } from "./dom.js";

const STEPS = 5;
const STAR = "M10 2.2l2.4 5 5.4.7-4 3.800 1 5.400-4.800-2.700-4.800 2.700 1-5.400-4-3.800 5.400-.7z";
let groups = 0;

/** The steps: whole numbers where the scale has five of them, else five equal parts of it. */
export function steps() {
  const [low, high] = catalogue.scale;
  const least = low < 1 && high === STEPS ? 1 : low;
  return Array.from({ length: STEPS }, (_, at) => Number((least + ((high - least) * at) / (STEPS - 1)).toFixed(2)));
}

export function stars(name, rating, rated) {
  const group = `stars-${groups++}`;
  const values = steps();
  const labels = values.map((value, at) => {
    const input = h("input", {
      type: "radio",
      name: group,
      value,
      "aria-label": `${value} of ${values.at(-1)}`,
      on: {
        change: () => {
          paint(at);
          rated(value);
        },
      },
    });
    input.checked = rating === value;
    return h("label", {}, input, svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: STAR })));
  });
  const paint = (upTo) => labels.forEach((one, at) => one.classList.toggle("on", at <= upTo));
  paint(rating === null ? -1 : values.findLastIndex((value) => value <= rating));
  return h("fieldset", { class: "stars" }, h("legend", { class: "unseen" }, name), labels);
}
