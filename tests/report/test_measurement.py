"""Measures of a world model against closed forms and models that are wrong in a known way."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.report.test_imagination import DISCOUNT, LENGTH, Counter, Oracle, Player, pendulum  # noqa: F401
from worldflux.cli import imagine as command
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.core.state import ModelOutput
from worldflux.report.imagination import PlayedEpisode, play
from worldflux.report.measurement import Measurement, Quantity, measure, scalars
from worldflux.report.similarity import psnr, ssim


def episodes(agent: Player, *, random: bool = False, n: int = 4) -> list[PlayedEpisode]:
    env = EnvConfig(id="Counter-v0")
    return [play(agent, env, seed=i, discount=DISCOUNT, random=random) for i in range(n)]


def measured(model: Oracle, played: list[PlayedEpisode], horizon: int = 5) -> Measurement:
    return measure(model, played, policy="p", horizon=horizon, seed=0, discount=DISCOUNT)  # type: ignore[arg-type]


def quantity(one: Measurement, name: str) -> Quantity:
    return next(q for q in one.quantities if q.name == name)


class Frozen(Oracle):
    """Believes that nothing changes."""

    def transition(self, state, action):
        return state


class Average(Oracle):
    """Knows where it starts, and then predicts the mean of every observation."""

    mean = 0.0

    def decode(self, state):
        output = super().decode(state)
        fixed = torch.full_like(output.predictions["obs"], self.mean)
        return ModelOutput({**output.predictions, "obs": fixed}, state)


class Coin(Oracle):
    """Gives every step the same chance to go on."""

    def decode(self, state):
        output = super().decode(state)
        chance = torch.full_like(output.predictions["value"], 0.75)
        return ModelOutput({**output.predictions, "continue": chance}, state)


def test_who_knows_the_world_errs_nowhere() -> None:
    agent = Player(True)
    one = measured(agent.model, episodes(agent))
    assert {q.name for q in one.quantities} == {"obs", "reward"}
    assert one.episodes == 4 and one.starts == 4 * LENGTH and one.horizon == 5
    assert max(quantity(one, "obs").by_mean.score) < 1e-10
    assert max(quantity(one, "reward").mse.score) < 1e-10
    assert one.values is not None and one.values.correlation == pytest.approx(1)
    assert abs(one.values.bias) < 1e-4 and one.values.rmse < 1e-4
    assert one.continues is None


def test_no_change_is_one_by_its_own_measure() -> None:
    model = Frozen(True)
    one = quantity(measured(model, episodes(Player(True))), "obs")
    assert one.by_no_change.score == pytest.approx([1] * 5)
    assert one.by_no_change.interval == [pytest.approx((1, 1))] * 5
    # The count is off by k after k steps, whatever the episode.
    assert one.mse.score == pytest.approx([k * k for k in range(1, 6)])
    # By the mean, from the starts 0…22 whose k-th step is inside of the episode of 24 steps; its
    # spread is that of 1…23.
    k, count = 3, np.arange(24.0)
    after = count[k:]
    assert one.by_mean.score[k - 1] == pytest.approx(
        k * k / np.mean((after - count[1:].mean()) ** 2)
    )


def test_the_mean_is_one_by_its_own_measure() -> None:
    model = Average(True)
    model.mean = float(np.arange(1, 24).mean())
    assert quantity(measured(model, episodes(Player(True))), "obs").by_mean.score == pytest.approx(
        [1] * 5
    )


def test_continue_has_the_brier_score_of_a_coin() -> None:
    one = measured(Coin(True), episodes(Player(True)), horizon=2).continues
    assert one is not None
    # Each episode: 23 first steps and 22 second ones, of which the last of each ends it.
    ends, steps = 2, 23 + 22
    assert one.brier == pytest.approx((ends * 0.75**2 + (steps - ends) * 0.25**2) / steps)
    share = ends / steps
    assert one.of_frequency == pytest.approx(share * (1 - share))
    assert one.calibration == [(pytest.approx(0.75), pytest.approx(1 - share), 4 * steps)]
    assert scalars(measured(Coin(True), episodes(Player(True)), horizon=2))[
        "world_model/continue/brier"
    ]


def test_an_episode_that_was_cut_off_ends_with_the_value_of_its_last_step() -> None:
    agent = Player(True)
    env = EnvConfig(id="Counter-v0", time_limit=10)
    cut = [play(agent, env, seed=i, discount=DISCOUNT) for i in range(2)]
    assert cut[0].truncated and len(cut[0]) == 11
    one = measured(agent.model, cut).values
    assert one is not None and one.rmse < 1e-4


def test_random_actions_are_other_actions_and_the_model_follows_them() -> None:
    agent = Player(True)
    played = episodes(agent, random=True)
    taken = np.concatenate([episode.action[:-1] for episode in played])
    assert set(taken.sum(1)) == {1} and 0.2 < taken[:, 0].mean() < 0.8
    assert max(quantity(measured(agent.model, played), "reward").mse.score) < 1e-10


def test_classes_are_measured_as_one_hot() -> None:
    class Odd(Oracle):
        obs_spaces = {"obs": Space((1,), "int64", (2,))}  # noqa: RUF012

        def decode(self, state):
            output = super().decode(state)
            odd = (state.tensors["count"] % 2).long()
            guess = torch.nn.functional.one_hot(odd, 2) * 0.6 + 0.2
            return ModelOutput({**output.predictions, "obs": guess}, state)

    played = [
        PlayedEpisode(
            {"obs": (e.obs["obs"] % 2).astype(int)},
            e.action,
            e.reward,
            e.value,
            e.latent,
            e.truncated,
        )
        for e in episodes(Player(True))
    ]
    assert quantity(measured(Odd(True), played), "obs").mse.score == pytest.approx([0.2**2] * 5)


def test_without_a_decoder_the_latents_are_measured() -> None:
    agent = Player(False)
    one = measured(agent.model, episodes(agent))
    assert {q.name for q in one.quantities} == {"reward", "latent/count", "latent/action"}
    assert max(quantity(one, "latent/count").by_no_change.score) < 1e-10


# Pictures


def test_psnr_in_closed_form() -> None:
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)
    assert psnr(black, grey).item() == pytest.approx(20, abs=1e-4)
    assert psnr(grey, grey).item() == 100


def test_ssim_is_that_of_its_definition_written_out() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 1, 2, 14, 13))
    x[..., 3:8, 3:8] = y[..., 3:8, 3:8]
    at = np.arange(11) - 5
    weights = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for c in range(2):
        for i in range(14 - 10):
            for j in range(13 - 10):
                a, b = (one[0, c, i : i + 11, j : j + 11] for one in (x, y))
                ma, mb = (weights * a).sum(), (weights * b).sum()
                va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                cov = (weights * (a - ma) * (b - mb)).sum()
                value = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                values.append(value / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    given = torch.from_numpy(x), torch.from_numpy(y)
    assert ssim(*given).item() == pytest.approx(np.mean(values), abs=1e-9)
    assert ssim(given[0], given[0]).item() == pytest.approx(1)
    small = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    assert ssim(small, small).tolist() == pytest.approx([1, 1])


# The command


@pytest.mark.slow
def test_a_run_is_measured(
    pendulum: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        str(pendulum),
        "--measure",
        "--episodes",
        "2",
        "--horizon",
        "3",
        "--out",
        str(tmp_path),
    ]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "policy: 2 episodes" in out and "random actions: 2 episodes" in out
    assert "latent/latent: squared error" in out and "value: correlation" in out
    assert command.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "measurement.json").read_text())
    greedy, random = document["tasks"]["Pendulum-v1"]
    assert greedy["values"] is not None and random["values"] is None
    for one in (greedy, random):
        (reward,) = [q for q in one["quantities"] if q["name"] == "reward"]
        low, high = reward["by_mean"]["interval"][0]
        assert low <= reward["by_mean"]["score"][0] <= high and math.isfinite(low)
    assert (tmp_path / "measurement.png").stat().st_size > 5000
    assert command.main([str(pendulum), "--json"]) == 2
