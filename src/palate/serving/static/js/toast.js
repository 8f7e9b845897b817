/** Short messages at the bottom, with one way back; they wait while somebody points at them. */

import { byId, h } from "./dom.js";

const SHOWN_MS = 8000;
const MOST = 2;

export function toast(text, { action = null, label = "Undo", bad = false } = {}) {
  const place = byId("toasts");
  (document.querySelector("dialog[open]") ?? document.body).append(place); // what is outside of an open dialog cannot be clicked
  const node = h(
    "div",
    { class: `toast${bad ? " bad" : ""}` },
    h("span", { dir: "auto" }, text),
    action &&
      h(
        "button",
        {
          type: "button",
          class: "button quiet compact",
          "aria-label": `${label}: ${text}`,
          on: {
            click: () => {
              node.remove();
              action();
            },
          },
        },
        label,
      ),
  );
  place.append(node);
  while (place.children.length > MOST) place.firstChild.remove();
  let timer;
  const leave = () => {
    timer = setTimeout(() => node.remove(), SHOWN_MS);
  };
  node.addEventListener("pointerenter", () => clearTimeout(timer));
  node.addEventListener("pointerleave", leave);
  node.addEventListener("focusin", () => clearTimeout(timer));
  node.addEventListener("focusout", leave);
  leave();
  return () => node.remove();
}
