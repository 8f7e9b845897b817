/** Covers: the poster where there is one, over a cover drawn from the id and the title; never a broken image. */

import { authorization, savedKey } from "./api.js";
import { h, svg } from "./dom.js";

const HUES = [28, 52, 78, 110, 145, 172, 198, 225, 252, 280, 315, 350];
const LONG = 22;

/** FNV-1a: the same id has the same cover on every visit. */
function hash(text) {
  let value = 0x811c9dc5;
  for (const char of text) value = Math.imul(value ^ char.codePointAt(0), 0x01000193);
  return (value ^ (value >>> 15)) >>> 0;
}

const circle = (cx, cy, r, kind = "") => svg("circle", { class: `mark ${kind}`, cx, cy, r });
const line = (d, width) => svg("path", { class: "mark line", d, "stroke-width": width });

/** Quiet patterns on 120 x 160; each takes a number that varies it. */
const PATTERNS = [
  (n) => [circle(120 - (n % 40), 20, 64), circle(96 - (n % 30), 36, 36, "second")],
  (n) =>
    [0, 1, 2, 3, 4].map((i) =>
      line(
        `M${n % 2 ? 120 : 0} ${16 + i * 20} m${n % 2 ? -1 : 1} 0 a${24 + i * 16} ${24 + i * 16} 0 0 ${n % 2 ? 0 : 1} ${n % 2 ? -48 - i * 8 : 48 + i * 8} 0`,
        6,
      ),
    ),
  (n) => [0, 1, 2, 3, 4, 5].map((i) => line(`M${-40 + i * 28 + (n % 16)} 100 l80 -112`, 8)),
  (n) => [
    svg("path", {
      class: "mark",
      d: `M0 ${48 + (n % 24)} Q30 ${24 + (n % 24)} 60 ${48 + (n % 20)} T120 ${40 + (n % 24)} V0 H0 Z`,
    }),
    circle(84 - (n % 48), 28, 14, "second"),
  ],
  (n) =>
    Array.from({ length: 20 }, (_, i) =>
      circle(16 + (i % 5) * 22, 16 + Math.floor(i / 5) * 22, 3 + ((n >> (i % 8)) & 3) * 2),
    ),
  (n) => [
    svg("path", { class: "mark", d: `M0 0 H120 L${24 + (n % 60)} 88 Z` }),
    svg("path", { class: "mark second", d: `M120 0 V${64 + (n % 24)} L60 0 Z` }),
  ],
  (n) =>
    [0, 1, 2, 3].map((i) =>
      svg("rect", {
        class: `mark ${i % 2 ? "second" : ""}`,
        x: 12 + i * 26,
        y: 72 - (((n >> (i * 3)) & 7) * 8 + 8),
        width: 18,
        height: ((n >> (i * 3)) & 7) * 8 + 8,
        rx: 3,
      }),
    ),
  (n) =>
    [32, 24, 16, 8].map((r, i) =>
      svg("circle", { class: "mark line", cx: 84 - (n % 48), cy: 44, r: r * 1.4, "stroke-width": 5 - i * 0.5 }),
    ),
];

/** The cover of an item; decoration, since the title always stands beside it. */
export function cover({ item_id: id, title, poster }) {
  const number = hash(id);
  const name = withoutYear(title);
  const node = h(
    "div",
    { class: "cover", "aria-hidden": "true", vars: { "--hue": HUES[number % HUES.length] } },
    svg(
      "svg",
      { viewBox: "0 0 120 160", preserveAspectRatio: "xMidYMin slice" },
      PATTERNS[(number >>> 5) % PATTERNS.length](number >>> 9),
    ),
    h("div", { class: "cover-title", dir: "auto", data: { length: name.length > LONG ? "long" : "short" } }, name),
    h("div", { class: "cover-letter" }, [...name.replace(/^[^\p{L}\p{N}]+/u, "")][0] ?? "·"),
  );
  if (poster) node.append(image(poster));
  return node;
}

const withoutYear = (title) => title.replace(/\s*\(\d{4}\)\s*$/, "") || title;

function image(poster) {
  const node = h("img", {
    alt: "",
    loading: "lazy",
    decoding: "async",
    on: { load: () => node.classList.add("there"), error: () => node.remove() },
  });
  if (savedKey())
    withKey(poster).then(
      (url) => (node.src = url),
      () => node.remove(),
    );
  else node.src = poster.replace(/^\//, "");
  return node;
}

/** An <img> cannot send a key, so the bytes are fetched with it. */
async function withKey(poster) {
  const answer = await fetch(poster.replace(/^\//, ""), { headers: authorization() });
  if (!answer.ok) throw new Error(answer.statusText);
  return URL.createObjectURL(await answer.blob());
}
