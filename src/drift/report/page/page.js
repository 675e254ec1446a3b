// What moves on the page: the slider over training steps, and under it the pictures, the frontier
// and the curves. Texts of runs and prompts become textContent or attributes, never markup.

const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const film = JSON.parse(find("pictures").textContent);
const PACE = 900; // milliseconds a step stays while playing
const still = matchMedia("(prefers-reduced-motion: reduce)");

data.arms.forEach((arm, k) => Object.assign(arm, {colour: 1 + (k % 6), shown: true}));
const runs = data.arms.flatMap((arm) => arm.runs);
runs.forEach((run, k) => Object.assign(run, {strips: film.strips[k + 1], filmed: film.steps[k + 1]}));
const seeds = [...new Set(runs.map((run) => run.seed))].sort((a, b) => a - b);
const models = [{label: "Base model", colour: 0}, ...data.arms];

const state = {
  place: data.steps.length - 1, // of the slider
  prompt: 0, // place among those that have pictures
  seed: seeds[0],
  gained: data.gained[0]?.key,
  kept: data.kept[0]?.key,
};
const step = () => data.steps[state.place];

// Words and numbers.

function number(value, percent) {
  if (value == null) return "–";
  if (percent) return `${Math.round(100 * value)} %`;
  const size = Math.abs(value);
  if (size && size < 0.001) return value.toExponential(1).replaceAll("-", "−");
  const digits = size >= 100 ? 0 : size >= 1 ? 2 : 3;
  const options = {minimumFractionDigits: digits, maximumFractionDigits: digits};
  return value.toLocaleString("en-US", options).replace("-", "−");
}

const epoch = (at) => (at ? `epoch ${at}` : "base model");
const images = (count) => `${count.toLocaleString("en-US")} images`;

// The place of the last of `steps` that is not after `at`; -1 if all are.
const reached = (steps, at) => steps.findLastIndex((one) => one <= at);

function make(name, css = "", text = "") {
  const made = document.createElement(name);
  made.className = css;
  made.textContent = text;
  return made;
}

// A select whose label goes away where there is nothing to choose.
function menu(select, options, chosen, change) {
  select.replaceChildren(...options.map(([text, value]) => new Option(text, value)));
  select.value = chosen;
  select.addEventListener("change", () => change(select.value));
  select.closest(".choice").hidden = options.length < 2;
}

// The slider, and the button that moves it.

function sampled() {
  const counts = runs.map((run) => run.images[run.steps.indexOf(step())]);
  const known = counts.filter((count) => count != null);
  if (!step() || !known.length) return "";
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return `${low < high ? `${low.toLocaleString("en-US")}–` : ""}${images(high)}`;
}

function go(place) {
  state.place = Math.min(Math.max(place, 0), data.steps.length - 1);
  const [name, spent] = [step() ? `Epoch ${step()}` : "Base model", sampled()];
  find("step").value = state.place;
  find("step").setAttribute("aria-valuetext", spent ? `${name}, ${spent}` : name);
  find("when").replaceChildren(make("b", "", name), make("span", "", spent));
  models.forEach(showModel);
  drawCharts();
}

let timer = 0;

function pause() {
  clearInterval(timer);
  timer = 0;
  find("play").textContent = still.matches ? "⏭" : "▶";
  find("play").setAttribute("aria-label", still.matches ? "Next step" : "Play");
}

// Where motion is unwelcome each press is one step.
function play() {
  const last = data.steps.length - 1;
  if (timer) return pause();
  if (still.matches) return go(state.place < last ? state.place + 1 : 0);
  go(state.place < last ? state.place + 1 : 0);
  timer = setInterval(() => (state.place < last ? go(state.place + 1) : pause()), PACE);
  find("play").textContent = "❚❚";
  find("play").setAttribute("aria-label", "Pause");
}

// The pictures: a model's strip lies behind a window, moved to the block of the step.

function buildModel(model) {
  const figure = make("figure");
  const pane = make("div", "pane");
  pane.style.setProperty("--columns", film.columns);
  pane.style.setProperty("--rows", film.rows);
  model.caption = make("figcaption", `c${model.colour}`);
  model.image = make("img");
  model.image.decoding = "sync"; // no flicker while sliding
  model.figures = make("dl", "beside");
  pane.append(model.image);
  figure.append(model.caption, pane, model.figures);
  return figure;
}

function showModel(model) {
  const own = model.runs ?? runs.slice(0, 1); // every run knows the base model
  const run = own.find((one) => one.seed === state.seed) ?? own[0];
  const k = model.runs ? reached(run.filmed, step()) : -1;
  const at = k < 0 ? 0 : run.filmed[k];
  const notes = [];
  if (model.runs && seeds.length > 1) notes.push(`seed ${run.seed}`);
  if (model.runs && at !== step()) notes.push(epoch(at));
  model.caption.replaceChildren(model.label, make("small", "", notes.join(", ")));

  const source = `data:image/webp;base64,${(at ? run.strips : film.strips[0])[state.prompt]}`;
  const down = at && run.filmed.length > 1 ? (100 * k) / (run.filmed.length - 1) : 0;
  const prompt = film.prompts[state.prompt];
  if (model.image.src !== source) model.image.src = source;
  model.image.style.objectPosition = `0 ${down}%`;
  const told = `${film.count} pictures of “${data.prompts[prompt]}”`;
  model.image.alt = `${model.label}, ${epoch(at)}: ${told}`;

  model.figures.replaceChildren(...data.beside.map(({key, words, percent}) => {
    const row = make("div");
    const value = run.prompts[key][run.steps.indexOf(at)]?.[prompt];
    row.append(make("dt", "", words), make("dd", "", number(value, percent)));
    return row;
  }));
}

function choosePrompt(place) {
  state.prompt = (place + film.prompts.length) % film.prompts.length;
  find("prompt").value = state.prompt;
  models.forEach(showModel);
}

// Light and dark; a page from disk may not be allowed to remember which.

function toggleTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  root.dataset.theme = theme;
  try {
    localStorage.setItem("drift-theme", theme);
  } catch {} // remembered nowhere, then
}

function recallTheme() {
  try {
    const theme = localStorage.getItem("drift-theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {}
}

function start() {
  recallTheme();
  find("live").hidden = false;
  find("theme").hidden = false;
  find("theme").addEventListener("click", toggleTheme);
  find("step").max = data.steps.length - 1;
  find("stops").append(...data.steps.map((_, k) => new Option("", k)));
  find("step").addEventListener("input", () => (pause(), go(+find("step").value)));
  find("play").addEventListener("click", play);
  find("models").classList.add(`n${models.length}`);
  find("models").append(...models.map(buildModel));

  const pictured = film.prompts.map((p, k) => [data.prompts[p], k]);
  menu(find("prompt"), pictured, 0, (value) => choosePrompt(+value));
  find("prompt").closest(".choice").hidden = false; // it also tells which prompt it is
  find("previous").hidden = find("next").hidden = pictured.length < 2;
  find("previous").addEventListener("click", () => choosePrompt(state.prompt - 1));
  find("next").addEventListener("click", () => choosePrompt(state.prompt + 1));
  menu(find("seed"), seeds.map((seed) => [seed, seed]), state.seed, (value) => {
    state.seed = +value;
    models.forEach(showModel);
  });
  find("left-out").hidden = film.prompts.length === data.prompts.length;
  find("left-out").textContent =
    `${film.prompts.length} of ${data.prompts.length} prompts found room here, evenly chosen from ` +
    "the list; the others lie in each run's evaluations folder.";
  startPlots();
  pause();
  go(state.place);
}

start();
