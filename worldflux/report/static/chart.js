// A line chart in SVG: readable axes, the values under the pointer or the arrow keys, and a part of it
// enlarged: drag over it, pinch, or + and -; a double click, or 0, shows all of it again.

const NS = "http://www.w3.org/2000/svg";
let charts = 0;

/** Numbers as people write them: 1,234, 12.5k, 0.0123. */
export function compact(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    const divisor = letter === "k" ? 1e3 : unit;
    if (size >= unit) return trim((value / divisor).toPrecision(3)) + letter;
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return trim(value.toPrecision(3));
}

const trim = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);

/** Seconds as 1:02:03 or 2:03. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const total = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor(total / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

function ticks(low, high, count, time) {
  const span = high - low || 1;
  const steps = time ? [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400] : null;
  let step;
  if (time) step = steps.find((s) => span / s <= count) ?? 86400 * Math.ceil(span / count / 86400);
  else {
    const rough = span / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  }
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** Tick labels that differ from each other, however narrow the range. */
function label(value, step) {
  const text = compact(value);
  if (text === compact(value + step)) return value.toFixed(Math.min(8, Math.max(0, Math.ceil(-Math.log10(step)))));
  return text;
}

function node(parent, name, attributes = {}, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** Index of the point [x, …] nearest to x in points sorted by x. */
function nearest(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - points[low - 1][0] < points[low][0] - x ? low - 1 : low;
}

/** The points between two x, and one more on each side, to which the line goes. */
function within(points, [low, high]) {
  const first = points.findIndex((p) => p[0] >= low);
  if (first < 0) return points.slice(-1);
  const after = points.findIndex((p) => p[0] > high);
  return points.slice(Math.max(0, first - 1), after < 0 ? points.length : after + 1);
}

export class Chart {
  /** label: what a screen reader calls it. names: of both axes (small charts have none).
   * robust: the axis follows most of the points, not a single outlier. */
  constructor(element, { label, xName = "", yName = "", robust = false, empty = "Nothing yet" }) {
    Object.assign(this, { element, label, xName, yName, robust, series: [], time: false, goal: null, view: null });
    this.id = `plot${charts++}`;
    this.svg = node(element, "svg", { tabindex: 0, role: "img" });
    this.tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    this.blank = Object.assign(document.createElement("p"), { className: "empty", textContent: empty });
    this.all = Object.assign(document.createElement("button"), { className: "all", type: "button", textContent: "Show all", hidden: true });
    this.all.addEventListener("click", () => this.zoom(null));
    element.append(this.tip, this.blank, this.all);
    this.cursor = null;
    this.touches = new Map(); // pointers that are down -> where they are and where they went down
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) this.svg.addEventListener(name, (event) => this.release(event));
    this.svg.addEventListener("dblclick", () => this.zoom(null));
    this.svg.addEventListener("pointerleave", () => this.hover(null));
    this.svg.addEventListener("blur", () => this.hover(null));
    this.svg.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(element);
  }

  /** series: {name, tone, points [[x, y, low?, high?]] sorted by x, dots, marks, band, quiet, faint, dashed}.
   * quiet: only dots, without a value under the pointer; faint: a thin line without one. */
  update(series, { xName = this.xName, time = false, goal = null, goalName = "solved at" } = {}) {
    Object.assign(this, { series, xName, time, goal, goalName });
    this.draw();
  }

  get small() { return !this.yName; }

  range() {
    const xs = this.series.flatMap((s) => (s.points.length ? [s.points[0][0], s.points.at(-1)[0]] : []));
    this.whole = [Math.min(...xs), Math.max(...xs)];
    const seen = (s) => (this.view ? within(s.points, this.view) : s.points);
    let ys = this.series.flatMap((s) => seen(s).flatMap((p) => (s.band ? [p[2], p[3]] : [p[1]])));
    ys = ys.filter(Number.isFinite).sort((a, b) => a - b);
    // A far goal would flatten the curve; it comes into sight with the returns.
    this.near = this.goal !== null && ys.length > 0 && ys.at(-1) > 0.4 * this.goal;
    let [low, high] = [ys[0], ys.at(-1)];
    if (this.robust && ys.length > 20) [low, high] = [ys[Math.floor(ys.length * 0.01)], ys[Math.floor(ys.length * 0.97)]];
    if (this.near) [low, high] = [Math.min(low, this.goal), Math.max(high, this.goal)];
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    const floor = low >= 0 && low < (high - low) * 0.3 ? 0 : low - pad;
    const x = this.view ?? this.whole;
    return { x: x[0] === x[1] ? [x[0] - 1, x[1] + 1] : x, y: [floor, high + pad] };
  }

  draw() {
    const { width, height } = this.element.getBoundingClientRect();
    const filled = this.series.some((s) => s.points.length);
    this.blank.hidden = filled;
    this.all.hidden = !this.view;
    this.svg.replaceChildren();
    this.svg.setAttribute("aria-label", this.describe());
    if (!filled || width < 50) return;
    const { x, y } = this.range();
    const frame = this.small
      ? { left: 44, right: width - 6, top: 6, bottom: height - 20 }
      : { left: 58, right: width - 12, top: 30, bottom: height - 42 };
    const X = (v) => frame.left + ((v - x[0]) / (x[1] - x[0])) * (frame.right - frame.left);
    const Y = (v) => frame.bottom - ((v - y[0]) / (y[1] - y[0])) * (frame.bottom - frame.top);
    Object.assign(this, { frame, X, Y, extent: x });
    this.axes(x, y, width, height);
    const clip = node(node(this.svg, "defs"), "clipPath", { id: this.id });
    node(clip, "rect", { x: frame.left - 4, y: frame.top - 6, width: frame.right - frame.left + 8, height: frame.bottom - frame.top + 12 });
    const plot = node(this.svg, "g", { "clip-path": `url(#${this.id})` });
    for (const series of this.series) this.line(plot, series);
    this.overlay = node(this.svg, "g");
    this.show();
  }

  axes(x, y, width, height) {
    const { frame, X, Y } = this;
    const levels = ticks(y[0], y[1], this.small ? 4 : 6);
    for (const v of levels) {
      node(this.svg, "line", { class: "grid", x1: frame.left, x2: frame.right, y1: Y(v), y2: Y(v) });
      node(this.svg, "text", { x: frame.left - 8, y: Y(v) + 4, "text-anchor": "end" }, label(v, levels.length > 1 ? levels[1] - levels[0] : 1));
    }
    const room = Math.max(3, Math.floor((frame.right - frame.left) / (this.small ? 56 : 110)));
    for (const v of ticks(x[0], x[1], room, this.time)) {
      const anchor = X(v) > frame.right - 14 ? "end" : X(v) < frame.left + 4 ? "start" : "middle";
      node(this.svg, "text", { x: X(v), y: frame.bottom + 16, "text-anchor": anchor }, this.time ? duration(v) : compact(v));
    }
    if (this.small) return;
    const middle = (frame.left + frame.right) / 2;
    node(this.svg, "text", { class: "axis-name", x: middle, y: height - 4, "text-anchor": "middle" }, this.xName);
    node(this.svg, "text", { class: "axis-name", x: frame.left - 8, y: frame.top - 14, "text-anchor": "end" }, this.yName);
    if (this.near) {
      node(this.svg, "line", { class: "goal", x1: frame.left, x2: frame.right, y1: Y(this.goal), y2: Y(this.goal) });
      node(this.svg, "text", { class: "goal-name", x: frame.left + 6, y: Y(this.goal) - 6 }, `${this.goalName} ${compact(this.goal)}`);
    }
  }

  line(parent, { points, tone, dots, marks, band, quiet, faint, dashed }) {
    const { X, Y } = this;
    const at = (this.view ? within(points, this.view) : points).filter((p) => Number.isFinite(p[1])).map((p) => [X(p[0]), Y(p[1]), p]);
    if (band && at.length) {
      const upper = at.map(([px, , p]) => [px, Y(p[3])]);
      const lower = at.map(([px, , p]) => [px, Y(p[2])]).reverse();
      node(parent, "path", { class: `band ${tone}`, d: `${path([...upper, ...lower])}Z` });
    }
    if (dots) {
      const round = at.map(([px, py]) => `M${px.toFixed(1)} ${py.toFixed(1)}m-1.7 0a1.7 1.7 0 1 0 3.4 0a1.7 1.7 0 1 0-3.4 0`).join("");
      node(parent, "path", { class: `dots ${tone}`, d: round, opacity: Math.min(0.55, Math.max(0.16, 40 / at.length)) });
    }
    if (!quiet && at.length > 1) node(parent, "path", { class: ["line", tone, this.small && "thin", faint && "faint", dashed && "dashed"].filter(Boolean).join(" "), d: path(at) });
    if (marks || (at.length === 1 && !faint)) for (const [px, py] of at) node(parent, "circle", { class: `${marks ? "marks" : "at"} ${tone}`, cx: px, cy: py, r: at.length > 60 ? 2 : 3.5 });
  }

  describe() {
    const parts = this.series.filter((s) => !s.quiet && !s.faint && s.points.length);
    return `${this.label}. ${parts.map((s) => `${s.name}: ${compact(s.points.at(-1)[1])}`).join(", ") || "nothing yet"}`;
  }

  press(event) {
    this.svg.setPointerCapture(event.pointerId);
    this.touches.set(event.pointerId, { from: event.offsetX, at: event.offsetX });
    const xs = [...this.touches.values()].map((t) => t.at);
    if (xs.length === 2 && this.frame) this.pinched = xs.map((offset) => this.valueAt(offset)).sort((a, b) => a - b);
  }

  move(event) {
    const touch = this.touches.get(event.pointerId);
    if (touch) touch.at = event.offsetX;
    if (this.touches.size === 2) this.pinch();
    else this.hover(event.offsetX);
  }

  release(event) {
    const touch = this.touches.get(event.pointerId);
    const alone = this.touches.size === 1;
    this.touches.delete(event.pointerId);
    if (event.type === "pointerup" && alone && event.pointerType !== "touch" && this.frame && touch && Math.abs(touch.at - touch.from) > 8) {
      this.zoom([touch.from, touch.at].map((offset) => this.valueAt(offset)).sort((a, b) => a - b));
    } else if (this.overlay) this.show();
  }

  /** What was between two fingers stays between them. */
  pinch() {
    const [a, b] = [...this.touches.values()].map((t) => t.at).sort((one, other) => one - other);
    if (!this.pinched || b - a < 12) return;
    const scale = (this.pinched[1] - this.pinched[0]) / (b - a);
    const low = this.pinched[0] - (a - this.frame.left) * scale;
    this.zoom([low, low + (this.frame.right - this.frame.left) * scale]);
  }

  /** Shows the part between two x; null: all of it. */
  zoom(view) {
    if (view && this.whole) {
      const [low, high] = [Math.max(view[0], this.whole[0]), Math.min(view[1], this.whole[1])];
      view = high - low > 0 && high - low < (this.whole[1] - this.whole[0]) * 0.999 ? [low, high] : null;
    }
    this.view = view;
    this.draw();
  }

  hover(offset) {
    this.cursor = offset;
    if (this.overlay) this.show();
  }

  step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const factor = { "+": 0.5, "-": 2, 0: Infinity }[event.key];
    if (factor && this.frame) {
      const half = ((this.extent[1] - this.extent[0]) * factor) / 2;
      const middle = this.cursor === null ? (this.extent[0] + this.extent[1]) / 2 : this.valueAt(this.cursor);
      this.zoom(Number.isFinite(half) ? [middle - half, middle + half] : null);
    }
    if (!move || !this.frame) return;
    event.preventDefault();
    const points = this.series.findLast((s) => !s.quiet && !s.faint && s.points.length).points;
    const now = this.cursor === null ? points.length - 1 : nearest(points, this.valueAt(this.cursor)) + move;
    this.hover(this.X(points[Math.min(points.length - 1, Math.max(0, now))][0]));
  }

  valueAt(offset) {
    const share = (offset - this.frame.left) / (this.frame.right - this.frame.left);
    return this.extent[0] + share * (this.extent[1] - this.extent[0]);
  }

  show() {
    this.overlay.replaceChildren();
    this.tip.hidden = this.cursor === null;
    if (this.cursor === null) return;
    const [drag] = this.touches.size === 1 ? this.touches.values() : [];
    if (drag && Math.abs(drag.at - drag.from) > 8) {
      node(this.overlay, "rect", { class: "drag", x: Math.min(drag.at, drag.from), width: Math.abs(drag.at - drag.from), y: this.frame.top, height: this.frame.bottom - this.frame.top });
    }
    const wanted = this.valueAt(this.cursor);
    const shown = this.series.filter((s) => !s.quiet && !s.faint && s.points.length).map((s) => [s, s.points[nearest(s.points, wanted)]]);
    if (!shown.length) return;
    const [, closest] = shown.reduce((a, b) => (Math.abs(b[1][0] - wanted) < Math.abs(a[1][0] - wanted) ? b : a));
    const at = this.X(closest[0]);
    node(this.overlay, "line", { class: "cross", x1: at, x2: at, y1: this.frame.top, y2: this.frame.bottom });
    const rows = [];
    for (const [series, point] of shown) {
      const y = Math.min(this.frame.bottom, Math.max(this.frame.top, this.Y(point[1])));
      node(this.overlay, "circle", { class: `at ${series.tone}`, cx: this.X(point[0]), cy: y, r: 4.5 });
      rows.push([series.name, compact(point[1]) + (series.band ? ` (${compact(point[2])} to ${compact(point[3])})` : ""), series.tone]);
    }
    rows.unshift([this.xName, this.time ? duration(closest[0]) : Math.round(closest[0]).toLocaleString("en-US")]);
    this.tip.replaceChildren(...rows.map(([name, value, tone]) => {
      const row = document.createElement("div");
      if (tone) row.append(Object.assign(document.createElement("i"), { className: tone }));
      row.append(Object.assign(document.createElement("span"), { textContent: `${name}  ` }), Object.assign(document.createElement("b"), { textContent: value }));
      return row;
    }));
    const half = this.tip.offsetWidth;
    const left = at + 14 + half > this.element.clientWidth ? at - half - 14 : at + 14;
    this.tip.style.transform = `translate(${Math.max(0, left)}px, ${this.frame.top + 4}px)`;
  }
}
