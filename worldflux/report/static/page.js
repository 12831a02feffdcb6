// The charts of a report: what they show stands in the page as data; everything else is HTML already.

const root = document.documentElement;
const remembered = (value) => {
  try {
    if (value === undefined) return localStorage.getItem("worldflux-theme");
    localStorage.setItem("worldflux-theme", value);
  } catch { /* a page that was mailed may have no storage */ }
  return null;
};
const chosen = remembered();
if (chosen) root.dataset.theme = chosen;
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(root).colorScheme === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  remembered(root.dataset.theme);
});

const data = JSON.parse(document.getElementById("data").textContent);

function made(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** The legend is also a switch for each of its groups. */
function legend(place, names, series, draw) {
  const hidden = new Set();
  for (const { name, tone, dashed } of names) {
    const button = made("button", { type: "button", className: `${tone} ${dashed ? "dash" : ""}` }, made("i"), name);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      draw(series.filter((one) => !hidden.has(one.group)));
    });
    place.append(button);
  }
  draw(series);
}

data.tasks.forEach((task, i) => {
  const chart = new Chart(document.getElementById(`chart-${i}`), { label: task.name, xName: task.x, yName: "return" });
  legend(document.getElementById(`legend-${i}`), task.legend, task.series, (series) => chart.update(series, { goal: task.threshold, goalName: "threshold" }));
});

const multiples = document.getElementById("multiples");
let drawn = false;
multiples?.closest("details").addEventListener("toggle", () => {
  if (drawn) return;
  drawn = true;
  for (const metric of data.metrics) {
    const place = made("div", { className: "chart" });
    multiples.append(made("figure", {}, made("figcaption", {}, made("span", { textContent: metric.name, title: metric.name })), place));
    new Chart(place, { label: metric.name, xName: metric.x, robust: true }).update(metric.series);
  }
});

for (const button of document.querySelectorAll(".command button")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

const everything = document.getElementById("everything");
everything?.addEventListener("change", () => document.body.classList.toggle("everything", everything.checked));
