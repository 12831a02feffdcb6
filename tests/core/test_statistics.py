"""Interquartile means and bootstrap intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from worldflux.core.statistics import bootstrap_interval, iqm, stratified_interval


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm(np.array([100.0, 1.0, 3.0, -50.0])) == 2.0
    assert iqm(np.array([4.0, 1.0])) == 2.5
    assert iqm(np.array([7.0])) == 7.0
    # Five values: 1.25 are cut at each end, so the second and the fourth count by 0.75.
    values = np.array([9.0, 0.0, 2.0, 5.0, 1.0])
    assert iqm(values) == pytest.approx((0.75 * 1 + 2 + 0.75 * 5) / 2.5)
    assert np.array_equal(iqm(np.stack([values, values + 1])), iqm(values) + np.array([0.0, 1.0]))


def test_iqm_of_whole_quarters_cuts_them_off() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert iqm(values) == pytest.approx(np.sort(values)[10:30].mean())


def test_the_interval_of_a_mean_approaches_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap_interval([5.0, 5.0]) == (5.0, 5.0)


def test_strata_are_resampled_by_themselves() -> None:
    # Within each stratum nothing varies, so neither does the difference, however far apart they are.
    low, high = stratified_interval([[1.0, 1.0], [9.0, 9.0, 9.0]], lambda s: s[1] - s[0])
    assert (low, high) == (8.0, 8.0)
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 200), rng.normal(1, 1, 200)
    low, high = stratified_interval([a, b], lambda s: s[1] - s[0], statistic=lambda v: v.mean(-1))
    half = 1.96 * np.sqrt(a.var() / 200 + b.var() / 200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert low < b.mean() - a.mean() < high
