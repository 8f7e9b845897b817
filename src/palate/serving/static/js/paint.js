/** Draws the map: points by group, the history as rings, the pointed item, titles where there is room. */

const MOST_LABELS = 40;
const LABEL_HEIGHT = 18;
const ROUND_FROM = 1.25; // smaller points look the same as squares, which are quicker
const TAU = 2 * Math.PI;

const pixel = (points, at) => [points.pixels[0][at], points.pixels[1][at]];

/** Colours of the tokens, as the canvas needs them. */
export function palette(node, count) {
  const probe = document.createElement("i");
  node.append(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    groups: Array.from({ length: count }, (_, at) => colour(`--group-${at}`)),
    text: colour("--text"),
    muted: colour("--text-muted"),
    surface: colour("--surface"),
    accent: colour("--accent"),
  };
  probe.remove();
  return found;
}

export function paint(context, { points, camera, colours, history, pointed, lasso, listed }) {
  points.project(camera);
  context.clearRect(0, 0, camera.width, camera.height);
  dots(context, points, camera, colours);
  rings(context, points, camera, colours, listed, 5, colours.accent);
  rings(context, points, camera, colours, history, 6, colours.text);
  labels(context, points, camera, colours, history, pointed);
  if (pointed >= 0) spot(context, points, camera, colours, pointed);
  if (lasso.length) outline(context, lasso, colours);
}

const visible = (camera, x, y) => x > -8 && y > -8 && x < camera.width + 8 && y < camera.height + 8;

function dots(context, points, camera, colours) {
  const [px, py] = points.pixels;
  const grow = Math.min(3, Math.sqrt(camera.zoom));
  context.globalAlpha = 0.64;
  points.byGroup.forEach((members, group) => {
    context.beginPath();
    for (const at of members) {
      const [x, y] = [px[at], py[at]];
      if (!visible(camera, x, y)) continue;
      const radius = (1 + 2.4 * points.popularity[at] ** 3) * grow;
      if (radius < ROUND_FROM) {
        context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
        continue;
      }
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, TAU);
    }
    context.fillStyle = colours.groups[group];
    context.fill();
  });
  context.globalAlpha = 1;
}

function rings(context, points, camera, colours, ids, radius, colour) {
  context.lineWidth = 2;
  for (const id of ids) {
    const at = points.index.get(id);
    if (at === undefined) continue;
    const [x, y] = pixel(points, at);
    context.beginPath();
    context.arc(x, y, radius + 2, 0, TAU);
    context.strokeStyle = colours.surface;
    context.stroke();
    context.beginPath();
    context.arc(x, y, radius, 0, TAU);
    context.strokeStyle = colour;
    context.stroke();
  }
}

/** Titles of the history first, then of the most popular points; none covers another. */
function labels(context, points, camera, colours, history, pointed) {
  const taken = [];
  const most = Math.min(MOST_LABELS, 8 + Math.floor(camera.zoom * 4));
  context.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  let written = 0;
  const write = (at, strong) => {
    const [x, above] = pixel(points, at);
    if (at === pointed || !visible(camera, x, above)) return;
    const text = short(points.titles[at]);
    const width = context.measureText(text).width;
    // Right of the point, left of it, or below, where there is room.
    const fits = x + 10 + width <= camera.width ? x + 10 : x - 10 - width;
    const left = fits < 0 ? Math.max(4, Math.min(x - width / 2, camera.width - width - 4)) : fits;
    const y = fits < 0 ? above + LABEL_HEIGHT : above;
    const box = [left - 4, y - LABEL_HEIGHT / 2, left + width + 4, y + LABEL_HEIGHT / 2];
    if (taken.some((one) => box[0] < one[2] && box[2] > one[0] && box[1] < one[3] && box[3] > one[1])) return;
    taken.push(box);
    context.globalAlpha = 0.88;
    context.fillStyle = colours.surface;
    context.fillRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    context.globalAlpha = 1;
    context.fillStyle = strong ? colours.text : colours.muted;
    context.fillText(text, left, y + 1);
    written += 1;
  };
  for (const id of history) if (points.index.has(id) && written < most) write(points.index.get(id), true);
  for (let at = 0; at < points.count && written < most; at++) write(at, false);
}

const short = (title) => (title.length > 28 ? `${title.slice(0, 27)}…` : title);

function spot(context, points, camera, colours, at) {
  const [x, y] = pixel(points, at);
  context.beginPath();
  context.arc(x, y, 7, 0, TAU);
  context.fillStyle = colours.accent;
  context.strokeStyle = colours.surface;
  context.lineWidth = 3;
  context.fill();
  context.stroke();
}

function outline(context, lasso, colours) {
  context.beginPath();
  lasso.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.strokeStyle = colours.accent;
  context.lineWidth = 2;
  context.stroke();
  context.globalAlpha = 0.12;
  context.fillStyle = colours.accent;
  context.fill();
  context.globalAlpha = 1;
}
