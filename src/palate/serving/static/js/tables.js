/** Tables that can be copied: tab-separated, as spreadsheets take them. */

import { h } from "./dom.js";
import { toast } from "./toast.js";

/** A button that copies what `rows()` gives: lists of cells. */
export function copyButton(label, rows) {
  return h(
    "button",
    {
      type: "button",
      class: "button quiet compact no-print",
      on: {
        click: () =>
          copy(
            rows()
              .map((row) => row.map(cell).join("\t"))
              .join("\n"),
            "Copied; paste it into a spreadsheet",
          ),
      },
    },
    label,
  );
}

const cell = (value) => String(value ?? "").replace(/[\t\n\r]+/g, " ");

export async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    toast(said);
  } catch {
    toast("The browser does not let this page copy. Select the table and copy it by hand.", { bad: true });
  }
}

/** A table with a caption for screen readers; columns: { head, cell(row), number?, text(row) for the copy }. */
export function table(caption, columns, rows) {
  const head = columns.map(({ head: words, number }) =>
    h("th", { scope: "col", class: number ? "number" : null }, words),
  );
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      columns.map(({ cell: content, number }, at) =>
        at ? h("td", { class: number ? "number" : null }, content(row)) : h("th", { scope: "row" }, content(row)),
      ),
    ),
  );
  return h(
    "div",
    { class: "table-wrap", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

/** The table with a button that copies it. */
export function copiedTable(caption, columns, rows) {
  return [
    table(caption, columns, rows),
    h(
      "div",
      {},
      copyButton("Copy table", () => tableRows(columns, rows)),
    ),
  ];
}

function tableRows(columns, rows) {
  return [
    columns.map(({ head }) => head),
    ...rows.map((row) => columns.map(({ text, cell: content }) => (text ?? content)(row))),
  ];
}

/** A panel with a heading. */
export const panel = (heading, ...content) => h("section", { class: "panel roomy" }, h("h2", {}, heading), content);
