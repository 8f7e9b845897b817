/** Filters: from what is chosen on the page to the condition that the service takes. */

import { words } from "./fields.js";

const name = (column) => `"${column.replaceAll('"', '""')}"`;
const text = (value) => `'${String(value).replaceAll("'", "''")}'`;

/** The SQL condition of `filter`, or null for none; `fields` are the columns of the catalogue. */
export function where(filter, fields) {
  const field = (column) => fields.find(({ name: other }) => other === column);
  const parts = Object.entries(filter)
    .map(([column, chosen]) => one(name(column), chosen, field(column)))
    .filter(Boolean);
  return parts.length ? parts.join(" AND ") : null;
}

function one(column, { values, low, high }, field) {
  if (values?.length) {
    if (field?.list) return `(${values.map((value) => `ARRAY_CONTAINS(${column}, ${text(value)})`).join(" OR ")})`;
    if (field?.kind === "tags")
      return `(${values.map((value) => `${column} LIKE ${text(`%${value}%`)}`).join(" OR ")})`;
    return `${column} IN (${values.map((value) => (typeof value === "number" ? value : text(value))).join(", ")})`;
  }
  const bounds = [
    low === null || low === undefined ? null : `${column} >= ${low}`,
    high === null || high === undefined ? null : `${column} <= ${high}`,
  ];
  return bounds.filter(Boolean).join(" AND ");
}

/** Each filter in words, with its column: [["year", "Year from 1990"], ...]. */
export function inWords(filter) {
  return Object.entries(filter).map(([column, { values, low, high }]) => {
    if (values) return [column, `${words(column)}: ${values.join(" or ")}`];
    const bounds = [low === null ? "" : `from ${low}`, high === null ? "" : `to ${high}`].filter(Boolean).join(" ");
    return [column, `${words(column)} ${bounds}`];
  });
}
