/** Feedback: shown at once, taken back with an explanation if the service refuses, and always with a way to undo. */

import { ask, Problem } from "./api.js";
import { card, catalogue, item, mayWrite, wire } from "./catalogue.js";
import { change, isVisitor, state } from "./state.js";
import { toast } from "./toast.js";

const undos = [];
let storing = Promise.resolve(); // settled when what was sent last is stored or refused
const watchers = [];

/** Calls `listener(id, type)` when an item gets feedback or (type null) loses it; the list then takes it out or asks anew. */
export const onFeedback = (listener) => watchers.push(listener);
const tell = (id, type, stage) => watchers.forEach((listener) => listener(id, type, stage));

export const readOnly = () =>
  isVisitor() || mayWrite() ? "" : "Read-only: this page has no key that may write feedback";

const SAID = { like: "added to the history", not_interested: "will not be recommended", rating: "rated" };

export const like = (one) => (storing = give(one, "like"));
export const dismiss = (one) => (storing = give(one, "not_interested"));
export const rate = (one, value) => (storing = give(one, "rating", value));

async function give(one, type, value = null) {
  if (readOnly()) return toast(readOnly(), { bad: true });
  const id = one.item_id;
  const said = `“${item(id).title}” ${SAID[type]}${value === null ? "" : ` ${value}`}`;
  if (isVisitor()) return visitorGives(id, type, value, said);
  tell(id, type, "begun");
  try {
    const user = state.user;
    const answer = await send("POST", { user_id: wire(user, "user"), item_id: wire(id), type, value });
    const { previous } = answer.results[0];
    const undo = () => takeBack(user, id, previous);
    remember(undo, said);
    tell(id, type, "done");
  } catch (problem) {
    refused(problem, id, `“${item(id).title}” was not stored`);
  }
}

/** Nothing of a visitor is stored: the history is in the page and in its address. */
function visitorGives(id, type, value, said) {
  const before = { history: state.history, not: state.not };
  const rest = state.history.filter((one) => one.id !== id);
  const not = state.not.filter((one) => one !== id);
  tell(id, type, "begun");
  if (type === "not_interested") change({ history: rest, not: [...not, id] });
  else change({ history: [...rest, { id, rating: value }], not });
  remember(() => change(before), said);
}

/** Removes an item from the history: a visitor's, or stored feedback. */
export async function forget(id) {
  const said = `“${item(id).title}” removed from the history`;
  if (isVisitor()) {
    const before = { history: state.history, not: state.not };
    change({ history: state.history.filter((one) => one.id !== id), not: state.not.filter((one) => one !== id) });
    return remember(() => change(before), said);
  }
  if (readOnly()) return toast(readOnly(), { bad: true });
  const user = state.user;
  try {
    const { previous } = (await send("DELETE", { user_id: wire(user, "user"), item_id: wire(id) })).results[0];
    remember(() => previous && restore(user, id, previous), said);
    tell(id, null, "done");
  } catch (problem) {
    refused(problem, id, `“${item(id).title}” is still stored`);
  }
}

async function takeBack(user, id, previous) {
  if (previous) return restore(user, id, previous);
  try {
    await send("DELETE", { user_id: wire(user, "user"), item_id: wire(id) });
    tell(id, null, "done");
  } catch (problem) {
    refused(problem, id, `“${item(id).title}” could not be undone`);
  }
}

async function restore(user, id, { type, value, timestamp }) {
  try {
    await send("POST", { user_id: wire(user, "user"), item_id: wire(id), type, value, timestamp });
    tell(id, type, "done");
  } catch (problem) {
    refused(problem, id, `“${item(id).title}” could not be restored`);
  }
}

/** A key makes a repeated request harmless: it is counted once. */
function send(method, body) {
  const headers =
    method === "POST" ? { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()).slice(2) } : {};
  return ask("v1/feedback", { method, body, headers });
}

function refused(problem, id, what) {
  if (!(problem instanceof Problem)) throw problem;
  tell(id, null, "refused");
  toast(`${what}: ${problem.locked ? "this page has no key that may write feedback" : problem.message}`, { bad: true });
}

function remember(undo, said) {
  undos.push(undo);
  const close = toast(said, {
    action: () => {
      undos.splice(undos.indexOf(undo), 1);
      undo();
    },
  });
  undo.close = close;
}

/** Takes back the last feedback that was not taken back yet, also if it is still on its way. */
export async function undoLast() {
  await storing;
  const undo = undos.pop();
  if (!undo) return toast("Nothing to undo");
  undo.close();
  undo();
}

/** Undo belongs to the person it was given for. */
export function clearUndos() {
  undos.length = 0;
}

/** A liked title counts as halfway from the mean rating to the best one where a model reads ratings, as in the service. */
export function visitorQuery() {
  const history = state.history.map((one) => wire(one.id));
  if (!catalogue.scale || state.history.every((one) => one.rating === null)) return { history };
  const best = catalogue.scale[1];
  const liked = ((card().data.ratings?.mean ?? best) + best) / 2;
  return { history, ratings: state.history.map((one) => one.rating ?? liked) };
}

/** Whom a question is about, for recommend and explain. */
export const whom = () => (isVisitor() ? visitorQuery() : { user_id: wire(state.user, "user") });
