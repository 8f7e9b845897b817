/** Figures of the model's card: metrics with their intervals, and the learning curve. Each has its table beside it. */

import { h, svg } from "./dom.js";
import { figures } from "./words.js";

const ROW = 32;
const NAMES = 112;
const NUMBERS = 64;
const HEIGHT = 176;

/** A figure drawn for the width it has, so that its letters keep their size; `draw(width)` gives [height, nodes]. */
function fitted(label, draw) {
  const picture = svg("svg", { class: "plot", role: "img", "aria-label": label });
  const node = h("div", { class: "fitted" }, picture);
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.round(contentRect.width);
    if (!width) return;
    const [height, nodes] = draw(width);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` }))
      picture.setAttribute(name, value);
    picture.replaceChildren(...nodes.flat(Infinity).filter(Boolean));
  }).observe(node);
  return node;
}

/** A dot and its interval for each model; rows: [{ name, value, low, high, own }]. */
export function intervals(label, rows) {
  const lowest = Math.min(0, ...rows.map(({ low, value }) => low ?? value));
  const highest = Math.max(...rows.map(({ high, value }) => high ?? value));
  const height = rows.length * ROW;
  return fitted(label, (width) => {
    const at = (value) => NAMES + ((value - lowest) / (highest - lowest || 1)) * (width - NAMES - NUMBERS - 16);
    return [
      height,
      [
        svg("line", { class: "zero", x1: at(lowest), x2: at(lowest), y1: 0, y2: height }),
        rows.map((row, place) => oneInterval(row, place * ROW + ROW / 2, at, width)),
      ],
    ];
  });
}

function oneInterval({ name, value, low, high, own }, y, at, width) {
  const [mark, strong] = own ? ["", "strong"] : [" other", ""];
  const short = name.length > 15 ? `${name.slice(0, 14)}…` : name;
  const known = low !== null && low !== undefined;
  return [
    svg("text", { x: 0, y: y + 4, class: strong }, short),
    svg("line", { class: "grid", x1: NAMES, x2: width - NUMBERS, y1: y, y2: y }),
    known ? svg("line", { class: `whisker${mark}`, x1: at(low), x2: at(high), y1: y, y2: y }) : null,
    svg("circle", { class: `dot${mark}`, cx: at(value), cy: y, r: 6 }),
    svg("text", { x: width, y: y + 4, "text-anchor": "end", class: strong }, figures(value)),
  ];
}

/** A line over the epochs on its own scale; `best` is the epoch that was kept. */
export function curve(label, values, best) {
  const numbers = values.map(({ y }) => y);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const [first, last] = [values[0].x, values.at(-1).x];
  return fitted(label, (width) => {
    const inner = { left: 48, right: width - 8, top: 16, bottom: HEIGHT - 32 };
    const px = (x) => inner.left + ((x - first) / (last - first || 1)) * (inner.right - inner.left);
    const py = (y) => inner.bottom - ((y - low) / (high - low || 1)) * (inner.bottom - inner.top);
    const path = values.map(({ x, y }, at) => `${at ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join(" ");
    return [
      HEIGHT,
      [
        ticks(low, high, py, inner),
        svg("path", { class: "curve", d: path }),
        kept(values, best, px, py, inner),
        ends(first, last, inner),
      ],
    ];
  });
}

function ticks(low, high, py, inner) {
  return (low === high ? [low] : [low, (low + high) / 2, high]).map((y) => [
    svg("line", { class: "grid", x1: inner.left, x2: inner.right, y1: py(y), y2: py(y) }),
    svg("text", { x: inner.left - 8, y: py(y) + 4, "text-anchor": "end" }, figures(y)),
  ]);
}

function kept(values, best, px, py, inner) {
  const one = values.find(({ x }) => x === best);
  if (!one) return null;
  return [
    svg("line", { class: "best", x1: px(best), x2: px(best), y1: inner.top - 8, y2: inner.bottom }),
    svg("circle", { class: "dot", cx: px(best), cy: py(one.y), r: 6 }),
    best - values[0].x > 3 && values.at(-1).x - best > 3
      ? svg("text", { x: px(best), y: HEIGHT - 8, "text-anchor": "middle" }, `kept: ${best}`)
      : null,
  ];
}

const ends = (first, last, inner) => [
  svg("text", { x: inner.left, y: HEIGHT - 8 }, `epoch ${first}`),
  svg("text", { x: inner.right, y: HEIGHT - 8, "text-anchor": "end" }, last),
];
