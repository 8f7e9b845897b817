/** Is the service well, and how quick is it? The light in the header, and the panel with numbers. */

import { ask, Problem, timings } from "./api.js";
import { byId, h } from "./dom.js";
import { state } from "./state.js";
import { age, figures } from "./words.js";

const EVERY_MS = 15_000;

export function startHealth(recovered) {
  let well = null;
  async function look() {
    let now = false;
    try {
      await ask("healthz/ready");
      now = true;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      light(problem.offline ? "Not reachable" : "Not ready", "bad");
    }
    if (now) light("Healthy", "ok");
    banner(now);
    if (now && well === false) recovered();
    well = now;
    if (state.tab === "model" && now) fill();
  }
  look();
  setInterval(() => document.hidden || look(), EVERY_MS);
  addEventListener("offline", look);
  addEventListener("online", look);
  return look;
}

function light(words, how) {
  const node = byId("light");
  if (node.textContent !== words) node.textContent = words;
  node.dataset.state = how;
}

function banner(well) {
  const node = byId("banner");
  node.hidden = well;
  if (!well)
    node.replaceChildren(
      h(
        "div",
        { class: "frame" },
        navigator.onLine
          ? "The service cannot be reached. What you see may be old; this page tries again by itself."
          : "You are offline. What you see may be old; this page goes on when the network is back.",
      ),
    );
}

/** The panel; its numbers arrive after it. */
export function healthPanel() {
  queueMicrotask(fill);
  return h(
    "section",
    { class: "panel roomy", id: "health" },
    h("h2", {}, "Health"),
    h(
      "div",
      { class: "tiles", id: "health-tiles" },
      tiles([
        ["–", "Half of the answers within"],
        ["–", "99 of 100 within"],
        ["–", "Requests"],
        ["–", "Up for"],
      ]),
    ),
    h("p", { class: "small muted", id: "health-note" }, "\u00a0"),
  );
}

const tiles = (pairs) =>
  pairs.map(([value, words]) => h("div", { class: "tile" }, h("b", {}, value), h("span", {}, words)));

async function fill() {
  if (!byId("health-tiles")) return;
  try {
    const now = await ask("v1/stats");
    const { p50, p99 } = now.latency_ms;
    byId("health-tiles").replaceChildren(
      ...tiles([
        [milliseconds(p50), "Half of the answers within"],
        [milliseconds(p99), "99 of 100 within"],
        [now.requests.toLocaleString("en"), `Requests, ${now.errors.toLocaleString("en")} failed`],
        [age(now.uptime_s), "Up for"],
        [now.feedback_rows.toLocaleString("en"), `Answers stored (${now.store})`],
        [`${Math.round(100 * (now.coverage?.share ?? 0))} %`, "Of the catalogue shown so far"],
      ]),
    );
    byId("health-note").textContent =
      `Answers of the service reached this page within ${milliseconds(median(timings))} (median of ${timings.length}).`;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    byId("health-note").textContent = problem.message;
  }
}

const milliseconds = (value) => (value === null || value === undefined ? "–" : `${figures(value, 2)} ms`);
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
