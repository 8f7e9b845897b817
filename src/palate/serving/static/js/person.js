/** Whom the list is for: a visitor, or a person in the data. */

import { ask, Problem } from "./api.js";
import { catalogue } from "./catalogue.js";
import { openDialog } from "./dialog.js";
import { byId, h, title } from "./dom.js";
import { change, isVisitor, onChange, state } from "./state.js";
import { problemBlock } from "./states.js";
import { copy } from "./tables.js";
import { toast } from "./toast.js";
import { count } from "./words.js";

const SUGGESTED = 8;
const WAIT_MS = 120;

export function startPerson() {
  onChange((names) => (names.has("user") || names.has("history")) && showPerson());
}

/** `profile`: the answer about a known person, if it is there. */
export function showPerson(profile = null) {
  const choose = h(
    "button",
    { type: "button", class: "button compact", on: { click: choosePerson } },
    isVisitor() ? "Choose a person" : "Change",
  );
  const link = h(
    "button",
    { type: "button", class: "button quiet compact", on: { click: () => copy(location.href, "Link copied") } },
    "Copy link",
  );
  byId("who").replaceChildren(
    h(
      "div",
      { class: "view-head" },
      h("h2", { id: "who-title" }, isVisitor() ? "New visitor" : ["Person ", title(state.user)]),
      h("p", { class: "small" }, about(profile)),
    ),
    h("div", { class: "row" }, choose, link),
  );
}

function about(profile) {
  if (isVisitor())
    return state.history.length
      ? "Your answers are kept in the address of this page, and nowhere else."
      : "The list begins with what is popular, and follows your answers.";
  if (!profile) return "\u00a0";
  const attributes = Object.entries(profile.attributes ?? {})
    .filter(([, value]) => value !== null)
    .slice(0, 3)
    .map(([name, value]) => `${name} ${value}`);
  const known = profile.known ? `${count(profile.training.count, "interaction")} in training` : "Not in training";
  return [known, profile.feedback.count ? `${count(profile.feedback.count, "answer")} since` : "", ...attributes]
    .filter(Boolean)
    .join(" · ");
}

export function choosePerson() {
  const found = h("ul", { class: "people" });
  const note = h("p", { class: "small muted", role: "status" });
  const field = h("input", {
    class: "field",
    id: "person-field",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "Type an id",
    on: { input: later, keydown: (event) => event.key === "Enter" && field.value.trim() && take(field.value.trim()) },
  });
  let timer;
  const close = openDialog(
    "Who is this for?",
    h(
      "p",
      { class: "muted" },
      "Everybody in the training data has an id. A visitor has none, and nothing of a visitor is stored.",
    ),
    h("div", { class: "labelled" }, h("label", { for: "person-field" }, "Id of a person"), field),
    note,
    found,
    h(
      "div",
      { class: "row" },
      h(
        "button",
        {
          type: "button",
          class: "button primary",
          on: { click: () => field.value.trim() && take(field.value.trim()) },
        },
        "Show the list",
      ),
      h("button", { type: "button", class: "button", on: { click: () => take(null) } }, "New visitor"),
    ),
  );
  field.focus();
  suggest("");

  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => suggest(field.value.trim()), WAIT_MS);
  }
  function take(user) {
    close();
    change(
      user === null
        ? { user: null, history: [], not: [] }
        : { user, tab: state.tab === "model" ? "for-you" : state.tab },
      { push: true },
    );
  }
  async function suggest(text) {
    try {
      const answer = await ask("v1/users", { query: { search: text, limit: SUGGESTED } });
      note.textContent = answer.total
        ? `${count(answer.total, text ? "match" : "person")
            .replace("persons", "people")
            .replace("matchs", "matches")}${answer.total > SUGGESTED ? `, the first ${SUGGESTED}:` : ":"}`
        : "Nobody in the training data has an id that begins like this.";
      found.replaceChildren(
        ...answer.items.map((one) =>
          h(
            "li",
            {},
            h(
              "button",
              { type: "button", class: "person", on: { click: () => take(String(one.user_id)) } },
              title(String(one.user_id)),
              h("span", { class: "muted small number" }, count(one.interactions, "interaction")),
            ),
          ),
        ),
      );
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      found.replaceChildren(
        h(
          "li",
          {},
          problemBlock(problem, () => suggest(text)),
        ),
      );
    }
  }
}

/** Deletes what is stored of a person, after asking; it cannot be undone. */
export function forgetPerson(user, forgotten) {
  const close = openDialog(
    "Forget this person?",
    h("p", {}, "All stored answers of ", title(user), " are deleted from the service. This cannot be undone."),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button primary", on: { click: go } }, "Delete the answers"),
      h("button", { type: "button", class: "button", on: { click: () => close() } }, "Keep them"),
    ),
  );
  async function go() {
    close();
    try {
      const answer = await ask(`v1/users/${encodeURIComponent(user)}`, { method: "DELETE" });
      toast([`${count(answer.removed, "answer")} deleted.`, ...(answer.notes ?? [])].join(" "));
      forgotten();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      toast(`Nothing was deleted: ${problem.message}`, { bad: true });
    }
  }
}
