// Scatter plot on a canvas: zoom, pan, hover, select. It knows only the titles of the points.

import { listen } from "./gestures.js";

const RADIUS = 3.2;
const LABELS = 40; // titles are drawn where no more points than these are in view
const NEAR = 14; // pixels within which a pointer finds a point
export const HUES = ["--c0", "--c1", "--c3", "--c2", "--c5", "--c4", "--accent"];
const STEPS = ["--s0", "--s1", "--s2", "--s3", "--s4"];

/**
 * `points`: x, y, titles, and maybe kind, labels, codes, added, as from GET /projection.
 * `options`: `fixed` (no pointer), `hovered(place | -1, x, y)`, `chosen(place)`, `moved()`.
 */
export class ScatterPlot {
  constructor(canvas, points, options = {}) {
    this.canvas = canvas;
    this.points = points;
    this.options = options;
    this.hidden = new Set(); // codes that are switched off
    this.shown = null; // places that a search found, or null for all
    this.subject = -1;
    this.around = [];
    this.over = -1;
    this.added = new Set(points.added ?? []);
    this.view = { x: 0, y: 0, scale: 1 };
    this.listeners = new AbortController();
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(canvas);
    const again = () => this.recolor();
    document.addEventListener("theme", again, { signal: this.listeners.signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again, { signal: this.listeners.signal });
    this.recolor();
    this.resize();
    if (!options.fixed) listen(this, this.listeners.signal);
  }

  stop() {
    this.listeners.abort();
    this.resizing.disconnect();
  }

  // ------------------------------------------------------------ what is seen

  /** Set one point and its neighbors apart. */
  mark(subject, around = []) {
    this.subject = subject;
    this.around = around;
    this.draw();
  }

  /** Other colors, of the same points. */
  color(points) {
    this.points = points;
    this.hidden.clear();
    this.recolor();
  }

  /** Show all of these places, by default everything; `room` is the share left free around them. */
  fit(places = null, room = 0.06) {
    const { x, y } = this.points;
    const all = places ?? x.map((_, at) => at);
    if (!all.length) return;
    let [west, east, south, north] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const at of all) {
      west = Math.min(west, x[at]);
      east = Math.max(east, x[at]);
      south = Math.min(south, y[at]);
      north = Math.max(north, y[at]);
    }
    const least = 0.02;
    const scale =
      Math.min(this.width / Math.max(east - west, least), this.height / Math.max(north - south, least)) *
      (1 - 2 * room);
    this.fitted = places === null;
    this.wanted = { places, room };
    this.view = { x: (west + east) / 2, y: (south + north) / 2, scale };
    this.limit ??= scale;
    this.changed();
  }

  zoom(factor, atX = this.width / 2, atY = this.height / 2) {
    const before = this.place(atX, atY);
    this.wanted = null;
    this.view.scale = Math.min(Math.max(this.view.scale * factor, (this.limit ?? 1) * 0.5), (this.limit ?? 1) * 400);
    const after = this.place(atX, atY);
    this.view.x += before.x - after.x;
    this.view.y += before.y - after.y;
    this.changed();
  }

  pan(dx, dy) {
    this.wanted = null;
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.changed();
  }

  /** Places in view, nearest to the middle first. */
  inView() {
    const found = [];
    for (let at = 0; at < this.points.x.length; at += 1) {
      if (!this.visible(at)) continue;
      const { x, y } = this.screen(at);
      if (x < 0 || y < 0 || x > this.width || y > this.height) continue;
      found.push([at, (x - this.width / 2) ** 2 + (y - this.height / 2) ** 2]);
    }
    return found.sort((a, b) => a[1] - b[1]).map(([at]) => at);
  }

  visible(at) {
    if (this.shown && !this.shown.has(at)) return false;
    return !this.points.codes || !this.hidden.has(this.points.codes[at]);
  }

  // ------------------------------------------------------------ drawing

  changed() {
    this.hover(-1); // what was under the pointer has moved away
    this.draw();
    this.options.moved?.();
  }

