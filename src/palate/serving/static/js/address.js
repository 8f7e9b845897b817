/** The address holds the state, behind the #: browsers do not send that part, so no server log holds a history. */

import { TABS, state } from "./state.js";

const enc = (values) => values.map(encodeURIComponent).join(",");

/** The address of the state, with some of it replaced. */
export function address(patch = {}) {
  const s = { ...state, ...patch };
  const parts = [];
  const put = (name, value) => value && parts.push(`${name}=${value}`);
  put("user", s.user !== null && encodeURIComponent(s.user));
  if (s.user === null) {
    put(
      "history",
      s.history.map(({ id, rating }) => encodeURIComponent(id) + (rating === null ? "" : `:${rating}`)).join(","),
    );
    put("not", enc(s.not));
  }
  put("surprise", s.surprise);
  put("variety", s.variety);
  for (const [column, { values, low, high }] of Object.entries(s.filter)) {
    put(`only.${encodeURIComponent(column)}`, values ? enc(values) : `${low ?? ""}..${high ?? ""}`);
  }
  put("model", s.model && encodeURIComponent(s.model));
  put("with", s.other && encodeURIComponent(s.other));
  put("item", s.item !== null && encodeURIComponent(s.item));
  return `#${s.tab}${parts.length ? `?${parts.join("&")}` : ""}`;
}

/** The state in an address; parts that make no sense are left out. */
export function read(hash) {
  const [tab, query = ""] = hash.replace(/^#/, "").split("?");
  const found = {
    tab: TABS.includes(tab) ? tab : "for-you",
    user: null,
    history: [],
    not: [],
    surprise: 0,
    variety: 0,
    filter: {},
    model: null,
    other: null,
    item: null,
  };
  for (const part of query.split("&").filter(Boolean)) {
    const [name, value = ""] = part.split(/=(.*)/s);
    try {
      take(found, name, value);
    } catch {
      continue; // a broken percent code
    }
  }
  return found;
}

function take(found, name, value) {
  const list = value.split(",").filter(Boolean);
  if (name === "user") found.user = decodeURIComponent(value);
  else if (name === "history") found.history = list.map(visit).filter(({ id }) => id);
  else if (name === "not") found.not = list.map(decodeURIComponent);
  else if (name === "surprise") found.surprise = within(value, -100, 100);
  else if (name === "variety") found.variety = within(value, 0, 100);
  else if (name === "model") found.model = decodeURIComponent(value);
  else if (name === "with") found.other = decodeURIComponent(value);
  else if (name === "item") found.item = decodeURIComponent(value);
  else if (name.startsWith("only.")) found.filter[decodeURIComponent(name.slice(5))] = condition(value, list);
}

function visit(text) {
  const [id, rating] = text.split(":");
  return { id: decodeURIComponent(id), rating: rating && Number.isFinite(Number(rating)) ? Number(rating) : null };
}

function condition(value, list) {
  const range = value.match(/^(-?[\d.]*?)\.\.(-?[\d.]*)$/);
  const number = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
  return range ? { low: number(range[1]), high: number(range[2]) } : { values: list.map(decodeURIComponent) };
}

function within(value, low, high) {
  const number = Math.round(Number(value));
  return Number.isFinite(number) ? Math.min(high, Math.max(low, number)) : 0;
}
