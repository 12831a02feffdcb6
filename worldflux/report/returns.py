"""Returns of runs over their steps, as curves, and curves of several runs as one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from worldflux.core.statistics import iqm, percentile_interval, resampled
from worldflux.report.published import EPISODES, EVALUATIONS

MetricRecord = Mapping[str, Any]  # one of metrics.jsonl

METRIC_OF = {EVALUATIONS: "eval/return", EPISODES: "episode/return"}
ENV_STEPS, UPDATES = "env_steps", "step"  # of a record
NEWEST = 10  # training episodes whose mean is a score
GRID_POINTS = 200
RESAMPLES = 2_000


def is_online(records: Sequence[MetricRecord]) -> bool:
    """Whether a run counts environment steps."""
    return any(record[ENV_STEPS] for record in records)


def series(records: Sequence[MetricRecord], *names: str, x: str | None = None) -> np.ndarray:
    """Points `[N, 1 + len(names)]` of metrics; records without the first name, or with a value that
    is not finite, are left out. x: ENV_STEPS or UPDATES; None: environment steps where there are any.
    """
    x = x or (ENV_STEPS if is_online(records) else UPDATES)
    rows = [
        (record[x], *(record["metrics"].get(name) for name in names))
        for record in records
        if names[0] in record["metrics"]
    ]
    kept = [row for row in rows if all(value is not None for value in row)]
    return np.array(kept, np.float64).reshape(len(kept), 1 + len(names))


def curve(
    records: Sequence[MetricRecord], kind: str, *, x: str | None = None, window: int = NEWEST
) -> np.ndarray:
    """Returns of one kind over steps `[N, 2]`, one point for a step.

    kind: EVALUATIONS, as they are; EPISODES: at each the mean of the newest `window` so far.
    """
    points = series(records, METRIC_OF[kind], x=x)
    if kind == EPISODES:
        points[:, 1] = trailing_mean(points[:, 1], window)
    return newest_of_each_step(points)


def newest_of_each_step(points: np.ndarray) -> np.ndarray:
    """Of the points `[N, ...]` with the same first column the last one, in the order of that column."""
    return points[len(points) - 1 - np.unique(points[::-1, 0], return_index=True)[1]]


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and those before it, `window` at most, same length."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean with shrinking windows at both ends, same length."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - window // 2, 0)
    high = np.minimum(index + window // 2 + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def common_range(curves: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """The steps that all curves cover; None where there are none."""
    first, last = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    return (first, last) if first <= last else None


def band(curves: Sequence[np.ndarray], strata: Sequence[Hashable] | None = None) -> np.ndarray:
    """Interquartile mean and its 95 % bootstrap interval over runs `[N, 4]` (x, mean, low, high),
    where all of them have come to; linear between a run's points.

    strata: the stratum of each curve, as `stratified_iqm` takes them; None: all are in one.
    """
    covered = common_range(curves)
    if covered is None:
        return np.zeros((0, 4))
    first, last = covered
    x = np.unique(np.concatenate([c[:, 0] for c in curves]))
    x = x[(x >= first) & (x <= last)]
    if len(x) > GRID_POINTS:
        x = np.linspace(first, last, GRID_POINTS)
    values = np.stack([np.interp(x, c[:, 0], c[:, 1]) for c in curves], axis=1)  # [N, runs]
    of = list(strata or [0] * len(curves))
    parts = [values[:, [key == one for key in of]] for one in dict.fromkeys(of)]
    low_high = np.array([_interval([part[i] for part in parts]) for i in range(len(x))])
    return np.column_stack([x, np.mean([iqm(part) for part in parts], axis=0), low_high])


def _interval(strata: Sequence[np.ndarray]) -> tuple[float, float]:
    draws = [resampled(one, iqm, seed=i, resamples=RESAMPLES) for i, one in enumerate(strata)]
    return percentile_interval(np.mean(draws, axis=0))
