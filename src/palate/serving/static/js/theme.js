/** Light or dark: as the system has it until somebody switches; the choice is kept on this device. */

import { byId, icon } from "./dom.js";

const KEPT = "palate-theme";
const root = document.documentElement;

const dark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

export function startTheme() {
  const kept = localStorage.getItem(KEPT);
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem(KEPT, root.dataset.theme);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

function show() {
  const button = byId("theme");
  const words = `Switch to ${dark() ? "light" : "dark"} colours`;
  button.replaceChildren(icon(dark() ? "sun" : "moon"));
  button.setAttribute("aria-label", words);
  button.title = words;
  dispatchEvent(new Event("palate:theme"));
}
