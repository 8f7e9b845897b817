/** States instead of content: what is so, why, and what can be done. */

import { saveKey } from "./api.js";
import { h } from "./dom.js";

/** `actions`: [[words, function], ...]; the first one is the main one. */
export function stateBlock({ heading, text, actions = [], bad = false, note = null, extra = null }) {
  return h(
    "div",
    { class: `state${bad ? " bad" : ""}`, role: bad ? "alert" : null },
    h("h2", {}, heading),
    text ? h("p", { dir: "auto" }, text) : null,
    extra,
    actions.length
      ? h(
          "div",
          { class: "row" },
          actions.map(([label, act], at) =>
            h("button", { type: "button", class: `button${at ? "" : " primary"}`, on: { click: act } }, label),
          ),
        )
      : null,
    note ? h("p", { class: "small" }, note) : null,
  );
}

/** What a failed request shows; `retry` asks again. */
export function problemBlock(problem, retry) {
  if (problem.status === 401 || problem.status === 403) return keyBlock(retry);
  const text = [problem.detail, ...(problem.faults ?? [])].filter(Boolean).join(" ");
  const wait = problem.retryAfter ? ` The service asks to wait ${problem.retryAfter} s.` : "";
  return stateBlock({
    heading: problem.offline ? "You are offline, or the service has stopped" : problem.title,
    text: text + wait,
    bad: true,
    actions: [["Try again", retry]],
    note: problem.requestId ? ["Request ", h("code", {}, problem.requestId), " in the service's log"] : null,
  });
}

/** Asks for a key; it is kept until this tab closes. */
export function keyBlock(entered) {
  const field = h("input", {
    class: "field",
    type: "password",
    id: "key-field",
    autocomplete: "off",
    spellcheck: "false",
  });
  const save = () => {
    saveKey(field.value.trim());
    entered();
  };
  field.addEventListener("keydown", (event) => event.key === "Enter" && save());
  return stateBlock({
    heading: "This service needs a key",
    text: "Whoever runs it can make one with: palate keys add. The key stays in this tab and is forgotten when it closes.",
    extra: h("div", { class: "labelled" }, h("label", { for: "key-field" }, "Key"), field),
    actions: [["Use this key", save]],
  });
}
