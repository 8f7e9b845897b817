/** Requests to the service. A failure is always a Problem: what happened, in the service's words. */

const KEY = "palate-key";
const MAX_TIMINGS = 200;

/** Milliseconds that the last answers took, as this page saw them. */
export const timings = [];

export class Problem extends Error {
  constructor({ title, detail = "", status = 0, request_id: requestId = "", type = "", faults = [] }, retryAfter = 0) {
    super(detail || title);
    Object.assign(this, { title, detail, status, requestId, type, faults, retryAfter });
  }
  get offline() {
    return this.status === 0;
  }
  get unknown() {
    return this.type.endsWith("unknown-id");
  }
  get locked() {
    return this.status === 401 || this.status === 403;
  }
}

export const savedKey = () => sessionStorage.getItem(KEY);

export function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export const authorization = () => (savedKey() ? { Authorization: `Bearer ${savedKey()}` } : {});

let watch = () => {};
/** Calls `listener({ model, model_id })` with what every answer says of the models that the service has. */
export const onAnswer = (listener) => (watch = listener);

/** The JSON answer; `query` values that are null are left out, and lists repeat their name. */
export async function ask(path, { method = "GET", body, query = {}, signal, headers = {} } = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const search = new URLSearchParams(pairs.flatMap(([name, value]) => [value].flat().map((one) => [name, one])));
  const begun = performance.now();
  let answer;
  try {
    answer = await fetch(path + (search.size ? `?${search}` : ""), {
      method,
      signal,
      cache: "no-cache",
      headers: { ...authorization(), ...headers, ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The service cannot be reached",
      detail: "Check that palate serve is running and that this device is online.",
    });
  }
  const text = await answer.text();
  if (answer.ok) note(performance.now() - begun);
  const found = parse(text);
  if (answer.ok && found !== undefined) {
    if (found.model_id) watch(found);
    for (const [model, id] of Object.entries(found.model_ids ?? {})) watch({ model, model_id: id });
    return found;
  }
  throw new Problem(
    found?.title
      ? found
      : {
          title: "The service gave an answer that is not JSON",
          detail: `Status ${answer.status}.`,
          status: answer.status,
        },
    Number(answer.headers.get("Retry-After") ?? 0),
  );
}

/** JSON in which whole numbers beyond 2^53 stay exact, as text: an id may be one. */
function parse(text) {
  try {
    return JSON.parse(text, (_, value, context) =>
      Number.isInteger(value) && !Number.isSafeInteger(value) ? (context?.source ?? value) : value,
    );
  } catch {
    return undefined;
  }
}

function note(milliseconds) {
  timings.push(milliseconds);
  if (timings.length > MAX_TIMINGS) timings.shift();
}
