"""Welch's interval for the difference of two means."""

from __future__ import annotations

import math

import numpy as np

DRAWS = 400_000


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
