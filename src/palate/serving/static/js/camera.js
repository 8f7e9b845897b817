/** From the plane of the map to the pixels of the canvas and back. */

const MIN = 0.8;
const MAX = 60;
const MARGIN = 24;

export class Camera {
  constructor() {
    this.reset();
    this.resize(1, 1);
  }

  reset() {
    Object.assign(this, { x: 0, y: 0, zoom: 1 });
  }

  resize(width, height) {
    Object.assign(this, { width, height });
  }

  /** Pixels of one unit of the plane, on each axis: the whole map fills the canvas. */
  get unit() {
    return [((this.width - 2 * MARGIN) / 2) * this.zoom, ((this.height - 2 * MARGIN) / 2) * this.zoom];
  }

  toPlane(px, py) {
    const [ux, uy] = this.unit;
    return [this.x + (px - this.width / 2) / ux, this.y - (py - this.height / 2) / uy];
  }

  pan(dx, dy) {
    const [ux, uy] = this.unit;
    this.x = clamp(this.x - dx / ux, -1, 1);
    this.y = clamp(this.y + dy / uy, -1, 1);
  }

  /** Zooms by a factor; what is under the pixel stays there. */
  zoomAt(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.toPlane(px, py);
    this.zoom = clamp(this.zoom * factor, MIN, MAX);
    const [nx, ny] = this.toPlane(px, py);
    this.x = clamp(this.x + x - nx, -1, 1);
    this.y = clamp(this.y + y - ny, -1, 1);
  }

  goTo(x, y, zoom) {
    Object.assign(this, { x, y, zoom: Math.max(this.zoom, zoom) });
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
