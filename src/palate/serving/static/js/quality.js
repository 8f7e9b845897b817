/** How good the model is, and for whom: metrics with their intervals beside the baselines, and slices. */

import { intervals } from "./charts.js";
import { h } from "./dom.js";
import { copiedTable, panel } from "./tables.js";
import { count, figures, list } from "./words.js";

const PLOTTED = 3;
const SLICES = { all: "All", warm: "Users and items seen in training", new_user: "New users", new_item: "New items" };

const find = (metrics, name) => metrics.find(({ metric }) => metric === name);

export function quality(one) {
  if (!one.metrics?.length)
    return panel("How good it is", h("p", { class: "muted" }, one.metrics_note || "This run was not evaluated."));
  const models = [{ name: one.name, own: true, metrics: one.metrics }, ...(one.baselines ?? [])];
  const names = one.metrics.map(({ metric }) => metric);
  const columns = [
    { head: "Metric", cell: (metric) => metric },
    ...models.map((model) => column(model.name, (metric) => find(model.metrics, metric))),
  ];
  return panel(
    "How good it is",
    h("p", { class: "small muted" }, measured(one)),
    names.slice(0, PLOTTED).map((metric) => plot(metric, models)),
    h(
      "details",
      {},
      h("summary", {}, "All metrics"),
      h("div", { class: "drawer-body" }, copiedTable("All metrics", columns, names)),
    ),
    one.metrics_note ? h("p", { class: "small muted" }, one.metrics_note) : null,
  );
}

function measured({ protocol, parts }) {
  if (!protocol) return "Lines are 95 % intervals.";
  const among = protocol.candidates === "full" ? "all items" : `candidates: ${protocol.candidates}`;
  const rows = count(parts?.test ?? 0, "held-out interaction");
  return `Measured on ${rows} (split ${protocol.split}), ranked among ${among}. Lines are 95 % intervals. Protocol ${protocol.hash}.`;
}

function plot(metric, models) {
  const rows = models
    .filter((model) => find(model.metrics, metric))
    .map(({ name, own, metrics }) => ({ name, own, ...find(metrics, metric) }));
  const better = rows[0].better === "lower" ? "lower is better" : "higher is better";
  const heading = h("h3", {}, metric, h("span", { class: "muted small" }, ` ${better}`));
  return h(
    "figure",
    { class: "stack tight" },
    h("figcaption", {}, heading),
    intervals(`${metric} of ${list(rows.map(({ name }) => name))}`, rows),
  );
}

/** A column of metrics; `read(row)` finds the one of a row. */
function column(head, read) {
  return { head, number: true, cell: (row) => value(read(row)), text: (row) => read(row)?.value };
}

function value(metric) {
  if (!metric) return "–";
  const known = metric.low !== null && metric.low !== undefined;
  return [
    figures(metric.value),
    known ? h("span", { class: "interval" }, ` ${figures(metric.low)} to ${figures(metric.high)}`) : null,
  ];
}

export function slices(one) {
  if (!one.slices?.length) return null;
  const columns = [
    { head: "Slice", cell: ({ slice }) => SLICES[slice] ?? slice },
    { head: "Users", number: true, cell: ({ users }) => (users ?? 0).toLocaleString("en") },
    ...one.slices[0].metrics.slice(0, PLOTTED).map(({ metric }) => column(metric, (row) => find(row.metrics, metric))),
  ];
  return panel(
    "For whom",
    h("p", { class: "small muted" }, "New users and new items were not in the training data."),
    copiedTable("Metrics by slice", columns, one.slices),
  );
}
