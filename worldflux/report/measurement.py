"""How good a world model is: what it imagines of held-out episodes, against what happened.

E episodes, S starts of an episode, H imagined steps, D entries of a quantity. docs/measure.md has the
formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from worldflux.core.statistics import percentile_interval, resampled
from worldflux.models.world_model import WorldModel, prediction_name
from worldflux.report.imagination import CONTINUE, Imagination, PlayedEpisode, imagine, real
from worldflux.report.similarity import psnr, ssim

STARTS = 32  # of an episode, at most
BINS = 10  # of the calibration curve
RESAMPLES = 1_000
CONSTANT = 1e-8  # standard deviation below which an entry never changes
Interval = tuple[float, float]


@dataclass
class Curve:
    """A number at each imagined step `[H]`, with its 95 % interval over episodes `[H, 2]`."""

    score: list[float]
    interval: list[Interval]


@dataclass
class Quantity:
    """One thing that the model predicts. mse: mean squared error; by_mean, by_no_change: the squared
    error as a share of that of predicting the mean, and of predicting no change. psnr, ssim: of
    pictures."""

    name: str
    mse: Curve
    by_mean: Curve
    by_no_change: Curve
    psnr: Curve | None = None
    ssim: Curve | None = None


@dataclass
class Continues:
    """Brier score of the predicted probability that the episode goes on, over all imagined steps;
    of_frequency: that of always predicting how often it does. calibration: (predicted, came true,
    how many) of each tenth of the predictions that has any."""

    brier: float
    interval: Interval
    of_frequency: float
    calibration: list[tuple[float, float, int]]


@dataclass
class Values:
    """The value of known steps against the return that came: its correlation, and the mean and root
    of the mean square of their difference. episodes that were cut off have the value of their last
    step in the place of what would have come."""

    correlation: float
    interval: Interval
    bias: float
    rmse: float


@dataclass
class Measurement:
    """Of the episodes of one policy."""

    policy: str
    episodes: int
    starts: int
    horizon: int
    returns: float
    quantities: list[Quantity]
    continues: Continues | None
    values: Values | None


@dataclass
class _Sums:
    """Sums of one quantity over starts and entries, for each episode `[E, H]`."""

    error: list[np.ndarray] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)
    of_mean: list[np.ndarray] = field(default_factory=list)
    of_no_change: list[np.ndarray] = field(default_factory=list)
    count: list[np.ndarray] = field(default_factory=list)
    psnr: list[np.ndarray] = field(default_factory=list)
    ssim: list[np.ndarray] = field(default_factory=list)


def measure(
    model: WorldModel,
    episodes: Sequence[PlayedEpisode],
    *,
    policy: str,
    horizon: int,
    seed: int,
    discount: float,
) -> Measurement:
    """Measures a model on episodes. discount: of its values, where they are of these episodes'
    policy; 0: they are not."""
    names = _names(model, episodes)
    series = {name: [_real_series(e, name, model) for e in episodes] for name in names}
    scales = {name: _scale(values) for name, values in series.items()}
    sums: dict[str, _Sums] = {}
    goes_on: list[tuple[np.ndarray, np.ndarray]] = []
    valued: list[tuple[np.ndarray, np.ndarray]] = []
    starts = 0
    for number, episode in enumerate(episodes):
        window = imagine(model, episode, horizon, seed + number, starts=_starts(episode))
        starts += len(window.starts)
        for name, predicted in window.predicted.items():
            if (scale := scales.get(name)) is not None:
                truth = _windows(series[name][number], window)
                _add(sums.setdefault(name, _Sums()), truth, predicted, *scale)
        if CONTINUE in window.predicted:
            truth, guess = real(episode, window, CONTINUE), window.predicted[CONTINUE]
            inside = ~np.isnan(guess[:, 1:])
            goes_on.append((truth[:, 1:][inside], guess[:, 1:][inside]))
        if discount and "value" in window.predicted:
            valued.append(_values(model, episode, window, discount))
    return Measurement(
        policy,
        len(episodes),
        starts,
        horizon,
        float(np.mean([episode.reward.sum() for episode in episodes])),
        [_quantity(name, one) for name, one in sums.items()],
        _continues(goes_on) if goes_on else None,
        _value(valued) if valued else None,
    )


def _names(model: WorldModel, episodes: Sequence[PlayedEpisode]) -> list[str]:
    first = episodes[0]
    return ["reward", *(first.obs if model.supports("obs_decoder") else first.latent_series)]


def _starts(episode: PlayedEpisode) -> np.ndarray:
    last = max(0, len(episode) - 2)
    return np.unique(np.linspace(0, last, min(STARTS, last + 1)).round().astype(int))


def _real_series(episode: PlayedEpisode, name: str, model: WorldModel) -> np.ndarray:
    """`[T, ...]` as the model predicts it, classes as one-hot; pictures as they are."""
    values = episode.series(name)
    spaces = {prediction_name(key): space for key, space in model.obs_spaces.items()}
    space = spaces.get(name) if name in episode.obs else None
    if space is not None and space.classes:
        flat = values.reshape(len(values), -1).astype(int)
        parts = [np.eye(n, dtype=np.float32)[flat[:, i]] for i, n in enumerate(space.classes)]
        return np.concatenate(parts, axis=1)
    return values


def _scale(series: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean of each entry over all episodes, and its standard deviation: infinite for one that never
    changes, so that its errors count nothing; of a picture 1, so that all pixels count alike. None:
    nothing ever changes."""
    values = np.concatenate([one[1:] for one in series])
    if (np.ptp(values, axis=0) <= CONSTANT).all():
        return None
    if values.ndim == 4:
        mean = values.mean(0) / (255 if values.dtype == np.uint8 else 1)
        return mean, np.ones_like(mean)
    deviation = values.std(0)
    return values.mean(0), np.where(deviation > CONSTANT, deviation, np.inf)


