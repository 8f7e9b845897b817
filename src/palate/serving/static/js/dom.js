/** Elements from code. Text is always set as text: nothing that the server sends is parsed as HTML. */

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  search: ["M7 12.5a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11Z", "m11 11 3.5 3.5"],
  close: ["m3.5 3.5 9 9", "m12.5 3.5-9 9"],
  plus: ["M8 3v10", "M3 8h10"],
  minus: ["M3 8h10"],
  check: ["m3 8.5 3.2 3.2L13 4.5"],
  sun: [
    "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6Z",
    "M8 1v1M8 14v1M1 8h1M14 8h1M3 3l.8.8M12.2 12.2l.8.8M13 3l-.8.8M3.8 12.2 3 13",
  ],
  moon: ["M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7Z"],
  home: ["M2.5 2.5h3M2.5 2.5v3M13.5 2.5h-3M13.5 2.5v3M2.5 13.5h3M2.5 13.5v-3M13.5 13.5h-3M13.5 13.5v-3"],
  lasso: [
    "M8 2c3.3 0 6 1.7 6 4s-2.7 4-6 4-6-1.7-6-4 2.7-4 6-4Z",
    "M4.500 9.200c-.8 1.600-.3 2.900 1 3.200 1.200.2 1.800 1 1.500 2.100",
  ],
};

/** Control characters as their pictures (ESC as ␛), so that a hostile title is seen for what it is. */
export function plain(text) {
  return String(text).replace(/[\u0000-\u001f\u007f]/g, (c) =>
    String.fromCharCode(c === "\u007f" ? 0x2421 : 0x2400 + c.charCodeAt(0)),
  );
}

/**
 * An element. Of `props`, `on` holds listeners, `data` data attributes, `vars` custom properties; booleans switch attributes,
 * null leaves them out. Children that are null or false are skipped; all others but nodes become text.
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    ICONS[name].map((d) => svg("path", { d })),
  );
}

export const byId = (id) => document.getElementById(id);

/** A title or an id: in its own direction, whatever stands around it. */
export const title = (text) => h("bdi", {}, text);

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "vars") for (const [key, of] of Object.entries(value)) node.style.setProperty(key, of);
    else node.setAttribute(name, value === true ? "" : plain(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : plain(child));
  }
  return node;
}
