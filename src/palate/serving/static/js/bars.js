/** Contributions as bars on both sides of zero, with their numbers and errors in a table that can be copied. */

import { h, svg, title } from "./dom.js";
import { copyButton } from "./tables.js";
import { signed } from "./words.js";

const WIDTH = 200;
const KINDS = { history: "", feature: "Attribute", word: "Word", region: "Part of the image" };

/** The bars of an explanation's contributions. */
export function bars(explanation) {
  const shown = explanation.contributions;
  const reach = Math.max(...shown.map(({ value, error }) => Math.abs(value) + 2 * error), 1e-9);
  const rows = shown.map((one) =>
    h(
      "tr",
      { class: one.shown ? null : "weak" },
      h(
        "th",
        { scope: "row", class: "bar-name" },
        KINDS[one.kind] ? h("span", { class: "muted" }, `${KINDS[one.kind]} `) : null,
        title(one.label),
      ),
      h("td", {}, bar(one, reach)),
      h(
        "td",
        { class: "bar-number number" },
        signed(one.value),
        one.error ? h("small", {}, `± ${signed(2 * one.error).slice(1)}`) : null,
      ),
    ),
  );
  return h(
    "div",
    { class: "bars" },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, "How much each thing adds to the score or takes from it"),
      h("colgroup", {}, h("col", { class: "bar-name" }), h("col"), h("col", { class: "bar-number" })),
      h("tbody", {}, rows),
    ),
    h(
      "div",
      { class: "spread" },
      h("p", { class: "small muted" }, "Right of the line: for it. Left: against it."),
      copyButton("Copy", () => [
        ["kind", "what", "value", "standard error"],
        ...shown.map((one) => [one.kind, one.label, one.value, one.error]),
      ]),
    ),
  );
}

/** Right of the zero line if it speaks for the item, left if against: the side tells it, not the colour alone. */
function bar({ value, error }, reach) {
  const at = (number) => WIDTH / 2 + (number / reach) * (WIDTH / 2);
  const [from, to] = [Math.min(at(0), at(value)), Math.max(at(0), at(value))];
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} 24`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", {
      class: value >= 0 ? "for" : "against",
      x: from,
      y: 6,
      width: Math.max(to - from, 1),
      height: 12,
      rx: 2,
    }),
    svg("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 24, "vector-effect": "non-scaling-stroke" }),
    error
      ? svg("line", {
          class: "error",
          x1: at(value - 2 * error),
          x2: at(value + 2 * error),
          y1: 12,
          y2: 12,
          "vector-effect": "non-scaling-stroke",
        })
      : null,
  );
}
