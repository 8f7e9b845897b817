/** Starts the page: the service's facts first, then the state from the address, then every part. */

import { address, read } from "./address.js";
import { Problem } from "./api.js";
import { card, catalogue, describe, isKnown, load as loadCatalogue } from "./catalogue.js";
import { startCompare } from "./compare.js";
import { startControls } from "./controls.js";
import { closesOutside } from "./dialog.js";
import { byId, h } from "./dom.js";
import { startExplore } from "./explore.js";
import { clearUndos } from "./feedback.js";
import { redraw, showList, startList } from "./foryou.js";
import { startHealth } from "./health.js";
import { draw as drawHistory, startHistory } from "./history.js";
import { startKeys } from "./keys.js";
import { startModel } from "./model.js";
import { draw as drawOnboarding, startOnboarding } from "./onboarding.js";
import { showPerson, startPerson } from "./person.js";
import { startSheet } from "./sheet.js";
import { TABS, change, onChange, state } from "./state.js";
import { keyBlock, problemBlock } from "./states.js";
import { startSwap } from "./swap.js";
import { startTheme } from "./theme.js";
import { toast } from "./toast.js";
import { age, count } from "./words.js";

const NAMES = { "for-you": "For you", explore: "Explore", compare: "Compare", model: "Model" };
let started = false;

async function start() {
  try {
    await loadCatalogue();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return instead(problemBlock(problem, start));
  }
  if (catalogue.locked) return instead(keyBlock(start));
  const again = started;
  if (!started) parts();
  started = true;
  byId("who").closest(".side").hidden = false;
  byId("drawer").hidden = false;
  showRun();
  change(await known(read(location.hash)));
  showTab();
  showList(again);
  drawHistory();
  drawOnboarding();
}

/** A link may name titles of another catalogue: they are left out, and the page says so. */
async function known(found) {
  const ids = [...found.history.map(({ id }) => id), ...found.not];
  if (!catalogue.names.includes(found.model)) found.model = null;
  try {
    await describe(ids);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return found; // the list says what is wrong with the service
  }
  const missing = ids.filter((id) => !isKnown(id));
  if (!missing.length) return found;
  toast(`This link names ${count(missing.length, "title")} that this catalogue does not have`, { bad: true });
  return { ...found, history: found.history.filter(({ id }) => isKnown(id)), not: found.not.filter(isKnown) };
}

function parts() {
  onChange((names, how) => {
    if (names.has("user")) clearUndos();
    if (names.has("tab")) showTab();
    if (names.has("model")) showRun();
    history[how.push ? "pushState" : "replaceState"](null, "", address());
    links();
  });
  startPerson();
  startHistory();
  startOnboarding();
  startControls(redraw);
  startList();
  startExplore();
  startCompare();
  startModel();
  startSheet();
  startKeys();
  startSwap(showRun);
  closesOutside(byId("dialog"));
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("content").focus();
  });
  addEventListener("popstate", () => change(read(location.hash)));
  showPerson();
}

function instead(block) {
  byId("for-you").hidden = false;
  byId("who").closest(".side").hidden = true;
  byId("drawer").hidden = true;
  byId("list-state").replaceChildren(block);
}

function showTab() {
  for (const tab of TABS) byId(tab).hidden = tab !== state.tab;
  document.title = `${NAMES[state.tab]} · palate`;
  links();
}

/** The tabs are links with the whole state, so that each can be opened elsewhere. */
function links() {
  for (const link of document.querySelectorAll(".tabs a")) {
    link.href = address({ tab: link.dataset.tab, item: null });
    if (link.dataset.tab === state.tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function showRun() {
  const one = card(state.model);
  const names = [catalogue.run, one.name, one.class].filter(
    (name, at, all) => name && all.findIndex((other) => other?.toLowerCase() === name.toLowerCase()) === at,
  );
  byId("run-name").replaceChildren(
    h("strong", {}, names[0]),
    ...names.slice(1).map((name) => h("span", { class: "extra" }, name)),
    h("span", {}, `saved ${age(one.age_s)} ago`),
  );
  byId("foot").replaceChildren(
    h("span", {}, `${catalogue.total.toLocaleString("en")} items · recommended by palate`),
    h("a", { href: "openapi.json" }, "HTTP API"),
  );
}

startTheme();
startHealth(start);
start();
