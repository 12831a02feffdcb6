"""The learning curves of a sweep in one picture: a line and a band for each group of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldflux.core.statistics import iqm, percentile_interval, resampled
from worldflux.report.curves import GRID, INK, PICTURE, compact, series
from worldflux.run_folder.metrics import read_metrics

# Paul Tol's "bright" set, told apart also by colour-blind readers; then in other dashes.
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
DASHES = ("-", "--", ":", "-.")
GRID_POINTS = 200


def draw_sweep(root: Path, groups: Mapping[str, Sequence[Path]], title: str = "") -> Path | None:
    """Draws ``report/learning_curve.png`` of a sweep. groups: the run folders of each, by label.

    Evaluations, or training episodes where no run was evaluated; None where there is no point yet.
    """
    records = {label: [read_metrics(run) for run in runs] for label, runs in groups.items()}
    for metric, name in (("eval/return", "evaluation"), ("episode/return", "training")):
        curves = {label: _curves(runs, metric) for label, runs in records.items()}
        curves = {label: found for label, found in curves.items() if found}
        if not curves:
            continue
        online = any(one["env_steps"] for runs in records.values() for run in runs for one in run)
        made = figure(curves, title, "environment steps" if online else "gradient updates", name)
        path = root / PICTURE
        path.parent.mkdir(parents=True, exist_ok=True)
        made.savefig(path, dpi=150)
        return path
    return None


def _curves(runs: Sequence[list[dict[str, Any]]], metric: str) -> list[np.ndarray]:
    """Points of the runs that have any, `[N, 2]` each; of two at one step the newer."""
    curves = []
    for records in runs:
        points = series(records, metric)
        kept = len(points) - 1 - np.unique(points[::-1, 0], return_index=True)[1]
        if len(kept):
            curves.append(points[kept])
    return curves


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


def figure(
    groups: Mapping[str, Sequence[np.ndarray]], title: str, x_label: str, what: str
) -> Figure:
    """Every run as a thin line, every group's interquartile mean as a thick one with its band."""
    made = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.add_subplot()
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
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(f"{what} return: IQM, 95 % interval", color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="best", fontsize=8)
    return made
