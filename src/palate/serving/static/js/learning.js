/** How the model learnt: its loss and its validation metric over the epochs. */

import { curve } from "./charts.js";
import { h } from "./dom.js";
import { copiedTable, panel } from "./tables.js";
import { count, figures } from "./words.js";

export function learning(one) {
  const epochs = one.learning_curve ?? [];
  if (epochs.length < 2) return null;
  const loss = epochs[0].loss_name || "loss";
  const metric = Object.keys(epochs[0].valid ?? {}).find((name) => name !== "loss");
  const columns = [
    { head: "Epoch", cell: ({ epoch }) => epoch },
    { head: `Training: ${loss}`, number: true, cell: (epoch) => figures(epoch.loss, 4), text: (epoch) => epoch.loss },
  ];
  if (metric)
    columns.push({
      head: `Validation: ${metric}`,
      number: true,
      cell: ({ valid }) => figures(valid?.[metric], 4),
      text: ({ valid }) => valid?.[metric],
    });
  const text = one.best_epoch
    ? `Epoch ${one.best_epoch} was kept: it was the best on the validation part.`
    : `${count(epochs.length, "epoch")} over the training data.`;
  const figure = (heading, read) => {
    const values = epochs.map((epoch) => ({ x: epoch.epoch, y: read(epoch) })).filter(({ y }) => Number.isFinite(y));
    if (values.length < 2) return null;
    return h(
      "figure",
      { class: "stack tight" },
      h("figcaption", {}, h("h3", {}, heading)),
      curve(`${heading} over ${epochs.length} epochs`, values, one.best_epoch),
    );
  };
  return panel(
    "How it learnt",
    h("p", { class: "small muted" }, text),
    metric ? figure(`Validation: ${metric}`, ({ valid }) => valid?.[metric]) : null,
    figure(`Training: ${loss}`, (epoch) => epoch.loss),
    h(
      "details",
      {},
      h("summary", {}, "Table of epochs"),
      h("div", { class: "drawer-body" }, copiedTable("Epochs", columns, epochs)),
    ),
  );
}
