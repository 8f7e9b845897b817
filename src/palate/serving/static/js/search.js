/** Search for titles: a combobox whose results are fetched in pages as they come into view. */

import { ask, Problem } from "./api.js";
import { remember } from "./catalogue.js";
import { cover } from "./cover.js";
import { h, icon, title } from "./dom.js";
import { fieldsLine } from "./fields.js";
import { virtual } from "./virtual.js";

const PAGE = 200;
const ROW = 56;
const WAIT_MS = 120;
const CLOSES_AFTER_MS = 150;

/** `choose(item)` is called with what somebody picks; `mark(id)` gives words for the end of a row, or "". */
export function search({ id, label, placeholder, choose, mark = () => "" }) {
  const found = { query: null, total: 0, rows: [], asked: new Set(), at: -1, control: null };
  const list = virtual({
    rowHeight: ROW,
    draw: row,
    props: { id: `${id}-results`, role: "listbox", "aria-label": label, tabindex: "-1" },
  });
  const note = h("p", { class: "results-note", role: "status" });
  const results = h("div", { class: "results", hidden: true, on: { focusout: leave } }, note, list.node);
  const field = h("input", {
    class: "field",
    id,
    type: "text",
    role: "combobox",
    placeholder,
    autocomplete: "off",
    spellcheck: "false",
    dir: "auto",
    "aria-expanded": "false",
    "aria-controls": `${id}-results`,
    "aria-autocomplete": "list",
    on: { input: later, keydown: key, focus: () => field.value.trim() && later(), blur: leave },
  });
  let timer;

  function later() {
    clearTimeout(timer);
    timer = setTimeout(begin, WAIT_MS);
  }

  async function begin() {
    const query = field.value.trim();
    if (!query) return close();
    found.control?.abort();
    Object.assign(found, { query, total: 0, rows: [], asked: new Set(), at: -1, control: new AbortController() });
    await page(0);
  }

  async function page(number) {
    if (found.asked.has(number)) return;
    found.asked.add(number);
    const { query, control } = found;
    try {
      const answer = await ask("v1/items", {
        query: { search: query, limit: PAGE, offset: number * PAGE },
        signal: control.signal,
      });
      remember(answer.items).forEach((one, at) => {
        found.rows[number * PAGE + at] = one;
      });
      if (number === 0) open(answer.total);
      else list.refresh();
    } catch (problem) {
      if (!(problem instanceof Problem)) return;
      found.asked.delete(number);
      open(0, problem.offline ? "Offline: search needs the service" : problem.message);
    }
  }

  function open(total, words = null) {
    found.total = total;
    note.textContent =
      words ??
      (total
        ? `${total.toLocaleString("en")} ${total === 1 ? "title" : "titles"}`
        : `Nothing matches “${found.query}”. Try fewer letters.`);
    results.hidden = false;
    field.setAttribute("aria-expanded", "true");
    list.node.hidden = !total;
    list.toTop();
    list.setTotal(total);
    if (total) point(0);
  }

  /** Also a click on the scroll bar takes the focus, and gives it up later. */
  function leave() {
    setTimeout(() => document.activeElement !== field && close(), CLOSES_AFTER_MS);
  }

  function close() {
    if (results.contains(document.activeElement)) return;
    results.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  }

  function point(at) {
    found.at = Math.min(found.total - 1, Math.max(0, at));
    list.reveal(found.at);
    field.setAttribute("aria-activedescendant", `${id}-${found.at}`);
  }

  function row(at) {
    const one = found.rows[at];
    const about = {
      class: "result",
      role: "option",
      id: `${id}-${at}`,
      "aria-selected": String(at === found.at),
      "aria-setsize": found.total,
      "aria-posinset": at + 1,
    };
    if (!one) {
      page(Math.floor(at / PAGE));
      return h(
        "div",
        { ...about, "aria-busy": "true" },
        h("span", { class: "result-words" }, h("span", { class: "bone text" })),
      );
    }
    return h(
      "div",
      {
        ...about,
        on: {
          pointerdown: (event) => {
            event.preventDefault();
            pick(one);
          },
        },
      },
      cover(one),
      h("span", { class: "result-words" }, title(one.title), fieldsLine(one)),
      mark(one.item_id) ? h("span", { class: "result-mark" }, mark(one.item_id)) : null,
    );
  }

  function pick(one) {
    field.value = "";
    results.hidden = true;
    close();
    choose(one);
  }

  function key(event) {
    if (event.key === "Escape") return field.value ? ((field.value = ""), close()) : field.blur();
    if (results.hidden) return;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 6, PageUp: -6 }[event.key];
    if (step) {
      event.preventDefault();
      point(found.at + step);
    } else if (event.key === "Enter" && found.rows[found.at]) {
      event.preventDefault();
      pick(found.rows[found.at]);
    }
  }

  return h(
    "div",
    { class: "labelled" },
    h("label", { for: id }, label),
    h(
      "div",
      { class: "search" },
      icon("search"),
      field,
      h("kbd", { class: "keyboard-only", "aria-hidden": "true" }, "/"),
      results,
    ),
  );
}
