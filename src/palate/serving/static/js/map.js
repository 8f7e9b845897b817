/** The map of the catalogue on a canvas: wheel, drag, pinch and keys; a label on hover and focus; a lasso. */

import { Camera } from "./camera.js";
import { h, icon, plain } from "./dom.js";
import { paint, palette } from "./paint.js";
import { Points, inPolygon } from "./points.js";

export const COLOURS = 8;
const REACH = 16;
const STEP = 1.4;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** `choose(id)`: an item was picked; `region(ids)`: a lasso was drawn; `history()`: ids that are marked. */
export function catalogueMap(answer, { choose, region, history }) {
  const points = new Points(answer, COLOURS);
  const camera = new Camera();
  const view = { points, camera, colours: null, history: history(), listed: [], pointed: -1, lasso: [] };
  const canvas = h("canvas", {
    tabindex: "0",
    role: "application",
    "aria-label": `Map of ${points.count.toLocaleString("en")} titles`,
    "aria-describedby": "map-help map-said",
  });
  const context = canvas.getContext("2d");
  const label = h("div", { class: "map-label", hidden: true, dir: "auto" });
  const said = h("p", { class: "unseen", id: "map-said", role: "status" });
  const lassoButton = tool("Draw a region", "lasso", () => setTool(node.dataset.tool === "lasso" ? "move" : "lasso"));
  const node = h(
    "div",
    { class: "map", data: { tool: "move" } },
    canvas,
    label,
    said,
    h(
      "p",
      { class: "unseen", id: "map-help" },
      "Arrow keys go from title to title, plus and minus zoom, 0 shows everything, Enter picks a title, Shift with arrows moves the map.",
    ),
    h(
      "div",
      { class: "map-tools no-print" },
      tool("Zoom in", "plus", () => zoom(STEP)),
      tool("Zoom out", "minus", () => zoom(1 / STEP)),
      tool("Show everything", "home", reset),
      lassoButton,
    ),
  );
  let frame = 0;

  function redraw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => {
      view.colours ??= palette(node, COLOURS);
      paint(context, view);
      place();
    });
  }

  function fit() {
    const { width, height } = node.getBoundingClientRect();
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    camera.resize(width, height);
    redraw();
  }

  /** The label stands beside the pointed item, on the side where there is room. */
  function place() {
    label.hidden = view.pointed < 0;
    if (label.hidden) return;
    const [x, y] = points.project(camera).map((axis) => axis[view.pointed]);
    label.textContent = plain(points.titles[view.pointed]);
    const { offsetWidth: width, offsetHeight: height } = label;
    const left = x + 12 + width > camera.width ? x - 12 - width : x + 12;
    label.style.transform = `translate(${Math.max(4, left)}px, ${Math.min(camera.height - height - 4, Math.max(4, y - height / 2))}px)`;
  }

  function point(at, speak = false) {
    if (at === view.pointed) return;
    view.pointed = at;
    canvas.style.cursor = at >= 0 && node.dataset.tool === "move" ? "pointer" : "";
    if (speak && at >= 0) said.textContent = plain(points.titles[at]);
    redraw();
  }

  function zoom(factor, x, y) {
    camera.zoomAt(factor, x, y);
    redraw();
  }
  function reset() {
    camera.reset();
    redraw();
  }
  function setTool(name) {
    node.dataset.tool = name;
    lassoButton.setAttribute("aria-pressed", String(name === "lasso"));
  }

  function key(event) {
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) camera.pan(-arrow[0] * 48, -arrow[1] * 48);
    else if (arrow) {
      point(
        view.pointed < 0
          ? points.near(camera, camera.width / 2, camera.height / 2, camera.width)
          : points.towards(camera, view.pointed, ...arrow),
        true,
      );
      keepVisible();
    } else if (event.key === "+" || event.key === "=") zoom(STEP);
    else if (event.key === "-") zoom(1 / STEP);
    else if (event.key === "0") reset();
    else if (event.key === "Enter" && view.pointed >= 0) choose(points.ids[view.pointed]);
    else return;
    event.preventDefault();
    event.stopPropagation();
    redraw();
  }

  function keepVisible() {
    const [x, y] = points.project(camera).map((axis) => axis[view.pointed]);
    if (x < 24 || y < 24 || x > camera.width - 24 || y > camera.height - 24)
      camera.goTo(points.x[view.pointed], points.y[view.pointed], camera.zoom);
  }

  canvas.addEventListener("keydown", key);
  canvas.addEventListener("blur", () => point(-1));
  pointers(canvas, {
    view,
    zoom,
    redraw,
    point,
    choose: (at) => choose(points.ids[at]),
    tool: () => node.dataset.tool,
    lassoed,
  });
  new ResizeObserver(fit).observe(node);

  function lassoed() {
    const ids = points.within(camera, inPolygon(view.lasso));
    setTool("move");
    region(ids);
  }

  return {
    node,
    points,
    redraw,
    recolour() {
      view.colours = null;
      redraw();
    },
    mark(ids) {
      view.history = ids;
      redraw();
    },
    show(ids) {
      view.listed = ids;
      redraw();
    },
    clearRegion() {
      view.lasso = [];
      redraw();
    },
    visible: () => points.within(camera, (x, y) => x >= 0 && y >= 0 && x <= camera.width && y <= camera.height),
    find(id) {
      const at = points.index.get(id);
      if (at === undefined) return false;
      camera.goTo(points.x[at], points.y[at], 4);
      point(at, true);
      redraw();
      return true;
    },
  };
}

const tool = (label, name, act) =>
  h(
    "button",
    { type: "button", class: "button square", "aria-label": label, title: label, on: { click: act } },
    icon(name),
  );

/** Mouse, pen and fingers: one drags or draws, two pinch, a short press picks. */
function pointers(canvas, { view, zoom, redraw, point, choose, tool: current, lassoed }) {
  const { camera, points } = view;
  const down = new Map();
  let moved = 0;
  const at = (event) => [event.offsetX, event.offsetY];
  const gap = () => {
    const [a, b] = [...down.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), ...at(event));
    },
    { passive: false },
  );

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at(event));
    moved = 0;
    if (current() === "lasso") view.lasso = [at(event)];
  });

  canvas.addEventListener("pointermove", (event) => {
    const now = at(event);
    const before = down.get(event.pointerId);
    if (!before) return point(points.near(camera, ...now, REACH));
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (down.size === 2) {
      const old = gap();
      down.set(event.pointerId, now);
      return zoom(gap() / old, ...now);
    }
    down.set(event.pointerId, now);
    if (current() === "lasso") view.lasso.push(now);
    else camera.pan(now[0] - before[0], now[1] - before[1]);
    redraw();
  });

  canvas.addEventListener("pointerup", (event) => {
    down.delete(event.pointerId);
    if (current() === "lasso") return view.lasso.length > 4 ? lassoed() : undefined;
    const found = moved < 6 ? points.near(camera, ...at(event), REACH) : -1;
    if (found >= 0) {
      point(found);
      choose(found);
    }
  });
  canvas.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => down.size || document.activeElement === canvas || point(-1));
}
