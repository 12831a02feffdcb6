// The page: asks the run's own JSON every refresh_ms and draws what it answers.

import { Chart, compact, duration } from "./chart.js";
import { Film, Gameplay } from "./pictures.js";

const $ = (id) => document.getElementById(id);
const TIMEOUT_MS = 5000;
const HIDDEN_MS = 10000;
const MAX_POINTS = 6000; // the server keeps fewer; this bounds a page that stays open for days
const EPISODES_SHOWN = 20;

const run = { summary: null, points: [], seq: -1, started: null, pictures: -1, fails: 0, heard: null };
let axis = localStorage.getItem("worldflux-axis") || "env_steps";
const AXES = { env_steps: "environment steps", step: "updates", time: "elapsed time" };

const returns = new Chart($("return-chart"), { label: "Return", yName: "return", xName: AXES[axis], empty: "No episode has ended yet" });
const small = new Map();
const gameplay = new Gameplay($("gameplay"), $("gameplay-empty"), $("gameplay-note"));
const film = new Film();

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  const summary = await ask("/api/summary");
  if (run.started !== null && run.started !== summary.started_at) forget();
  run.started = summary.started_at;
  run.summary = summary;
  if (summary.latest_seq !== run.seq) {
    const answer = await ask(`/api/metrics?since_seq=${run.seq}`);
    run.points = run.points.concat(answer.points);
    run.seq = answer.latest_seq;
    if (run.points.length > MAX_POINTS) run.points = run.points.filter((_, i) => i % 2 || i > MAX_POINTS * 0.8);
    drawCurves();
  }
  showSummary();
  if (!document.hidden) {
    gameplay.take(await ask(`/api/gameplay?since_seq=${gameplay.seq}&encoding=jpeg`));
    if (summary.pictures_seq !== run.pictures) {
      film.take((await ask("/api/imagination")).pictures);
      run.pictures = summary.pictures_seq;
    }
  }
  film.explain(summary);
}

function forget() {
  run.points = [];
  run.seq = run.pictures = -1;
  gameplay.forget();
}

async function loop() {
  const began = performance.now();
  try {
    await refresh();
    run.fails = 0;
    run.heard = Date.now();
  } catch (error) {
    run.fails += 1;
    console.warn(error);
  }
  showStatus();
  const period = document.hidden ? HIDDEN_MS : run.summary?.refresh_ms ?? 1000;
  const wait = run.fails ? Math.min(period * 2 ** Math.min(run.fails, 3), 8000) : period;
  await new Promise((next) => {
    const timer = setTimeout(next, Math.max(50, wait - (performance.now() - began)));
    document.addEventListener("visibilitychange", () => { clearTimeout(timer); next(); }, { once: true });
  });
  loop();
}

// --- What is said in words -------------------------------------------------------------------

const FAMILIES = { dreamer: "DreamerV3", tdmpc2: "TD-MPC2" };
const text = (id, value) => { if ($(id).textContent !== value) $(id).textContent = value; };
const withSmall = (id, value, rest) => {
  const key = `${value}|${rest}`;
  if ($(id).dataset.shown === key) return;
  $(id).dataset.shown = key;
  $(id).replaceChildren(value, rest ? Object.assign(document.createElement("small"), { textContent: ` ${rest}` }) : "");
};
const whole = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en-US"));

function showSummary() {
  const s = run.summary;
  const percent = Math.min(100, Math.floor(s.progress_percent));
  text("title", s.env_id || "WorldFlux run");
  const family = FAMILIES[s.model_type] || s.model_type;
  const size = s.parameters ? `${compact(s.parameters)} parameters` : null;
  text("subtitle", [[family, s.model_name].filter(Boolean).join(" "), size, s.seed !== undefined ? `seed ${s.seed}` : null, s.device].filter(Boolean).join(" · "));
  text("percent", String(percent));
  $("bar").style.width = `${s.progress_percent}%`;
  $("bar").parentElement.setAttribute("aria-valuenow", percent);
  withSmall("updates", whole(s.latest_step), s.target_steps ? `of ${whole(s.target_steps)}` : "");
  withSmall("env-steps", whole(s.env_steps), s.target_env_steps ? `of ${whole(s.target_env_steps)}` : "");
  text("speed", compact(s.latest_speed));
  text("elapsed", duration(s.elapsed_seconds));
  text("eta", s.status === "running" ? duration(s.eta_seconds) : "–");
  text("episodes", whole(s.episodes));
  text("mean-return", compact(s.mean_return));
  withSmall("best", compact(s.best_return), s.best_step ? `at update ${whole(s.best_step)}` : "");
  const latest = s.latest_metrics;
  const interval = latest["eval/return_low"] ?? null;
  withSmall("eval", compact(latest["eval/return"]), interval === null ? "" : `${compact(interval)} to ${compact(latest["eval/return_high"])}`);
  text("footer", [s.run, s.version ? `worldflux ${s.version}` : null, `started ${new Date(s.started_at * 1000).toLocaleString()}`].filter(Boolean).join(" · "));
  document.title = s.status === "running" ? `${percent} % · ${s.env_id || "run"} · WorldFlux` : `${statusWords(s)[1]} · ${s.env_id || "run"} · WorldFlux`;
}

