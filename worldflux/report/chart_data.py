"""What the charts of a page show, as JSON has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from worldflux.report.comparison import ComparedRun, Comparison, Group, Task
from worldflux.report.published import EPISODES, EVALUATIONS
from worldflux.report.returns import METRIC_OF, UPDATES, newest_of_each_step, series, smooth

TONES = 7  # colours of groups; those beyond are dashed
LINE, DOTS, SMALL = 600, 1500, 160  # points of a curve that are kept
MOST_RUNS = 12  # whose training metrics are shown
LOSSES = "train/"

Series = dict[str, Any]


def chart_data(comparison: Comparison) -> dict[str, Any]:
    """The charts of a comparison: of each task, and of the runs' training metrics."""
    tones = tones_of(comparison.labels)
    return {
        "tasks": [_task(task, tones) for task in comparison.tasks],
        "metrics": _metrics(comparison.runs, tones),
    }


def tones_of(labels: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """The colour of each group, and whether its line is dashed."""
    return {label: (f"c{i % TONES}", i >= TONES) for i, label in enumerate(labels)}


def _task(task: Task, tones: dict[str, tuple[str, bool]]) -> dict[str, Any]:
    members = [member for group in task.groups for member in group.members]
    shown = [
        _line(one.label, "grey", one.until(task.end), band=True, dashed=True, group=one.label)
        for one in task.published
    ]
    if len(members) == 1:
        shown += _single(members[0].run, task)
    else:
        for group in task.groups:
            shown += _group(group, *tones[group.label])
    legend = {
        one["group"]: {"name": one["group"], "tone": one["tone"], "dashed": one["dashed"]}
        for one in shown
    }
    return {
        "name": task.name,
        "x": task.unit,
        "threshold": task.threshold,
        "legend": list(legend.values()),
        "series": shown,
    }


def _group(group: Group, tone: str, dashed: bool) -> list[Series]:
    common = {"group": group.label, "dashed": dashed}
    several = len(group.members) > 1
    faint = [
        _line(member.run.name, tone, member.points, faint=True, **common)
        for member in group.members
        if several or not len(group.curve)
    ]
    name = f"{group.label} ({len(group.members)} runs)" if several else group.label
    return [*faint, _line(name, tone, group.curve, band=several, **common)]


def _single(run: ComparedRun, task: Task) -> list[Series]:
    """Of one run: its training episodes, and its evaluations with their intervals."""
    scale = [run.repeat if task.x not in ("env_steps", UPDATES) else 1, 1]
    x = UPDATES if task.x == UPDATES else "env_steps"
    episodes = series(run.records, METRIC_OF[EPISODES], x=x) * scale
    names = (METRIC_OF[EVALUATIONS], "eval/return_low", "eval/return_high")
    evaluations = series(run.records, *names, x=x) * [*scale, 1, 1]
    shown = []
    if len(episodes):
        mean = np.column_stack(
            [episodes[:, 0], smooth(episodes[:, 1], max(1, len(episodes) // 25))]
        )
        mean = newest_of_each_step(mean)  # environments that end together make one point
        dots = thinned(episodes, DOTS)
        group = {"group": EPISODES, "dashed": False}
        shown.append(_line("episodes", "train", dots, dots=True, quiet=True, **group))
        shown.append(_line("training episodes, running mean", "train", mean, **group))
    if len(evaluations):
        group = {"group": EVALUATIONS, "dashed": False}
        shown.append(_line("evaluation", "eval", evaluations, band=True, marks=True, **group))
    return shown


def _metrics(
    runs: Sequence[ComparedRun], tones: dict[str, tuple[str, bool]]
) -> list[dict[str, Any]]:
    """Training metrics of all runs, one chart each."""
    if len(runs) > MOST_RUNS:
        return []
    names = {n for run in runs for record in run.records for n in record["metrics"]}
    charts = []
    for name in sorted((n for n in names if n.startswith(LOSSES)), key=_losses_first):
        lines = []
        for run in runs:
            points = thinned(series(run.records, name), SMALL)
            if len(points):
                tone = tones[run.label][0]
                lines.append(_line(run.name, tone, points, group=run.label, dashed=False))
        if lines:
            charts.append({"name": name.removeprefix(LOSSES), "x": "steps", "series": lines})
    return charts


def _losses_first(name: str) -> tuple[bool, str]:
    return not name.startswith(f"{LOSSES}loss"), name


def _line(name: str, tone: str, points: np.ndarray, **options: Any) -> Series:
    return {
        "name": name,
        "tone": tone,
        "points": rounded(thinned(points, DOTS if options.get("dots") else LINE)),
        **options,
    }


def thinned(points: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the points `[N, ...]`, evenly chosen, the last one among them."""
    if len(points) <= most:
        return points
    return points[np.linspace(0, len(points) - 1, most).round().astype(int)]


def rounded(points: Iterable[Iterable[float]]) -> list[list[float | None]]:
    """Six digits are more than can be seen."""
    return [
        [float(f"{value:.6g}") if math.isfinite(value) else None for value in row] for row in points
    ]