def _windows(series: np.ndarray, window: Imagination) -> np.ndarray:
    """A series laid out as what was imagined, `[S, 1 + H, ...]`, pictures in [0, 1]."""
    index = window.starts[:, None] + np.arange(window.horizon + 1)
    values = series[np.minimum(index, len(series) - 1)]
    return values / np.float32(255) if values.dtype == np.uint8 else values


def _add(
    sums: _Sums, truth: np.ndarray, guess: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> None:
    """truth, guess: `[S, 1 + H, ...]`, guess NaN behind the episode's end."""
    inside = ~np.isnan(guess.reshape(*guess.shape[:2], -1)).any(-1)[:, 1:]  # [S, H]

    def total(values: np.ndarray) -> np.ndarray:
        """Squares over starts and entries, `[H]`."""
        flat = np.square(values, dtype=np.float64).reshape(*values.shape[:2], -1).mean(-1)
        return np.where(inside, flat, 0).sum(0)

    after, imagined = truth[:, 1:], guess[:, 1:]
    sums.error.append(total((imagined - after) / deviation))
    sums.raw.append(total(imagined - after))
    sums.of_mean.append(total((mean - after) / deviation))
    sums.of_no_change.append(total((truth[:, :1] - after) / deviation))
    sums.count.append(inside.sum(0))
    if truth.ndim == 5:
        for of, to in ((psnr, sums.psnr), (ssim, sums.ssim)):
            to.append(_likeness(of, after, imagined, inside))


def _likeness(
    of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    truth: np.ndarray,
    guess: np.ndarray,
    inside: np.ndarray,
) -> np.ndarray:
    """Sum over starts `[H]` of how alike the pictures `[S, H, C, H, W]` are."""
    values = np.zeros(inside.shape)
    first, second = (torch.from_numpy(one[inside].astype(np.float32)) for one in (truth, guess))
    values[inside] = of(first, second.clamp(0, 1)).numpy()
    return values.sum(0)


def _quantity(name: str, sums: _Sums) -> Quantity:
    return Quantity(
        name,
        _ratio(sums.raw, sums.count),
        _ratio(sums.error, sums.of_mean),
        _ratio(sums.error, sums.of_no_change),
        _ratio(sums.psnr, sums.count) if sums.psnr else None,
        _ratio(sums.ssim, sums.count) if sums.ssim else None,
    )


def _ratio(above: Sequence[np.ndarray], below: Sequence[np.ndarray]) -> Curve:
    """Ratio of sums over episodes at each step, with the interval over episodes."""
    over, under = np.stack(above), np.stack(below).astype(np.float64)  # [E, H]
    picks = resampled(np.arange(len(over)), lambda drawn: drawn, resamples=RESAMPLES).astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = over.sum(0) / under.sum(0)
        draws = over[picks].sum(1) / under[picks].sum(1)  # [R, H]
    return Curve(score.tolist(), [_percentiles(column) for column in draws.T])


def _percentiles(draws: np.ndarray) -> Interval:
    known = draws[np.isfinite(draws)]
    return percentile_interval(known) if len(known) else (np.nan, np.nan)


def _continues(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Continues:
    truth, guess = (np.concatenate(one) for one in zip(*pairs, strict=True))
    squares = [np.square(g - t).sum() for t, g in pairs]
    of = _ratio([np.array([s]) for s in squares], [np.array([len(t)]) for t, _ in pairs])
    bins = np.minimum((guess * BINS).astype(int), BINS - 1)
    calibration = [
        (float(guess[bins == b].mean()), float(truth[bins == b].mean()), int((bins == b).sum()))
        for b in range(BINS)
        if (bins == b).any()
    ]
    frequency = float(np.square(truth - truth.mean()).mean())
    return Continues(of.score[0], of.interval[0], frequency, calibration)


def _values(
    model: WorldModel, episode: PlayedEpisode, window: Imagination, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Value and return to come of the starts `[S]`."""
    came = episode.value
    if episode.truncated:
        last = imagine(model, episode, 1, 0, starts=np.array([len(episode) - 1]))
        left = np.arange(len(came))[::-1]
        came = came + discount**left * float(last.predicted["value"][0, 0])
    return window.predicted["value"][:, 0].astype(np.float64), came[window.starts]


def _value(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Values:
    guess, came = (np.concatenate(one) for one in zip(*pairs, strict=True))
    picks = resampled(np.arange(len(pairs)), lambda drawn: drawn, resamples=RESAMPLES).astype(int)
    draws = [_correlation(*_joined([pairs[i] for i in drawn])) for drawn in picks]
    off = guess - came
    return Values(
        _correlation(guess, came),
        _percentiles(np.array(draws)),
        float(off.mean()),
        float(np.sqrt(np.square(off).mean())),
    )


def _joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = zip(*pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def scalars(one: Measurement) -> dict[str, float]:
    """What is logged of a measurement: each normalised error after the first and the last imagined
    step, and the single numbers."""
    result = {}
    for quantity in one.quantities:
        result[f"world_model/{quantity.name}/first"] = quantity.by_mean.score[0]
        result[f"world_model/{quantity.name}/last"] = quantity.by_mean.score[-1]
    if one.continues is not None:
        result["world_model/continue/brier"] = one.continues.brier
    if one.values is not None:
        result["world_model/value/correlation"] = one.values.correlation
        result["world_model/value/bias"] = one.values.bias
    return result


def lines(measurements: Sequence[Measurement]) -> list[str]:
    """The numbers for people."""
    text = []
    for one in measurements:
        text.append(
            f"{one.policy}: {one.episodes} episodes, {one.starts} starts, {one.horizon} imagined steps"
        )
        for quantity in one.quantities:
            parts = [f"  {quantity.name}: squared error {_range(quantity.by_mean)} of the mean's"]
            parts.append(f"{_range(quantity.by_no_change)} of no change's")
            if quantity.psnr is not None and quantity.ssim is not None:
                parts.append(f"PSNR {_range(quantity.psnr)} dB, SSIM {_range(quantity.ssim)}")
            text.append(", ".join(parts))
        if one.continues is not None:
            c = one.continues
            text.append(f"  continue: Brier {c.brier:.3g} (its frequency {c.of_frequency:.3g})")
        if one.values is not None:
            v, (low, high) = one.values, one.values.interval
            text.append(
                f"  value: correlation {v.correlation:.2f} ({low:.2f} to {high:.2f}) with the return that"
                f" came, {v.bias:+.3g} on average, rmse {v.rmse:.3g}"
            )
    return text


def _range(curve: Curve) -> str:
    """After the first and the last imagined step."""
    return f"{curve.score[0]:.3g} → {curve.score[-1]:.3g}"
