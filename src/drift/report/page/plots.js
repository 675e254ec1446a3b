// The frontier and the curves of training: which lines they have, and what a point of them says.
// Of several training seeds the strong line is the mean, and each seed's own lies faint behind it.

const REACH = 30; // pixels from a point at which the pointer finds it
const charts = [];

const chosen = (menu, key) => menu.find((one) => one.key === key);

// The frontier.

function frontierLine(arm, series, faint) {
  const now = reached(series.steps, step());
  const points = series.steps.flatMap((at, k) => {
    const [xs, ys] = [state.gained, state.kept].map((key) => series.figures[key][k]);
    if (xs?.[0] == null || ys?.[0] == null) return [];
    return [{x: xs[0], y: ys[0], xs, ys, arm, series, at, now: !faint && k === now}];
  });
  return {label: arm.label, colour: arm.colour, points, faint, dots: true};
}

function drawFrontier(svg) {
  const lines = data.arms.filter((arm) => arm.shown).flatMap((arm) => {
    const series = arm.mean ? [arm.mean, ...arm.runs] : arm.runs;
    return series.map((one, k) => frontierLine(arm, one, k > 0));
  });
  const [xs, ys] = [chosen(data.gained, state.gained), chosen(data.kept, state.kept)];
  return drawChart(svg, lines, {...xs, pad: 0.06}, {...ys, pad: 0.06}, true);
}

function tellFrontier({arm, series, at, xs, ys}) {
  const mean = series === arm.mean;
  const spent = series.images?.[series.steps.indexOf(at)];
  const seed = mean ? `mean of ${arm.runs.length} seeds` : seeds.length > 1 && `seed ${series.seed}`;
  const row = ({words, percent}, [middle, low, high]) => {
    const ends = `${number(low, percent)} to ${number(high, percent)}`;
    const interval = low === null ? "" : ` (${mean ? "seeds" : "95 %"}: ${ends})`;
    return `${words}: ${number(middle, percent)}${interval}`;
  };
  return [
    [arm.label, seed, epoch(at), at && spent && images(spent)].filter(Boolean).join(", "),
    row(chosen(data.gained, state.gained), xs),
    row(chosen(data.kept, state.kept), ys),
  ];
}

// The curves.

function curveLines(arm, key) {
  const {epochs, images: xs, smooth, pale} = arm.curves;
  const now = reached(epochs, step());
  const line = (values, faint) => ({
    label: arm.label,
    colour: arm.colour,
    faint,
    points: values.flatMap((y, k) =>
      y === null ? [] : [{x: xs[k], y, arm, at: epochs[k], now: !faint && k === now}]),
  });
  return [line(smooth[key], false), ...pale[key].map((values) => line(values, true))];
}

function drawCurve(svg, key) {
  const lines = data.arms.filter((arm) => arm.shown && key).flatMap((arm) => curveLines(arm, key));
  return drawChart(svg, lines, {words: "images sampled", pad: 0}, {...chosen(data.curves, key), pad: 0.06});
}

const tellCurve = (key) => ({arm, x, y, at}) => {
  const {words, percent} = chosen(data.curves, key);
  return [`${arm.label}, ${epoch(at)}, ${images(x)}`, `${words}: ${number(y, percent)}`];
};

// What all charts do.

function nearest(chart, event) {
  const {left, top} = chart.svg.getBoundingClientRect();
  const far = (p) => Math.hypot(p.left - event.clientX + left, p.top - event.clientY + top);
  const best = chart.points.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
  return best && far(best) <= REACH ? best : null;
}

function showTip(chart, point) {
  const {tip, svg} = chart;
  tip.hidden = !point;
  if (!point) return;
  const [head, ...rows] = chart.tell(point);
  tip.replaceChildren(make("b", `c${point.arm.colour}`, head), ...rows.map((row) => make("span", "", row)));
  const room = svg.getBoundingClientRect().width - tip.offsetWidth;
  const above = point.top - tip.offsetHeight - 14;
  tip.style.left = `${Math.max(0, Math.min(point.left + 12, room))}px`;
  tip.style.top = `${above > 0 ? above : point.top + 16}px`;
}