  draw() {
    if (this.waiting || !this.width) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  paint() {
    const ink = this.canvas.getContext("2d");
    const { points } = this;
    ink.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    ink.clearRect(0, 0, this.width, this.height);
    const radius = RADIUS * Math.min(2.2, Math.max(0.75, Math.sqrt(this.view.scale / (this.limit || this.view.scale))));
    const apart = this.subject >= 0;
    const drawn = [];
    ink.globalAlpha = apart ? 0.35 : 0.78;
    for (let at = 0; at < points.x.length; at += 1) {
      const { x, y } = this.screen(at);
      if (x < -9 || y < -9 || x > this.width + 9 || y > this.height + 9) continue;
      if (!this.visible(at)) {
        ink.fillStyle = this.colors.faint;
        disc(ink, x, y, radius * 0.7);
        continue;
      }
      ink.fillStyle = this.colorOf(at);
      disc(ink, x, y, radius);
      drawn.push(at);
    }
    ink.globalAlpha = 1;
    for (const at of drawn)
      if (this.added.has(at) && at !== this.subject) this.ring(ink, at, radius + 2.5, this.colors.accent);
    if (apart) this.paintSubject(ink, radius);
    else if (drawn.length <= LABELS) paintLabels(this, ink, drawn, radius);
    if (this.over >= 0) {
      ink.fillStyle = this.colorOf(this.over);
      const { x, y } = this.screen(this.over);
      disc(ink, x, y, radius + 2);
      this.ring(ink, this.over, radius + 3.5, this.colors.ink);
    }
  }

  paintSubject(ink, radius) {
    const from = this.screen(this.subject);
    ink.strokeStyle = this.colors.accent;
    ink.globalAlpha = 0.5;
    for (const at of this.around) {
      const { x, y } = this.screen(at);
      ink.beginPath();
      ink.moveTo(from.x, from.y);
      ink.lineTo(x, y);
      ink.stroke();
    }
    ink.globalAlpha = 1;
    for (const at of this.around) {
      const { x, y } = this.screen(at);
      ink.fillStyle = this.colors.hues[0];
      disc(ink, x, y, radius + 1);
    }
    ink.fillStyle = this.colors.accent;
    disc(ink, from.x, from.y, radius + 3);
    paintLabels(this, ink, [this.subject, ...this.around], radius + 3);
  }

  ring(ink, at, radius, color) {
    const { x, y } = this.screen(at);
    ink.strokeStyle = color;
    ink.lineWidth = 1.5;
    ink.beginPath();
    ink.arc(x, y, radius, 0, 2 * Math.PI);
    ink.stroke();
    ink.lineWidth = 1;
  }

  colorOf(at) {
    const { codes, kind } = this.points;
    if (!codes) return this.colors.hues[0];
    const code = codes[at];
    if (code < 0) return this.colors.gray;
    return (kind === "number" ? this.colors.steps[code] : this.colors.hues[code]) ?? this.colors.gray;
  }

  /** CSS variables as colors that a canvas knows. */
  recolor() {
    const probe = document.createElement("span");
    document.body.append(probe);
    const read = (name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    this.colors = {
      ink: read("--ink"),
      gray: read("--gray"),
      ground: read("--ground"),
      faint: read("--rule"),
      accent: read("--accent"),
      hues: HUES.map(read),
      steps: STEPS.map(read),
    };
    probe.remove();
    this.draw();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    this.ratio = window.devicePixelRatio || 1;
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    if (this.wanted) {
      this.limit = this.wanted.places === null ? undefined : this.limit;
      this.fit(this.wanted.places, this.wanted.room);
    } else this.changed();
  }

  screen(at) {
    return {
      x: this.width / 2 + (this.points.x[at] - this.view.x) * this.view.scale,
      y: this.height / 2 - (this.points.y[at] - this.view.y) * this.view.scale,
    };
  }

  place(x, y) {
    return {
      x: this.view.x + (x - this.width / 2) / this.view.scale,
      y: this.view.y - (y - this.height / 2) / this.view.scale,
    };
  }

  // ------------------------------------------------------------ the point that is meant

  hover(at) {
    if (at === this.over) return;
    this.over = at;
    this.canvas.classList.toggle("pointed", at >= 0);
    this.draw();
    const { x, y } = at < 0 ? { x: 0, y: 0 } : this.screen(at);
    this.options.hovered?.(at, x, y);
  }

  nearest(x, y) {
    let best = -1;
    let least = NEAR ** 2;
    for (let at = 0; at < this.points.x.length; at += 1) {
      const place = this.screen(at);
      const far = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (far < least && this.visible(at)) {
        best = at;
        least = far;
      }
    }
    return best;
  }
}

function disc(ink, x, y, radius) {
  ink.beginPath();
  ink.arc(x, y, radius, 0, 2 * Math.PI);
  ink.fill();
}

/** The titles of some places; those that would cover a point or another title are left out. */
function paintLabels(plane, ink, places, radius) {
  ink.font = `12.5px ${getComputedStyle(plane.canvas).fontFamily}`;
  ink.textBaseline = "middle";
  ink.lineJoin = "round";
  ink.lineWidth = 3.5;
  ink.strokeStyle = plane.colors.ground;
  const spots = places.map((at) => plane.screen(at));
  const taken = spots.map(({ x, y }) => [x - radius, y - radius, x + radius, y + radius]);
  places.forEach((at, own) => {
    const text = cut(plane.points.titles[at] || String(plane.points.items[at]));
    const box = room(plane, spots[own], ink.measureText(text).width, radius + 4, taken, own);
    if (!box) return;
    taken.push(box);
    const middle = (box[1] + box[3]) / 2;
    ink.strokeText(text, box[0], middle);
    ink.fillStyle = at === plane.subject ? plane.colors.accent : plane.colors.ink;
    ink.fillText(text, box[0], middle);
  });
  ink.lineWidth = 1;
}

/** A free box for a label beside, below or above its point; null where there is none. */
function room(plane, { x, y }, wide, off, taken, own) {
  const high = 8;
  const boxes = [
    [x + off, y - high],
    [x - off - wide, y - high],
    [x - wide / 2, y + off - 2],
    [x - wide / 2, y - off + 2 - 2 * high],
  ].map(([left, top]) => [left, top, left + wide, top + 2 * high]);
  const inside = (box) => box[0] >= 3 && box[1] >= 0 && box[2] <= plane.width - 3 && box[3] <= plane.height;
  const free = (box) =>
    taken.every((one, at) => at === own || box[0] > one[2] || box[2] < one[0] || box[1] > one[3] || box[3] < one[1]);
  return boxes.find((box) => inside(box) && free(box)) ?? null;
}

const cut = (text) => (text.length > 32 ? `${text.slice(0, 31)}…` : text);
