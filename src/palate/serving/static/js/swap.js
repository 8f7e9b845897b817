/** A hot swap: an answer from a model that this page has not met means that the service has a newer one. */

import { Problem, onAnswer } from "./api.js";
import { card, catalogue, load } from "./catalogue.js";
import { renew } from "./state.js";
import { toast } from "./toast.js";
import { age } from "./words.js";

const TRIES = 5;
const WAIT_MS = 1000;
const met = new Set();

const shows = (id) => catalogue.models.some((one) => one.model_id === id);

/** Calls `shown()` when the facts of the new model are there; then everything that shows the old one is asked anew. */
export function startSwap(shown) {
  onAnswer(async ({ model, model_id: id }) => {
    if (!catalogue.ready || met.has(id) || shows(id)) return;
    const before = card(model).model_id;
    met.add(id).add(before);
    try {
      await loaded(id);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      met.delete(id); // the next answer tries again
      return;
    }
    shown();
    if (trained(id) !== trained(before)) toast(`A newer ${model} answers from now on, saved ${age(card(model).age_s)} ago`);
    renew();
  });
}

/** What comes after the plus changes with added items, not with training. */
const trained = (id) => id.split("+")[0];

/** Another worker may be some moments behind. */
async function loaded(id) {
  for (let tries = 0; tries < TRIES; tries++) {
    if (tries) await new Promise((done) => setTimeout(done, WAIT_MS));
    await load();
    if (shows(id)) return;
  }
}
