"""Greedy evaluation: which episodes count, and how sure the mean is."""

from contextlib import closing

import numpy as np
import pytest
import torch

from tests.training.tiny import TinyAgent
from worldflux.core.statistics import bootstrap_interval
from worldflux.training.evaluate import Evaluation, evaluate, quotas
from worldflux.training.seed import rng_state


class LengthEnvs:
    """Environment i has episodes of a length of its own, one reward of 1 for each step."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)
        self.num_envs = len(lengths)
        self.tasks, self.task_numbers = (), []
        self.raw_reward = np.zeros(self.num_envs, np.float32)
        self.played = 0
        self.closed = False

    def _row(self, first, last):
        obs = np.zeros((self.num_envs, 3), np.float32)
        return {"obs": obs, "is_first": first, "is_last": last, "is_terminal": last}

    def reset(self):
        self.at = np.zeros(self.num_envs, int)
        none = np.zeros(self.num_envs, bool)
        return self._row(~none, none)

    def step(self, action):
        assert action.shape == (self.num_envs, 2)
        self.played += 1
        first = self.at == self.lengths
        self.at = np.where(first, 0, self.at + 1)
        self.raw_reward = np.where(first, 0.0, 1.0).astype(np.float32)
        return self._row(first, self.at == self.lengths)

    def render(self):
        return np.full((2, 2, 3), self.at[0], np.uint8)

    def close(self):
        self.closed = True


def play(lengths: list[int], episodes: int, **options):
    envs = LengthEnvs(lengths)
    result = evaluate(
        TinyAgent(), lambda n, seed: closing(envs), episodes=episodes, seed=0, **options
    )
    assert envs.closed
    return result, envs


def test_short_episodes_are_not_over_counted():
    # Taking whichever six end first would be 3, 3, 3, 3, 3, 3 and no long one.
    result, _ = play([3, 50, 40], episodes=6)
    assert result.returns == [3, 3, 50, 50, 40, 40]
    assert result.lengths == [3, 3, 50, 50, 40, 40]
    assert result.mean == pytest.approx(31.0)


def test_quotas_share_the_episodes_as_equally_as_possible():
    assert quotas(10, 10).tolist() == [1] * 10
    assert quotas(10, 4).tolist() == [3, 3, 2, 2]
    assert quotas(23, 10).sum() == 23


def test_uneven_quotas_count_the_first_episodes():
    result, _ = play([5, 7], episodes=3)
    assert result.returns == [5, 5, 7]


def test_it_stops_when_told_and_closes_its_environments():
    calls = iter([False, False, True])
    result, envs = play([100], episodes=1, should_stop=lambda: next(calls))
    assert result is None and envs.played == 2


def test_it_records_the_frames_of_one_whole_episode():
    result, _ = play([4], episodes=2, record=True)
    assert [int(frame[0, 0, 0]) for frame in result.frames] == [0, 1, 2, 3, 4]


def test_it_leaves_every_random_stream_as_it_was_and_depends_on_its_seed_only():
    agent = TinyAgent()
    before, own = rng_state(), agent.generator.get_state()
    envs = LengthEnvs([4, 6])
    evaluate(agent, lambda n, seed: closing(envs), episodes=2, seed=3, explore=True)
    after = rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert np.array_equal(before["numpy"]["keys"], after["numpy"]["keys"])
    assert torch.equal(own, agent.generator.get_state())


def test_the_interval_of_equal_returns_is_their_value():
    assert bootstrap_interval([500.0] * 10) == (500.0, 500.0)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(3.0, 2.0, 20))
        covered += low <= 3.0 <= high
    # A percentile bootstrap of 20 values covers about 92 to 93 %; three standard errors are 4.5 %.
    assert 0.88 <= covered / 300 <= 0.98


def test_metrics_have_the_documented_names():
    metrics = Evaluation([1.0, 3.0], [10, 20]).metrics()
    assert metrics["eval/return"] == 2.0 and metrics["eval/length"] == 15.0
    assert metrics["eval/return_low"] == 1.0 and metrics["eval/return_high"] == 3.0
    assert metrics["eval/episodes"] == 2.0 and metrics["eval/return_std"] == 1.0
