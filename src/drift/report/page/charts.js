// Line charts as SVG, drawn at the size they are shown at so that their text keeps its size.
// Colours come from the classes c0, c1, ... of page.css. A point is {x, y} and whatever its owner
// wants to find again; drawing adds its place {left, top}.
"use strict";

const NAMESPACE = document.querySelector("svg").namespaceURI;

function shape(name, attributes, text = "") {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, typeof value === "number" ? +value.toFixed(1) : value);
  }
  made.textContent = text;
  return made;
}

// About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high].
function niceTicks(low, high, count = 6) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  return Array.from({length: last - first + 1}, (_, k) => +((first + k) * step).toPrecision(12));
}

// Each value's mean with its neighbours, `window` in all, fewer at the ends; null counts for nothing.
function rollingMean(values, window) {
  const half = Math.floor(window / 2);
  return values.map((_, k) => {
    const near = values.slice(Math.max(0, k - half), k + half + 1).filter((v) => v !== null);
    return near.length ? near.reduce((a, b) => a + b) / near.length : null;
  });
}

// Places moved apart to at least `gap`, in their order, within [low, high].
function spread(places, gap, low, high) {
  const order = places.map((_, k) => k).sort((a, b) => places[a] - places[b]);
  const moved = [...places];
  let floor = low;
  for (const k of order) {
    moved[k] = Math.max(floor, places[k]);
    floor = moved[k] + gap;
  }
  let ceiling = high;
  for (const k of order.reverse()) {
    moved[k] = Math.min(ceiling, moved[k]);
    ceiling = moved[k] - gap;
  }
  return moved;
}

// The points that no other one beats on both axes, from left to right.
function paretoFront(points) {
  const beats = (a, b) => a.x >= b.x && a.y >= b.y && (a.x > b.x || a.y > b.y);
  return points.filter((p) => !points.some((q) => beats(q, p))).sort((a, b) => a.x - b.x);
}

function range(values, share) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = share * (high - low) || (high > low ? 0 : Math.abs(high) / 2 || 1);
  return [low - pad, high + pad];
}

function tickText(value, percent) {
  if (percent) return `${+(100 * value).toPrecision(6)} %`;
  const text = Math.abs(value) >= 10_000 ? `${value / 1000}k` : `${value}`;
  return text.replace("-", "−");
}

const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// The grid lines with their numbers and the two titles.
function drawAxes(svg, box, xs, ys, place) {
  for (const tick of niceTicks(...ys.range, 5)) {
    const {top} = place({x: xs.range[0], y: tick});
    svg.append(shape("line", {class: "grid", x1: box.left, x2: box.right, y1: top, y2: top}));
    const at = {class: "tick", x: box.left - 6, y: top + 4, "text-anchor": "end"};
    svg.append(shape("text", at, tickText(tick, ys.percent)));
  }
  for (const tick of niceTicks(...xs.range, Math.min(10, (box.right - box.left) / 55))) {
    const {left} = place({x: tick, y: ys.range[0]});
    const at = {class: "tick", x: left, y: box.bottom + 17, "text-anchor": "middle"};
    svg.append(shape("text", at, tickText(tick, xs.percent)));
  }
  const floor = {class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom};
  svg.append(shape("line", floor));
  const [middle, centre] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  const name = {class: "name", "text-anchor": "middle"};
  svg.append(shape("text", {...name, x: middle, y: box.bottom + 38}, xs.words));
  const turned = `translate(13 ${centre}) rotate(-90)`;
  svg.append(shape("text", {...name, transform: turned}, ys.words));
}

const path = (points, css) =>
  shape("polyline", {
    class: css,
    points: points.map((p) => `${p.left.toFixed(1)},${p.top.toFixed(1)}`).join(" "),
  });

