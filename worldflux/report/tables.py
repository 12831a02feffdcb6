"""A comparison as text, as one JSON object and as CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from worldflux.report.comparison import Comparison, Estimate, Group, Task
from worldflux.report.run import NONE, aligned, number
from worldflux.run_folder.disk import disk_errors, where_allowed, write_atomic

GROUPS, CURVES, IMPROVEMENT = "groups.csv", "curves.csv", "improvement.csv"
MOST_PAIRS = 10  # of groups that the text compares
NUMBERS = ("final", "best", "area", "reached")  # of a group


def comparison_text(comparison: Comparison) -> str:
    """A table for each task, then the probabilities of improvement over all tasks."""
    parts = [task_text(task) for task in comparison.tasks]
    if comparison.improvement:
        lines = ["over all tasks that both have:", *improvement_lines(comparison.improvement)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def task_text(task: Task) -> str:
    """The groups of a task, one line each."""
    goal = task.threshold is not None
    head = ["group", "runs", "final", "95 % interval", "best", "mean height"]
    rows = [[*head, *([f"{task.unit} to {number(task.threshold)}"] if goal else [])]]
    for group in task.groups:
        cells = [number(one and one.score) for one in (group.final, group.best, group.area)]
        row = [group.label, str(len(group.members)), cells[0], interval(group.final), *cells[1:]]
        rows.append([*row, *([reached(group)] if goal else [])])
    for one in task.published:
        x, mean, low, high = one.until(task.end)[-1]
        row = [one.label, f"at {x:,.0f}", number(mean), f"{number(low)} to {number(high)}"]
        rows.append([*row, NONE, NONE, *[""] * goal])
    lines = [
        f"{task.name}: return of {task.kind}, {extent(task)}",
        aligned(rows, right=(1, 2, 4, 5)),
    ]
    if task.uneven:
        first, last = task.uneven
        lines.append(
            f"  runs end between {first:,.0f} and {last:,.0f} {task.unit}: final and best are each"
            " run's own; --steps N ends all at N"
        )
    return "\n".join([*lines, *improvement_lines(task.improvement)])


def extent(task: Task) -> str:
    """Over which steps its curves go."""
    if task.covered is None:
        return f"no {task.unit} that all runs have"
    first, last = task.covered
    return f"{first:,.0f} to {last:,.0f} {task.unit} in all runs"


def improvement_lines(pairs: dict[tuple[str, str], Estimate]) -> list[str]:
    """`P(second > first)` of each pair of groups, as far as they can be read."""
    lines = []
    for (first, second), estimate in list(pairs.items())[:MOST_PAIRS]:
        low_high = f" ({interval(estimate)})" if estimate.interval else ""
        lines.append(f"  P({first} > {second}) = {estimate.score:.2f}{low_high}")
    if len(pairs) > MOST_PAIRS:
        lines.append(f"  {len(pairs) - MOST_PAIRS} more pairs are in {IMPROVEMENT}")
    return lines


def interval(estimate: Estimate | None) -> str:
    """`low to high`."""
    if estimate is None or estimate.interval is None:
        return NONE
    return " to ".join(map(number, estimate.interval))


def reached(group: Group) -> str:
    """Steps to the threshold, and how many runs came to it."""
    if group.reached is None:
        return f"never ({group.arrived} of {len(group.members)} runs)"
    some = f" ({group.arrived} of {len(group.members)} runs)"
    return f"{group.reached.score:,.0f}" + some * (group.arrived < len(group.members))


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one JSON object."""
    return {
        "confidence": 0.95,
        "tasks": [
            {
                "task": task.name,
                "returns": task.kind,
                "x": task.x_name,
                "covered": task.covered,
                "threshold": task.threshold,
                "groups": [_group_document(group) for group in task.groups],
                "improvement": _improvement_document(task.improvement),
                "published": [
                    {"label": one.label, "source": one.source, "points": one.curve.tolist()}
                    for one in task.published
                ],
            }
            for task in comparison.tasks
        ],
        "improvement": _improvement_document(comparison.improvement),
        "left_out": [{"run": run, "reason": reason} for run, reason in comparison.left_out],
    }


def _group_document(group: Group) -> dict[str, Any]:
    numbers = {name: getattr(group, name) for name in NUMBERS}
    return {
        "group": group.label,
        "runs": [
            {
                "run": str(member.run.folder),
                "state": str(member.run.state),
                "seed": member.run.manifest.get("seed"),
                "final": member.final,
                "best": member.best,
                "area": member.area,
                "reached": _finite(member.reached),
            }
            for member in group.members
        ],
        **{
            name: one and {"score": one.score, "interval": one.interval}
            for name, one in numbers.items()
        },
        "arrived": group.arrived,
    }


def _improvement_document(pairs: dict[tuple[str, str], Estimate]) -> list[dict[str, Any]]:
    return [
        {"first": first, "second": second, "probability": one.score, "interval": one.interval}
        for (first, second), one in pairs.items()
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def write_tables(folder: Path, comparison: Comparison) -> list[Path]:
    """Writes the groups, the points of all curves and the probabilities of improvement as CSV."""
    tables = {GROUPS: _group_rows(comparison), CURVES: _curve_rows(comparison)}
    if pairs := list(_improvement_rows(comparison)):
        names = ("task", "first", "second", "probability", "low", "high")
        tables[IMPROVEMENT] = [names, *pairs]
    written = [_write(folder / name, rows) for name, rows in tables.items()]
    return [path for path in written if path is not None]


def _write(path: Path, rows: Iterable[Sequence[Any]]) -> Path | None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    with disk_errors("table", path), where_allowed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, file.getvalue())
        return path
    return None


def _group_rows(comparison: Comparison) -> Iterable[Sequence[Any]]:
    numbers = [f"{name}{part}" for name in NUMBERS for part in ("", "_low", "_high")]
    yield ["task", "group", "runs", *numbers, "arrived", "threshold"]
    for task in comparison.tasks:
        for group in task.groups:
            row: list[Any] = [task.name, group.label, len(group.members)]
            for name in NUMBERS:
                one = getattr(group, name)
                row += [one and one.score, *((one and one.interval) or (None, None))]
            yield [*row, group.arrived if task.threshold is not None else None, task.threshold]


def _curve_rows(comparison: Comparison) -> Iterable[Sequence[Any]]:
    """Long form: a run's own points have no interval; `iqm` and `published` have one."""
    yield ["task", "group", "curve", "run", "seed", "steps", "return", "low", "high"]
    for task in comparison.tasks:
        for group in task.groups:
            for member in group.members:
                run = member.run
                who = [str(run.folder), run.manifest.get("seed")]
                for x, y in member.points:
                    yield [task.name, group.label, "run", *who, x, y, None, None]
            for x, mean, low, high in group.curve:
                yield [task.name, group.label, "iqm", None, None, x, mean, low, high]
        for one in task.published:
            for x, mean, low, high in one.curve:
                yield [task.name, one.label, "published", None, None, x, mean, low, high]


def _improvement_rows(comparison: Comparison) -> Iterable[Sequence[Any]]:
    everything = [(task.name, task.improvement) for task in comparison.tasks]
    for name, pairs in [*everything, ("all tasks", comparison.improvement)]:
        for (first, second), one in pairs.items():
            yield [name, first, second, one.score, *(one.interval or (None, None))]
