"""Environments in processes of their own take a step while the caller trains."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.data.test_sources import COUNTING, Walker, as_a_checkpoint_returns_it, source
from tests.envs.counting import Counting
from worldflux.config.env import EnvConfig
from worldflux.errors import TrainingError


class Waiting(Counting):
    """Its last step lasts until a file is there."""

    def __init__(self, file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.file = Path(file)

    def step(self, action: Any) -> Any:
        while self.steps == self.length - 1 and not self.file.exists():
            time.sleep(0.01)
        return super().step(action)


gym.register("Waiting-v0", Waiting)


def test_the_data_are_those_of_environments_that_are_waited_for() -> None:
    both = [source(mode=mode) for mode in ("sync", "async")]
    episodes: list[list[Any]] = [[], []]
    for update in range(1, 30):
        for s, ended in zip(both, episodes, strict=True):
            ended += s.advance(Walker(), update)
        assert both[0].env_steps == both[1].env_steps
        batches = [s.batch(4) for s in both]
        assert all(np.array_equal(batches[0][key], batches[1][key]) for key in batches[0])
    for s, ended in zip(both, episodes, strict=True):
        ended += s.settle()
        s.close()
    assert episodes[0] == episodes[1] and len(episodes[0]) > 10


def test_a_step_is_taken_while_the_caller_goes_on(tmp_path: Path) -> None:
    """It would never end if `advance` waited for the last step of the prefill."""
    file = tmp_path / "go"
    kwargs = {"length": 20, "file": str(file)}
    env = EnvConfig(id=f"{__name__}:Waiting-v0", kwargs=kwargs)
    s = source(env, mode="async", num_envs=1, prefill_steps=20)
    assert s.advance(Walker(), 1) == [] and s.env_steps == 20
    assert s.batch(4)["obs"].shape == (4, 6, 3)
    file.touch()
    (episode,) = s.settle()
    assert (episode.length, episode.env_steps, s.settle()) == (20, 20, [])
    s.close()


def test_a_step_under_way_is_in_the_checkpoint() -> None:
    """State that is taken in the middle of a step holds the episode that the step ended."""
    one, other = (source(mode="async", num_envs=1, prefill_steps=21) for _ in range(2))
    one.advance(Walker(), 1)
    state = as_a_checkpoint_returns_it(one.state_dict())
    other.load_state_dict(state)
    (first,), (second,) = one.settle(), other.settle()
    assert first == second and (first.length, first.env_steps) == (7, 21)
    one.close(), other.close()


def test_a_step_under_way_that_fails_is_not_counted() -> None:
    env = EnvConfig(id=COUNTING, kwargs={"length": 50, "fail_at": 40})
    s = source(env, mode="async", num_envs=1)
    s.advance(Walker(), 1)
    with pytest.raises(TrainingError, match="the robot fell over"):
        s.settle()
    assert s.env_steps == 39
    s.close()