// A point's intervals [mean, low, high] on both axes, as a cross.
function drawInterval(svg, {x, y, xs, ys}, css, inside) {
  if (xs?.[1] != null) svg.append(path([inside({x: xs[1], y}), inside({x: xs[2], y})], `interval ${css}`));
  if (ys?.[1] != null) svg.append(path([inside({x, y: ys[1]}), inside({x, y: ys[2]})], `interval ${css}`));
}

// Names of at most so many letters, without their ends, or where that made two alike, without their
// beginnings.
function shortened(names, most) {
  const short = names.map((name) => shorten(name, most));
  const twice = new Set(short.filter((name, k) => short.indexOf(name) < k));
  return short.map((name, k) => (twice.has(name) ? `…${names[k].slice(1 - most)}` : name));
}

// The lines' names beside their last points, moved apart where they would overlap.
function drawNames(svg, box, lines, most) {
  const names = shortened(lines.map((line) => line.label), most);
  const ends = lines.map((line) => line.points.at(-1));
  const heights = spread(ends.map((p) => p.top), 15, box.top + 6, box.bottom);
  lines.forEach((line, k) => {
    const at = {class: `label c${line.colour}`, x: ends[k].left + 13, y: heights[k] + 4};
    svg.append(shape("text", at, names[k]));
  });
}

// All points of a line that has `dots`; of others only the present one, which is marked.
function drawDots(svg, line, inside) {
  const css = `c${line.colour}${line.faint ? " faint" : ""}`;
  for (const p of line.points.filter((one) => line.dots || one.now)) {
    const at = {cx: p.left, cy: p.top};
    if (p.now) drawInterval(svg, p, css, inside);
    if (p.now) svg.append(shape("circle", {...at, class: `halo ${css}`, r: 9}));
    p.circle = shape("circle", {...at, class: `dot ${css}`, r: line.faint ? 2.5 : p.now ? 5.5 : 4});
    svg.append(p.circle);
  }
}

// Lines are {label, colour, points, faint, dots}, axes {words, percent, pad}; `front` joins the
// points that no other one beats. Returns the points that the pointer can find.
function drawChart(svg, lines, xs, ys, front = false) {
  const width = svg.getBoundingClientRect().width || 400;
  const narrow = width < 480;
  const height = Math.round(Math.min(430, width * (narrow ? 0.8 : 0.6)));
  const box = {left: 58, right: width - (narrow ? 66 : 96), top: 12, bottom: height - 46};
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  lines = lines.filter((line) => line.points.length);
  const all = lines.flatMap((line) => line.points);
  if (!all.length) {
    svg.append(shape("text", {class: "name", x: 20, y: 40}, "Nothing was recorded for this."));
    return [];
  }
  xs = {...xs, range: range(all.map((p) => p.x), xs.pad)};
  ys = {...ys, range: range(all.map((p) => p.y), ys.pad)};
  const across = (value, [low, high]) => (value - low) / (high - low || 1);
  const place = (p) => ({
    left: box.left + (box.right - box.left) * across(p.x, xs.range),
    top: box.bottom - (box.bottom - box.top) * across(p.y, ys.range),
  });
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const inside = (p) => {
    const {left, top} = place(p);
    return {left: clamp(left, box.left, box.right), top: clamp(top, box.top, box.bottom)};
  };
  for (const p of all) Object.assign(p, place(p));

  drawAxes(svg, box, xs, ys, place);
  const [faint, strong] = [lines.filter((l) => l.faint), lines.filter((l) => !l.faint)];
  for (const line of [...faint, ...strong]) {
    svg.append(path(line.points, `line ${line.faint ? "faint " : ""}c${line.colour}`));
  }
  if (front) svg.append(path(paretoFront(strong.flatMap((line) => line.points)), "front"));
  for (const line of [...faint, ...strong]) drawDots(svg, line, inside);
  drawNames(svg, box, strong, narrow ? 6 : 10);
  return lines.filter((line) => line.dots || !line.faint).flatMap((line) => line.points);
}
