"""The figure of a measurement: each quantity by imagined step, and the calibration of continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from worldflux.report.curves import COLORS, INK, plain_title, uncluttered
from worldflux.report.measurement import Curve, Measurement, Quantity
from worldflux.run_folder.disk import disk_errors, replaced

COLUMNS = 3


def draw_measurement(path: Path, measurements: Sequence[Measurement], title: str) -> None:
    """A PNG with a panel for each quantity; a colour for each policy."""
    names = list(dict.fromkeys(q.name for one in measurements for q in one.quantities))
    pictures = [n for n in names if _of(measurements[0], n, pictures=True) is not None]
    calibrated = any(one.continues is not None for one in measurements)
    panels = [(name, "error") for name in names]
    panels += [(name, kind) for name in pictures for kind in ("psnr", "ssim")]
    panels += [("continue", "calibration")] * calibrated
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 0.5 + 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (name, kind) in zip(axes, panels, strict=False):
        for one, color in zip(measurements, COLORS, strict=False):
            if kind == "calibration":
                _calibration(axis, one, color)
            else:
                _draw(axis, one, name, kind, color)
        axis.set_title(plain_title(f"{name}: {kind}"), loc="left", fontsize=10, color=INK)
        uncluttered(axis)
        axis.tick_params(labelsize=8, colors=INK)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(plain_title(title), x=0.01, ha="left", color=INK, fontsize=11)
    with disk_errors("picture", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


def _of(one: Measurement, name: str, pictures: bool = False) -> Quantity | None:
    for quantity in one.quantities:
        if quantity.name == name and not (pictures and quantity.psnr is None):
            return quantity
    return None


def _draw(axis: Axes, one: Measurement, name: str, kind: str, color: str) -> None:
    quantity = _of(one, name)
    if quantity is None:
        return
    if kind == "error":
        _line(axis, quantity.by_mean, color, "-", f"{one.policy}: share of the mean's error")
        _line(axis, quantity.by_no_change, color, ":", f"{one.policy}: share of no change's")
        axis.axhline(1, color=INK, linewidth=0.8)
        axis.set_yscale("log")
    else:
        curve = quantity.psnr if kind == "psnr" else quantity.ssim
        assert curve is not None
        _line(axis, curve, color, "-", one.policy)
    axis.set_xlabel("imagined steps", fontsize=8, color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _line(axis: Axes, curve: Curve, color: str, dash: str, label: str) -> None:
    steps = np.arange(1, len(curve.score) + 1)
    low, high = np.array(curve.interval).T
    axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    mark = "o" if len(steps) == 1 else ""
    axis.plot(steps, curve.score, dash, marker=mark, color=color, linewidth=1.8, label=label)


def _calibration(axis: Axes, one: Measurement, color: str) -> None:
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    if one.continues is not None:
        predicted, came, count = np.array(one.continues.calibration).T
        axis.plot(predicted, came, "-", color=color, linewidth=1)
        axis.scatter(predicted, came, s=8 + 60 * count / count.sum(), color=color)
    axis.set_xlabel("predicted to go on", fontsize=8, color=INK)
    axis.set_ylabel("went on", fontsize=8, color=INK)