// The points are one stop of the Tab key; the arrow keys go on from there.
function redraw(chart) {
  const focused = chart.svg.contains(document.activeElement);
  chart.points = chart.draw(chart.svg);
  showTip(chart, null);
  const circles = chart.points.map((p) => p.circle).filter(Boolean);
  if (!chart.stops || !circles.length) return;
  chart.stop = Math.min(chart.stop, circles.length - 1);
  circles.forEach((circle, k) => {
    circle.setAttribute("role", "button");
    circle.setAttribute("tabindex", k === chart.stop ? 0 : -1);
    circle.setAttribute("aria-label", chart.tell(chart.points[k]).join("; "));
  });
  if (focused) circles[chart.stop].focus();
}

function onKey(chart, event) {
  const {points, stop} = chart;
  const same = points.flatMap((p, k) => (p.at === points[stop].at ? [k] : []));
  const aside = (by) => same[same.indexOf(stop) + by] ?? stop;
  const to = {
    ArrowRight: Math.min(stop + 1, points.length - 1),
    ArrowLeft: Math.max(stop - 1, 0),
    ArrowDown: aside(1),
    ArrowUp: aside(-1),
  }[event.key];
  if (event.key === "Enter" || event.key === " ") goTo(points[stop].at);
  else if (to === undefined) return;
  else points[to].circle.focus();
  event.preventDefault();
}

function goTo(at) {
  pause();
  go(reached(data.steps, at));
}

function addChart(id, draw, tell, stops) {
  const figure = find(id);
  const [svg, tip] = [figure.querySelector("svg"), figure.querySelector(".tip")];
  const chart = {svg, tip, draw, tell, stops, stop: 0, points: [], width: 0};
  charts.push(chart);
  svg.addEventListener("pointermove", (event) => showTip(chart, nearest(chart, event)));
  svg.addEventListener("pointerleave", () => showTip(chart, null));
  svg.addEventListener("click", (event) => {
    const point = nearest(chart, event);
    if (point) goTo(point.at);
  });
  if (stops) {
    // On the figure: an svg that listens for focus is itself a stop of the Tab key in Chromium.
    figure.addEventListener("keydown", (event) => onKey(chart, event));
    figure.addEventListener("focusin", (event) => {
      chart.points[chart.stop].circle.setAttribute("tabindex", -1);
      chart.stop = chart.points.findIndex((p) => p.circle === event.target);
      event.target.setAttribute("tabindex", 0);
      showTip(chart, chart.points[chart.stop]);
    });
    figure.addEventListener("focusout", () => showTip(chart, null));
  }
  new ResizeObserver(([{contentRect}]) => {
    if (contentRect.width !== chart.width) redraw(chart);
    chart.width = contentRect.width;
  }).observe(figure);
}

const drawCharts = () => charts.forEach(redraw);

// Each arm's name is a button that hides and shows its lines.
function buildLegend(list) {
  list.hidden = data.arms.length < 2;
  list.append(...data.arms.map((arm) => {
    const [item, button] = [make("li"), make("button", `arm c${arm.colour}`, arm.label)];
    button.type = "button";
    button.addEventListener("click", () => {
      arm.shown = !arm.shown;
      pressLegends();
      drawCharts();
    });
    item.append(button);
    return item;
  }));
}

function pressLegends() {
  document.querySelectorAll(".legend").forEach((list) => {
    data.arms.forEach((arm, k) => list.children[k].firstChild.setAttribute("aria-pressed", arm.shown));
  });
}

function startPlots() {
  document.querySelectorAll(".legend").forEach(buildLegend);
  pressLegends();
  const options = (entries) => entries.map(({key, words}) => [words, key]);
  addChart("frontier", drawFrontier, tellFrontier, true);
  for (const axis of ["kept", "gained"]) {
    menu(find(axis), options(data[axis]), state[axis], (key) => {
      state[axis] = key;
      drawCharts();
    });
  }
  ["reward", "diversity"].forEach((first, k) => {
    const id = `curve${k + 1}`;
    let key = (chosen(data.curves, first) ?? data.curves[0])?.key;
    addChart(id, (svg) => drawCurve(svg, key), (point) => tellCurve(key)(point), false);
    menu(find(`${id}-key`), options(data.curves), key, (value) => {
      key = value;
      drawCharts();
    });
  });
}
