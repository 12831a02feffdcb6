"""The learning curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import LEARNING_CURVE, MANIFEST

PICTURE = Path(LEARNING_CURVE)
TRAIN, EVAL, INK, GRID = "#7aa6d6", "#c2410c", "#1f2937", "#e5e7eb"


def draw_run(folder: Path) -> Path | None:
    """Draws ``report/learning_curve.png`` of a run folder; None where there is nothing to draw."""
    records = read_metrics(folder)
    episodes = series(records, "episode/return")
    evaluations = series(records, "eval/return", "eval/return_low", "eval/return_high")
    if not len(episodes) and not len(evaluations):
        return None
    online = any(record["env_steps"] for record in records)
    figure = learning_curve(
        episodes,
        evaluations,
        x_label="environment steps" if online else "gradient updates",
        title=title_of(folder),
    )
    path = folder / PICTURE
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def title_of(folder: Path) -> str:
    """Environment, model and seed of a run, as far as its manifest tells them."""
    if not (folder / MANIFEST).exists():
        return ""
    manifest = read_manifest(folder)
    env = manifest.get("env", {}).get("id")
    model = manifest.get("model_config", {})
    name = "{} {}".format(model["model_type"], model["model_name"]) if model else None
    return " · ".join(text for text in (env, name, f"seed {manifest['seed']}") if text)


def series(records: list[dict[str, Any]], *names: str) -> np.ndarray:
    """Points `[N, 1 + len(names)]` of metrics over environment steps (updates where there are
    none); records without the first name, or with a value that is not finite, are left out."""
    online = any(record["env_steps"] for record in records)
    x = "env_steps" if online else "step"
    rows = [
        (record[x], *(record["metrics"].get(name) for name in names))
        for record in records
        if names[0] in record["metrics"]
    ]
    kept = [row for row in rows if all(value is not None for value in row)]
    return np.array(kept, np.float64).reshape(len(kept), 1 + len(names))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean with shrinking windows at both ends, same length."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - window // 2, 0)
    high = np.minimum(index + window // 2 + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def learning_curve(
    episodes: np.ndarray, evaluations: np.ndarray, *, x_label: str, title: str = ""
) -> Figure:
    """A figure of training episodes `[N, 2]` and evaluations with interval `[M, 4]`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if len(episodes):
        x, y = episodes.T
        faint = min(0.8, max(0.15, 30 / len(y)))
        axes.plot(x, y, ".", color=TRAIN, alpha=faint, markersize=3, markeredgewidth=0)
        mean = smooth(y, max(1, len(y) // 25))
        axes.plot(x, mean, color=TRAIN, linewidth=1.8, label="training episodes (running mean)")
    if len(evaluations):
        x, y, low, high = evaluations.T
        axes.fill_between(x, low, high, color=EVAL, alpha=0.15, linewidth=0)
        axes.plot(
            x,
            y,
            "o-",
            color=EVAL,
            linewidth=1.8,
            markersize=4,
            label="evaluation (mean, 95 % interval)",
        )
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel("return", color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="best")
    return figure


def compact(value: float) -> str:
    """``1500`` as ``1.5k``, ``2e6`` as ``2M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
