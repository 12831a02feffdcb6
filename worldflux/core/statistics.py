"""Scores of several runs as one number, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 10_000
IMPROVEMENT_RESAMPLES = 2_000  # as rliable draws for a probability of improvement
DRAWS = 400_000


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis `[..., N] -> [...]` (Agarwal et al. 2021, section 4.3).

    The mean of the middle half of the sorted values. Where a quarter is no whole number of values,
    the two at the border count by their part, so that four values count their middle two and two
    values both.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    count = ordered.shape[-1]
    # Value i covers [i, i + 1] of a length N, of which [N/4, 3N/4] is kept.
    left, right = np.arange(count), np.arange(1, count + 1)
    kept = np.clip(np.minimum(right, 0.75 * count) - np.maximum(left, 0.25 * count), 0, None)
    return (ordered * kept).sum(-1) / (0.5 * count)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return np.asarray(values, np.float64).mean(-1)


def resampled(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """`statistic` of bootstrap samples of `values [N]`, `[resamples]`; the same for one seed."""
    sample = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sample), (resamples, len(sample)))
    return np.asarray(statistic(sample[picks]))


def percentile_interval(draws: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The middle `confidence` of the draws."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    *,
    statistic: Callable[[np.ndarray], np.ndarray] = mean,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic (Efron 1979), the same for the same values."""
    return percentile_interval(resampled(values, statistic), confidence)


def stratified_interval(
    strata: Sequence[Sequence[float] | np.ndarray],
    combine: Callable[[list[np.ndarray]], np.ndarray],
    confidence: float = 0.95,
    *,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
) -> tuple[float, float]:
    """Stratified bootstrap interval (Agarwal et al. 2021): every stratum is resampled by itself.

    strata: the values of each stratum (a task, or a method). combine: the statistics
    `[resamples]` of the strata to the number whose interval is asked, such as their mean or
    difference.
    """
    draws = [resampled(values, statistic, seed=i) for i, values in enumerate(strata)]
    return percentile_interval(combine(draws), confidence)


def stratified_iqm(
    strata: Sequence[Sequence[float] | np.ndarray],
) -> tuple[float, tuple[float, float] | None]:
    """Mean over strata of their interquartile means, and its stratified bootstrap interval; None
    where no stratum has more than one value."""
    score = float(np.mean([iqm(np.asarray(values)) for values in strata]))
    if max(map(len, strata)) < 2:
        return score, None
    return score, stratified_interval(strata, lambda draws: np.mean(draws, axis=0))


def improvement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability `[...]` that a run of `first [..., N]` scores higher than one of `second
    [..., M]`, ties counted half (Agarwal et al. 2021, section 4.3)."""
    difference = np.asarray(first)[..., :, None] - np.asarray(second)[..., None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1))


def improvement_interval(
    pairs: Sequence[tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Stratified bootstrap interval of the mean of `improvement` over pairs, one of each task."""
    draws = []
    for i, (first, second) in enumerate(pairs):
        sides = [
            resampled(values, lambda v: v, seed=2 * i + side, resamples=IMPROVEMENT_RESAMPLES)
            for side, values in enumerate((first, second))
        ]
        draws.append(improvement(*sides))
    return percentile_interval(np.mean(draws, axis=0), confidence)


def difference_interval(
    first: tuple[float, float],
    n_first: int,
    second: tuple[float, float],
    n_second: int,
    confidence: float,
) -> tuple[float, float]:
    """Interval of `mean(first) - mean(second)` from (mean, sample standard deviation) and counts
    (Welch 1947). At least two values each: of one alone the spread is not known."""
    difference = first[0] - second[0]
    parts = [first[1] ** 2 / n_first, second[1] ** 2 / n_second]
    if sum(parts) == 0:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(
        part**2 / (n - 1) for part, n in zip(parts, (n_first, n_second), strict=True)
    )
    # Student's t has no quantile function in NumPy; of so many draws it is good to half a percent.
    draws = np.random.default_rng(0).standard_t(freedom, DRAWS)
    half = float(np.quantile(np.abs(draws), confidence)) * math.sqrt(sum(parts))
    return difference - half, difference + half
