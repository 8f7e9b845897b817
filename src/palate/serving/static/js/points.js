/** The points of the map, and which of them is near: a grid of cells makes that cheap for any number. */

const CELLS = 64;
const RANK_SHARE = 0.75;

export class Points {
  /** `map` is the answer of /v1/map. The most frequent groups have a colour; the others share the last one. */
  constructor(map, colours) {
    this.ids = map.item_ids.map(String);
    Object.assign(this, {
      titles: map.titles,
      x: spread(map.x),
      y: spread(map.y),
      popularity: map.popularity,
      count: map.item_ids.length,
    });
    this.index = new Map(this.ids.map((id, at) => [id, at]));
    this.groups = frequent(map.groups ?? [], colours - 1);
    const place = new Map(this.groups.map((name, at) => [name, at]));
    this.group = this.ids.map((_, at) => place.get(map.groups?.[at]) ?? colours - 1);
    this.byGroup = Array.from({ length: colours }, () => []);
    this.group.forEach((group, at) => this.byGroup[group].push(at));
    this.cells = new Map();
    for (let at = 0; at < this.count; at++) {
      const key = cell(this.x[at]) * CELLS + cell(this.y[at]);
      if (this.cells.has(key)) this.cells.get(key).push(at);
      else this.cells.set(key, [at]);
    }
  }

  /** Pixels of all points, [x, y]; computed again only after the camera has moved. */
  project(camera) {
    const { x, y, zoom, width, height } = camera;
    const seen = `${x} ${y} ${zoom} ${width} ${height}`;
    if (this.seen === seen) return this.pixels;
    const [ux, uy] = camera.unit;
    const [px, py] = this.pixels ?? [new Float32Array(this.count), new Float32Array(this.count)];
    for (let at = 0; at < this.count; at++) {
      px[at] = width / 2 + (this.x[at] - x) * ux;
      py[at] = height / 2 - (this.y[at] - y) * uy;
    }
    Object.assign(this, { seen, pixels: [px, py] });
    return this.pixels;
  }

  /** Index of the nearest point within `reach` pixels of a pixel, or -1. */
  near(camera, px, py, reach) {
    const [x0, y0] = camera.toPlane(px - reach, py + reach);
    const [x1, y1] = camera.toPlane(px + reach, py - reach);
    const [sx, sy] = this.project(camera);
    let best = -1;
    let least = reach * reach;
    for (let i = cell(x0); i <= cell(x1); i++) {
      for (let j = cell(y0); j <= cell(y1); j++) {
        for (const at of this.cells.get(i * CELLS + j) ?? []) {
          const distance = (sx[at] - px) ** 2 + (sy[at] - py) ** 2;
          if (distance < least) [best, least] = [at, distance];
        }
      }
    }
    return best;
  }

  /** The next point from `from` in a direction of the screen: near, and not far off to the side. */
  towards(camera, from, dx, dy) {
    const [sx, sy] = this.project(camera);
    let best = from;
    let least = Infinity;
    for (let at = 0; at < this.count; at++) {
      const [px, py] = [sx[at] - sx[from], sy[at] - sy[from]];
      const ahead = px * dx + py * dy;
      const aside = Math.abs(px * dy - py * dx);
      if (ahead <= 2 || aside > 2 * ahead) continue;
      const cost = ahead + 2 * aside;
      if (cost < least) [best, least] = [at, cost];
    }
    return best;
  }

  /** Ids of the points that `inside(sx, sy)` holds for, most popular first. */
  within(camera, inside) {
    const [px, py] = this.project(camera);
    return this.ids.filter((_, at) => inside(px[at], py[at]));
  }
}

/** Coordinates that are more evenly filled: most of each is its rank, so that a crowd in one corner becomes legible. */
function spread(values) {
  const order = values.map((_, at) => at).sort((a, b) => values[a] - values[b]);
  const placed = new Array(values.length);
  order.forEach((at, rank) => {
    placed[at] = (1 - RANK_SHARE) * values[at] + RANK_SHARE * ((2 * rank) / Math.max(1, values.length - 1) - 1);
  });
  return placed;
}

const cell = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor(((value + 1) / 2) * CELLS)));

function frequent(groups, most) {
  const counts = new Map();
  for (const name of groups) if (name) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts]
    .sort((a, b) => b[1] - a[1])
    .slice(0, most)
    .map(([name]) => name);
}

/** Whether a pixel lies inside a polygon [[x, y], ...] (even-odd rule). */
export function inPolygon(polygon) {
  return (x, y) => {
    let inside = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
      const [[xi, yi], [xj, yj]] = [polygon[i], polygon[j]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  };
}
