/** Nothing jumps: what stays moves from where it was, what comes fades in (FLIP, 180 ms; off under reduced motion). */

const QUICK = 180;

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Replaces the children of `list` by `nodes`; those with the same data-id move instead of appearing. */
export function flip(list, nodes) {
  const before = new Map(
    [...list.children].filter((one) => one.dataset.id).map((one) => [one.dataset.id, one.getBoundingClientRect()]),
  );
  const focused = list.contains(document.activeElement)
    ? document.activeElement.closest("[data-id]")?.dataset.id
    : null;
  list.replaceChildren(...nodes);
  if (focused) refocus(list, nodes, focused);
  if (still() || !before.size) return;
  for (const node of nodes) {
    const old = before.get(node.dataset.id);
    if (!old) {
      node.animate({ opacity: [0, 1] }, { duration: QUICK, easing: "ease-out" });
      continue;
    }
    const now = node.getBoundingClientRect();
    const [dx, dy] = [old.left - now.left, old.top - now.top];
    if (dx || dy)
      node.animate({ transform: [`translate(${dx}px, ${dy}px)`, "none"] }, { duration: QUICK, easing: "ease-out" });
  }
}

/** The keyboard stays where it was, also if the card that had it is gone. */
function refocus(list, nodes, id) {
  const same = nodes.find((node) => node.dataset.id === id);
  (same ?? nodes[0] ?? list).focus?.({ preventScroll: true });
}
