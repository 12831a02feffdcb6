"""Learning curves as pictures: of a run, and of groups of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldflux.report.comparison import Comparison, Task
from worldflux.report.returns import is_online, series, smooth
from worldflux.run_folder.disk import replaced, where_allowed
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import LEARNING_CURVE, MANIFEST

TRAIN, EVAL, INK, GRID = "#7aa6d6", "#c2410c", "#1f2937", "#e5e7eb"
# Paul Tol's "bright" set, which colour-blind readers distinguish too; then in other dashes.
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
DASHES = ("-", "--", ":", "-.")
COLUMNS = 3  # of panels
GREYS = ("#64748b", "#a16207", "#94a3b8")  # of published scores


def draw_run(folder: Path) -> Path | None:
    """Draws ``report/learning_curve.png`` of a run folder; None where there is nothing to draw,
    or the folder may only be read."""
    records = read_metrics(folder)
    episodes = series(records, "episode/return")
    evaluations = series(records, "eval/return", "eval/return_low", "eval/return_high")
    if not len(episodes) and not len(evaluations):
        return None
    x_label = "environment steps" if is_online(records) else "gradient updates"
    return _save(
        folder / LEARNING_CURVE,
        learning_curve(episodes, evaluations, x_label=x_label, title=title_of(folder)),
    )


def draw_comparison(
    folder: Path, comparison: Comparison, title: str = "", *, svg: bool = False
) -> list[Path]:
    """Draws ``learning_curve.png`` into a folder, and the same as ``.svg``; nothing without a task."""
    if not comparison.tasks:
        return []
    figure = compared(comparison, title)
    path = folder / Path(LEARNING_CURVE).name
    saved = [_save(one, figure) for one in (path, path.with_suffix(".svg"))[: 1 + svg]]
    return [one for one in saved if one is not None]


def title_of(folder: Path) -> str:
    """Environment, model and seed of a run, as far as they stand in its manifest."""
    if not (folder / MANIFEST).exists():
        return ""
    manifest = read_manifest(folder)
    env = manifest.get("env", {}).get("id")
    model = manifest.get("model_config", {})
    name = "{} {}".format(model["model_type"], model["model_name"]) if model else None
    return " · ".join(text for text in (env, name, f"seed {manifest['seed']}") if text)


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
    _finish(axes, title, x_label, "return")
    axes.legend(frameon=False, loc="best", fontsize=10)
    return figure


def compared(comparison: Comparison, title: str = "") -> Figure:
    """A panel for each task: every run as a thin line, every group's interquartile mean as a thick
    one with its band, published scores behind them."""
    tasks = comparison.tasks
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    single = len(tasks) == 1
    figure = Figure(
        figsize=(8, 4.5) if single else (4.6 * columns, 3.4 * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels: list[Axes] = [*figure.subplots(rows, columns, squeeze=False).flatten()]
    styles = {label: _style(i) for i, label in enumerate(comparison.labels)}
    for axes, task in zip(panels, tasks, strict=False):
        _panel(axes, task, styles)
        head = f"{title} · {task.name}" if single and title else task.name
        _finish(axes, f"{head}: {task.kind}", task.unit, "return (IQM, 95 % interval)")
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    _legend(figure, panels[: len(tasks)])
    return figure


def _style(index: int) -> tuple[str, str]:
    return COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]


def _panel(axes: Axes, task: Task, styles: Mapping[str, tuple[str, str]]) -> None:
    for grey, one in zip(GREYS, task.published, strict=False):
        x, mean, low, high = one.until(task.end).T
        axes.fill_between(x, low, high, color=grey, alpha=0.18, linewidth=0)
        axes.plot(x, mean, "--", color=grey, linewidth=1.4, label=f"{one.label}, {one.kind}")
    for group in task.groups:
        color, dash = styles[group.label]
        for member in group.members if len(group.members) > 1 else ():
            axes.plot(*member.points.T, color=color, linewidth=0.7, alpha=0.35)
        x, mean, low, high = group.curve.T
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        mark = "o" if len(x) == 1 else ""
        axes.plot(x, mean, dash, marker=mark, color=color, linewidth=2, label=group.label)
    if task.threshold is not None:
        axes.axhline(task.threshold, color=INK, linewidth=0.8, linestyle=":")


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One for all panels, below them."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(plain_title(fill(label, 70)), line)
    columns = max(1, int(figure.get_figwidth() * 13 / max(map(len, entries), default=1)))
    figure.legend(
        [*entries.values()],
        [*entries],
        loc="outside lower center",
        ncols=min(columns, len(entries), 4),
        frameon=False,
        fontsize=8,
    )


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(plain_title(title), loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    uncluttered(axes)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.margins(x=0.02)


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


def _save(path: Path, figure: Figure) -> Path | None:
    with where_allowed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix[1:])
        return path
    return None