function statusWords(s) {
  if (s.status === "error") return ["bad", "Failed"];
  if (s.status === "finished") return s.phase === "stopped" ? ["done", "Stopped"] : ["done", "Finished"];
  const phases = { training: ["run", "Training"], evaluating: ["busy", "Evaluating"], collecting: ["busy", "Collecting"], starting: ["busy", "Starting"] };
  return phases[s.phase] || ["busy", s.phase.charAt(0).toUpperCase() + s.phase.slice(1)];
}

const DEGRADED = {
  dashboard_port_taken: null, // the address bar shows it
  env_collection_unavailable: "The environment cannot be collected from.",
  random_replay_fallback: "The data is RANDOM NOISE: this run learns nothing.",
  gameplay_unavailable: null, // said where the frames would be
};

function showStatus() {
  const s = run.summary;
  const banner = $("banner");
  const ended = s && s.status !== "running";
  const gone = run.fails > 1 && !ended;
  const [state, word] = gone ? ["bad", s ? "Not answering" : "No run here"] : s ? statusWords(s) : ["wait", "Connecting"];
  $("status").dataset.state = state;
  text("status-text", word);
  let message = "";
  let tone = "bad";
  if (gone) {
    message = s
      ? `The run has not answered for ${duration((Date.now() - run.heard) / 1000)}. Below is the last that it told; its folder has everything: ${s.run || ""}`
      : "Nothing answers here. The run may have ended, or uses another port: its log names the address.";
  } else if (s?.status === "error") {
    message = `Training failed: ${s.error || "no reason was given"}`;
  } else if (s?.degraded_modes?.length) {
    message = s.degraded_modes.map((name) => (name in DEGRADED ? DEGRADED[name] : `Degraded: ${name}.`)).filter(Boolean).join(" ");
    tone = "warn";
  }
  banner.hidden = !message;
  banner.dataset.tone = tone;
  text("banner", message);
  if (gone || ended) gameplay.still(s);
}

// --- Curves ----------------------------------------------------------------------------------

function x(point) {
  return axis === "time" ? point.timestamp - run.points[0].timestamp : point[axis];
}

function curve(name, ...more) {
  const found = [];
  for (const point of run.points) {
    const value = point.metrics[name];
    if (value !== undefined && value !== null) found.push([x(point), value, ...more.map((other) => point.metrics[other])]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

/** Centred running mean with shrinking windows at both ends. */
function smooth(points) {
  const half = Math.max(1, Math.floor(points.length / 50));
  const total = [0];
  for (const [, y] of points) total.push(total.at(-1) + y);
  return points.map(([px], i) => {
    const low = Math.max(0, i - half);
    const high = Math.min(points.length, i + half + 1);
    return [px, (total[high] - total[low]) / (high - low)];
  });
}

function drawCurves() {
  if (axis === "env_steps" && !run.points.some((p) => p.env_steps)) axis = "step";
  for (const button of document.querySelectorAll("[data-x]")) button.setAttribute("aria-checked", String(button.dataset.x === axis));
  const options = { xName: AXES[axis], time: axis === "time" };
  const episodes = curve("episode/return");
  const evaluations = curve("eval/return", "eval/return_low", "eval/return_high");
  returns.update(
    [
      { name: "episodes", tone: "train", points: episodes, dots: true, quiet: true },
      { name: "training episodes, mean", tone: "train", points: smooth(episodes) },
      { name: "evaluation", tone: "eval", points: evaluations, band: true, marks: true },
    ],
    { ...options, goal: run.summary.solved_return ?? null },
  );
  const all = $("all-metrics").checked;
  const names = new Set();
  for (const point of run.points) for (const name of Object.keys(point.metrics)) if (wanted(name, all)) names.add(name);
  const order = [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  for (const [name, chart] of small) if (!names.has(name)) { chart.figure.remove(); small.delete(name); }
  for (const name of order) {
    if (!small.has(name)) small.set(name, multiple(name));
    const { chart, figure, output } = small.get(name);
    $("multiples").append(figure);
    chart.update([{ name: shortName(name), tone: "train", points: curve(name) }], options);
    const value = compact(run.summary.latest_metrics[name]);
    if (output.textContent !== value) output.textContent = value;
  }
  $("losses-empty").hidden = names.size > 0;
}

const wanted = (name, all) => (all ? !name.startsWith("counters/") && name !== "episode/return" && !name.startsWith("eval/return") : name.startsWith("train/loss/") || name === "loss");
const rank = (name) => (name === "train/loss/total" || name === "loss" ? 0 : name.startsWith("train/loss/") ? 1 : name.startsWith("train/") ? 2 : 3);
const shortName = (name) => name.replace(/^train\/(loss\/)?/, "");

function multiple(name) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const output = document.createElement("output");
  caption.append(Object.assign(document.createElement("span"), { textContent: shortName(name), title: name }), output);
  const box = Object.assign(document.createElement("div"), { className: "chart" });
  figure.append(caption, box);
  return { figure, output, chart: new Chart(box, { label: shortName(name), robust: true }) };
}

// --- Controls --------------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-x]")) {
  button.addEventListener("click", () => {
    axis = button.dataset.x;
    localStorage.setItem("worldflux-axis", axis);
    if (run.summary) drawCurves();
  });
}
$("all-metrics").addEventListener("change", () => run.summary && drawCurves());
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("worldflux-theme", root.dataset.theme);
});

$("return-chart").insertAdjacentHTML("beforeend", '<p class="legend" aria-hidden="true"><span><i></i>training episodes</span><span><i class="eval"></i>evaluation</span></p>');
loop();
