"""Learning curves as pictures: of a run, and of the groups of runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldflux.core.statistics import iqm, percentile_interval, resampled
from worldflux.run_folder.disk import replaced, where_allowed
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import LEARNING_CURVE, MANIFEST

MetricRecord = Mapping[str, Any]  # one of metrics.jsonl

TRAIN, EVAL, INK, GRID = "#7aa6d6", "#c2410c", "#1f2937", "#e5e7eb"
# Paul Tol's "bright" set, which colour-blind readers distinguish too; then in other dashes.
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
DASHES = ("-", "--", ":", "-.")
GRID_POINTS = 200


def draw_run(folder: Path) -> Path | None:
    """Draws ``report/learning_curve.png`` of a run folder; None where there is nothing to draw,
    or the folder may only be read."""
    records = read_metrics(folder)
    episodes = series(records, "episode/return")
    evaluations = series(records, "eval/return", "eval/return_low", "eval/return_high")
    if not len(episodes) and not len(evaluations):
        return None
    x_label = "environment steps" if _online(records) else "gradient updates"
    return _save(
        folder, learning_curve(episodes, evaluations, x_label=x_label, title=title_of(folder))
    )


def draw_sweep(root: Path, groups: Mapping[str, Sequence[Path]], title: str = "") -> Path | None:
    """Draws ``report/learning_curve.png`` of a sweep. groups: the run folders of each, by label.

    Evaluations, or training episodes where no run was evaluated; None where there is no point yet.
    """
    records = {label: [read_metrics(run) for run in runs] for label, runs in groups.items()}
    online = any(_online(run) for runs in records.values() for run in runs)
    x_label = "environment steps" if online else "gradient updates"
    for metric, name in (("eval/return", "evaluation"), ("episode/return", "training")):
        curves = {label: _curves(runs, metric) for label, runs in records.items()}
        curves = {label: runs for label, runs in curves.items() if runs}
        if curves:
            y_label = f"{name} return: IQM, 95 % interval"
            return _save(root, group_curves(curves, title, x_label, y_label))
    return None


def title_of(folder: Path) -> str:
    """Environment, model and seed of a run, as far as they stand in its manifest."""
    if not (folder / MANIFEST).exists():
        return ""
    manifest = read_manifest(folder)
    env = manifest.get("env", {}).get("id")
    model = manifest.get("model_config", {})
    name = "{} {}".format(model["model_type"], model["model_name"]) if model else None
    return " · ".join(text for text in (env, name, f"seed {manifest['seed']}") if text)


def _online(records: Sequence[MetricRecord]) -> bool:
    return any(record["env_steps"] for record in records)


def series(records: Sequence[MetricRecord], *names: str) -> np.ndarray:
    """Points `[N, 1 + len(names)]` of metrics over environment steps (updates where there are
    none); records without the first name, or with a value that is not finite, are left out."""
    x = "env_steps" if _online(records) else "step"
    rows = [
        (record[x], *(record["metrics"].get(name) for name in names))
        for record in records
        if names[0] in record["metrics"]
    ]
    kept = [row for row in rows if all(value is not None for value in row)]
    return np.array(kept, np.float64).reshape(len(kept), 1 + len(names))


def _curves(runs: Sequence[Sequence[MetricRecord]], metric: str) -> list[np.ndarray]:
    """Points of the runs that have any, `[N, 2]` each; of two at one step the newer."""
    curves = []
    for records in runs:
        points = series(records, metric)
        kept = len(points) - 1 - np.unique(points[::-1, 0], return_index=True)[1]
        if len(kept):
            curves.append(points[kept])
    return curves


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean with shrinking windows at both ends, same length."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - window // 2, 0)
    high = np.minimum(index + window // 2 + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def band(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Interquartile mean and its 95 % bootstrap interval over runs `[N, 4]` (x, mean, low, high),
    where all of them have come to; linear between a run's points."""
    first, last = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    if last < first:
        return np.zeros((0, 4))
    x = np.unique(np.concatenate([c[:, 0] for c in curves]))
    x = x[(x >= first) & (x <= last)]
    if len(x) > GRID_POINTS:
        x = np.linspace(first, last, GRID_POINTS)
    values = np.stack([np.interp(x, c[:, 0], c[:, 1]) for c in curves], axis=1)  # [N, runs]
    draws = [percentile_interval(resampled(row, iqm, resamples=2000)) for row in values]
    return np.column_stack([x, iqm(values), np.array(draws)])


def learning_curve(
    episodes: np.ndarray, evaluations: np.ndarray, *, x_label: str, title: str = ""
) -> Figure:
    """A figure of training episodes `[N, 2]` and evaluations with interval `[M, 4]`."""
    figure, axes = _axes(7, 4)
    if len(episodes):
        x, y = episodes.T
        faint = min(0.8, max(0.15, 30 / len(y)))
        axes.plot(x, y, ".", color=TRAIN, alpha=faint, markersize=3, markeredgewidth=0)
        mean = smooth(y, max(1, len(y) // 25))
        axes.plot(x, mean, color=TRAIN, linewidth=1.8, label="training episodes (running mean)")
    if len(evaluations):
        x, y, low, high = evaluations.T
        axes.fill_between(x, low, high, color=EVAL, alpha=0.15, linewidth=0)
        label = "evaluation (mean, 95 % interval)"
        axes.plot(x, y, "o-", color=EVAL, linewidth=1.8, markersize=4, label=label)
    _finish(axes, title, x_label, "return", fontsize=10)
    return figure


def group_curves(
    groups: Mapping[str, Sequence[np.ndarray]], title: str, x_label: str, y_label: str
) -> Figure:
    """Every run as a thin line, every group's interquartile mean as a thick one with its band."""
    figure, axes = _axes(8, 4.5)
    for index, (label, curves) in enumerate(groups.items()):
        color = COLORS[index % len(COLORS)]
        dash = DASHES[index // len(COLORS) % len(DASHES)]
        for one in curves:
            axes.plot(*one.T, color=color, linewidth=0.7, alpha=0.35)
        x, mean, low, high = band(curves).T
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        mark = "o" if len(x) == 1 else ""
        runs = f"{len(curves)} run{'s' * (len(curves) != 1)}"
        axes.plot(x, mean, dash, marker=mark, color=color, linewidth=2, label=f"{label} ({runs})")
    _finish(axes, title, x_label, y_label, fontsize=8)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(axes: Axes, title: str, x_label: str, y_label: str, *, fontsize: float) -> None:
    axes.set_title(plain_title(title), loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    uncluttered(axes)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="best", fontsize=fontsize)


def uncluttered(axes: Axes) -> None:
    """A grid behind the curves, and no frame."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_title(text: str) -> str:
    """A text as a picture shows it: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def compact(value: float) -> str:
    """``1500`` as ``1.5k``, ``2e6`` as ``2M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _save(folder: Path, figure: Figure) -> Path | None:
    path = folder / LEARNING_CURVE
    with where_allowed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            figure.savefig(temporary, dpi=150)
        return path
    return None
