/** A list that draws only the rows in view: ten thousand results cost as much as ten. */

import { h } from "./dom.js";

const SPARE_ROWS = 4;

/** `draw(index)` gives the node of a row; `props` are those of the scrolling element. */
export function virtual({ rowHeight, draw, props = {} }) {
  const space = h("div", { class: "virtual-space", role: "presentation" });
  const node = h("div", { class: "virtual", ...props, on: { scroll: () => requestAnimationFrame(refresh) } }, space);
  let total = 0;

  function refresh() {
    const first = Math.max(0, Math.floor(node.scrollTop / rowHeight) - SPARE_ROWS);
    const last = Math.min(total, Math.ceil((node.scrollTop + node.clientHeight) / rowHeight) + SPARE_ROWS);
    space.replaceChildren(
      ...Array.from({ length: Math.max(0, last - first) }, (_, at) => {
        const row = draw(first + at);
        row.style.top = `${(first + at) * rowHeight}px`;
        return row;
      }),
    );
  }

  return {
    node,
    refresh,
    setTotal(count) {
      total = count;
      space.style.height = `${count * rowHeight}px`;
      refresh();
    },
    toTop() {
      node.scrollTop = 0;
    },
    reveal(index) {
      const top = index * rowHeight;
      if (top < node.scrollTop) node.scrollTop = top;
      else if (top + rowHeight > node.scrollTop + node.clientHeight)
        node.scrollTop = top + rowHeight - node.clientHeight;
      refresh();
    },
  };
}
