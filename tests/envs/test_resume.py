"""Environments come back to the step at which their state was taken."""

from __future__ import annotations

import numpy as np
import pytest

from worldflux.config.env import EnvConfig
from worldflux.envs.make import make_envs

COUNTING = "tests.envs.counting:Counting-v0"


def walk(config: EnvConfig, mode: str, steps: int) -> tuple:
    envs = make_envs(config, num_envs=3, mode=mode, seed=7)
    rng = np.random.default_rng(2)
    envs.reset()
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (3, envs.action_dim)).astype(np.float32)
        envs.step(actions)
    return envs, rng


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (EnvConfig(), 0),
        (EnvConfig(), 37),  # in the middle of episodes of different ages
        (EnvConfig(id=COUNTING, kwargs={"length": 5}), 5),  # all on their last row
        (EnvConfig(id=COUNTING, kwargs={"length": 5}), 6),  # all on a fresh reset row
        (EnvConfig(id="Pendulum-v1", time_limit=20, action_repeat=2), 33),
    ],
)
def test_a_restored_environment_goes_on_as_the_original(
    mode: str, config: EnvConfig, steps: int
) -> None:
    original, rng = walk(config, mode, steps)
    state = original.state_dict()
    restored = make_envs(config, num_envs=3, mode="sync", seed=999)
    assert restored.load_state_dict(state).all()
    assert restored.env_steps == original.env_steps
    for key, value in original.last.items():
        np.testing.assert_array_equal(restored.last[key], value)
    for _ in range(60):
        actions = rng.uniform(-1, 1, (3, original.action_dim)).astype(np.float32)
        one, other = original.step(actions), restored.step(actions)
        for key, value in one.items():
            np.testing.assert_array_equal(other[key], value)
    original.close()
    restored.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_environment_that_does_not_come_back_is_reported_and_reset(mode: str) -> None:
    config = EnvConfig(id=COUNTING, kwargs={"length": 9, "drift": True})
    original, _ = walk(config, mode, 4)
    state = original.state_dict()
    original.close()
    restored = make_envs(config, num_envs=3, mode=mode, seed=7)
    state["row"]["obs"][1] = -5  # environments whose resets drift may still match by chance
    same = restored.load_state_dict(state)
    assert not same[1]
    row = restored.reset_where(np.array([False, True, False]))
    assert row["is_first"].tolist() == [False, True, False]
    assert row["obs"][:, 1].tolist() == [4, 0, 4]
    after = restored.step(np.zeros((3, 3), np.float32))
    assert after["obs"][:, 1].tolist() == [5, 1, 5] and not after["is_first"].any()
    restored.close()
