/** The one state that the page shows. It changes in one place, and everybody who shows it is told. */

export const TABS = ["for-you", "explore", "compare", "model"];

export const state = {
  tab: "for-you",
  user: null, // id of a person in the data or the feedback; null for a visitor, of whom nothing is stored
  history: [], // of a visitor: [{ id, rating }], oldest first; rating null means liked
  not: [], // of a visitor: ids that are not wanted
  surprise: 0, // -100 familiar .. 100 surprising
  variety: 0, // 0 similar .. 100 varied
  filter: {}, // column -> { values } or { low, high }
  model: null, // name; null is the first
  other: null, // the second model of the comparison
  item: null, // whose sheet is open
};

const listeners = [];

/** Calls `listener(names of what changed)` after each change. */
export function onChange(listener) {
  listeners.push(listener);
}

/** Changes some of the state; `how.push` adds a step that the back button undoes. */
export function change(patch, how = {}) {
  const names = Object.keys(patch).filter((name) => JSON.stringify(patch[name]) !== JSON.stringify(state[name]));
  if (!names.length) return;
  Object.assign(state, patch);
  for (const listener of listeners) listener(new Set(names), how);
}

/** Tells everybody that the service has another model: what is shown of the old one is asked anew. */
export function renew() {
  for (const listener of listeners) listener(new Set(["swap"]), {});
}

export const isVisitor = () => state.user === null;
