/** A dialog with a heading and a way to close it; the browser keeps the focus in it and gives it back. */

import { byId, h, icon } from "./dom.js";

/** Opens it with these children; gives the function that closes it. */
export function openDialog(heading, ...children) {
  const dialog = byId("dialog");
  const close = () => dialog.close();
  dialog.replaceChildren(
    h("div", { class: "sheet-head" }, h("h2", { id: "dialog-title" }, heading), closeButton(close)),
    h("div", { class: "sheet-body" }, children),
    floating(dialog),
  );
  if (!dialog.open) dialog.showModal();
  return close;
}

export function closeButton(close) {
  return h(
    "button",
    { type: "button", class: "button quiet square", "aria-label": "Close", on: { click: close } },
    icon("close"),
  );
}

/** Messages that are shown in a dialog: they stay when its content changes. */
export const floating = (dialog) => (dialog.contains(byId("toasts")) ? byId("toasts") : []);

/** A click beside a dialog closes it; messages that were shown in it stay on the page. */
export function closesOutside(dialog) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => document.body.append(byId("toasts")));
}
