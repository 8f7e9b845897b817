/** What the service has: models, kinds of ids, item columns, and the items seen so far. Ids are text inside this page. */

import { ask } from "./api.js";

/** Filled by `load`. */
export const catalogue = {
  models: [],
  names: [],
  ready: false,
  scopes: [],
  locked: false,
  fields: [],
  scale: null,
  types: {},
  total: 0,
};

const SAMPLE = 50;
const DESCRIBED_AT_ONCE = 50; // text ids may be long, and an address may not
const known = new Map();

export async function load() {
  const session = await ask("v1/session");
  Object.assign(catalogue, {
    scopes: session.scopes,
    locked: session.auth_required && !session.scopes.includes("read"),
  });
  if (catalogue.locked) return;
  const [about, schema, first] = await Promise.all([
    ask("v1/models"),
    ask("v1/schema"),
    ask("v1/items", { query: { limit: SAMPLE } }),
  ]);
  Object.assign(catalogue, {
    models: about.models,
    names: about.names,
    scale: about.rating_scale,
    run: schema.run,
    fields: schema.items.map((one) => field(one, first.items)),
    total: first.total,
    ready: true,
    types: { item: about.item_id_type, user: about.user_id_type },
  });
}

/** A column of the item table; tags are lists or joined text, and filters write the two differently. */
const field = ({ name, kind, min, max, values }, items) => ({
  name,
  kind,
  list: items.some((one) => Array.isArray(one.fields[name])),
  low: min,
  high: max,
  values: values?.map(({ value }) => value) ?? null,
});

export const mayWrite = () => catalogue.scopes.includes("write");

export const card = (name) =>
  catalogue.models.find((one) => one.name === (name ?? catalogue.names[0])) ?? catalogue.models[0];

/** An id as the service takes it; whole numbers beyond 2^53 are sent digit by digit. */
export function wire(id, kind = "item") {
  if (catalogue.types[kind] !== "integer") return id;
  if (!/^-?\d+$/.test(id)) return id;
  const number = Number(id);
  return Number.isSafeInteger(number) ? number : JSON.rawJSON(id);
}

/** Keeps items for later cards; gives them with text ids. */
export function remember(items) {
  return items.map((one) => {
    const item = { ...one, item_id: String(one.item_id) };
    known.set(item.item_id, { ...known.get(item.item_id), ...item });
    return item;
  });
}

export const isKnown = (id) => known.has(id);

export const item = (id) => known.get(id) ?? { item_id: id, title: id, fields: {}, poster: null };

/** Fetches what is missing of these items, so that `item` knows their titles, fields and posters. */
export async function describe(ids, signal) {
  const missing = ids.filter((id) => !known.get(id)?.fields);
  for (let at = 0; at < missing.length; at += DESCRIBED_AT_ONCE) {
    const found = await ask("v1/items", { query: { id: missing.slice(at, at + DESCRIBED_AT_ONCE), limit: DESCRIBED_AT_ONCE }, signal });
    remember(found.items);
  }
}
