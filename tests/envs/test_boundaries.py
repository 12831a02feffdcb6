"""Episode borders as the vector environments give them, and as they reach the replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.data.collect import Collector
from worldflux.data.replay import SequenceReplay
from worldflux.envs.make import make_envs

COUNTING = "tests.envs.counting:Counting-v0"
LIMITED = "tests.envs.counting:CountingLimited-v0"


def rows(config: EnvConfig, num_envs: int, mode: str, count: int) -> list[dict[str, np.ndarray]]:
    """The first rows when action class t % 3 is taken at call t."""
    envs = make_envs(config, num_envs=num_envs, mode=mode, seed=3)
    try:
        seen = [envs.reset()]
        for t in range(count - 1):
            seen.append(envs.step(np.eye(3, dtype=np.float32)[np.full(num_envs, t % 3)]))
        return seen
    finally:
        envs.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("truncate", [False, True])
def test_every_border_of_an_episode_is_told(mode: str, num_envs: int, truncate: bool) -> None:
    config = EnvConfig(id=COUNTING, kwargs={"length": 5, "truncate": truncate})
    seen = rows(config, num_envs, mode, 15)
    for t, row in enumerate(seen):
        place = t % 6  # five steps and the reset row
        assert row["obs"].shape == (num_envs, 3) and row["obs"].dtype == np.float32
        assert (row["obs"][:, 1] == place).all()  # the last one is the ending observation itself
        assert (row["reward"] == place).all() and row["reward"].dtype == np.float32
        assert (row["is_first"] == (place == 0)).all()
        assert (row["is_last"] == (place == 5)).all()
        assert (row["is_terminal"] == (place == 5 and not truncate)).all()
        # The observation names the action that led to it; none leads to a reset row.
        assert (row["obs"][:, 2] == (-1 if place == 0 else (t - 1) % 3)).all()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_environments_and_episodes_have_different_seeds(mode: str) -> None:
    seen = rows(EnvConfig(id=COUNTING, kwargs={"length": 2}), 4, mode, 7)
    marks = {(float(m), i) for row in seen for i, m in enumerate(row["obs"][:, 0])}
    assert len({m for m, _ in marks}) == len(marks) == 12


def test_same_seed_gives_the_same_episodes_in_both_kinds_of_vector() -> None:
    config = EnvConfig(id="CartPole-v1")
    for kind in ("sync", "async"):
        envs = make_envs(config, num_envs=2, mode=kind, seed=5)
        rng = np.random.default_rng(0)
        rolled = [envs.reset()["obs"]]
        for _ in range(60):
            rolled.append(envs.step(np.eye(2, dtype=np.float32)[rng.integers(2, size=2)])["obs"])
        envs.close()
        if kind == "sync":
            first = rolled
    np.testing.assert_array_equal(first, rolled)


def test_environments_of_uneven_length_do_not_wait_for_each_other() -> None:
    """Pendulum-like lockstep hides bugs: CartPole's episodes end at different times."""
    envs = make_envs(EnvConfig(), num_envs=3, seed=0)
    rng = np.random.default_rng(1)
    row = envs.reset()
    executed = 0
    for _ in range(300):
        before = row
        row = envs.step(np.eye(2, dtype=np.float32)[rng.integers(2, size=3)])
        np.testing.assert_array_equal(row["is_first"], before["is_last"])
        executed += int((~before["is_last"]).sum())
        assert (row["reward"] == ~row["is_first"]).all()  # CartPole pays 1 for each real step
        assert not (row["is_first"] & row["is_last"]).any()
    envs.close()
    assert envs.env_steps == executed < 900


def test_time_limit_truncates_and_overrides_the_registered_one() -> None:
    registered = rows(EnvConfig(id=LIMITED, kwargs={"length": 9}), 1, "sync", 12)
    ours = rows(EnvConfig(id=LIMITED, kwargs={"length": 9}, time_limit=7), 1, "sync", 12)
    assert [t for t, row in enumerate(registered) if row["is_last"][0]] == [4, 9]
    assert [t for t, row in enumerate(ours) if row["is_last"][0]] == [7]
    assert not any(row["is_terminal"][0] for row in registered + ours)
    ends = rows(EnvConfig(id=LIMITED, kwargs={"length": 5}, time_limit=5), 1, "sync", 6)
    assert ends[5]["is_terminal"][0]  # the environment's own end at the limit is terminal


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_borders_reach_the_replay(mode: str, num_envs: int) -> None:
    envs = make_envs(
        EnvConfig(id=COUNTING, kwargs={"length": 5}), num_envs=num_envs, mode=mode, seed=3
    )
    replay = SequenceReplay(
        spaces={**envs.obs_spaces, "action": Space((envs.action_dim,))},
        capacity=1000,
        length=13,
        num_envs=num_envs,
        seed=0,
    )
    collector = Collector(envs, replay, seed=0)
    episodes = collector.collect(None, 20 * num_envs) + collector.settle()
    envs.close()
    # Four episodes of five steps, and a reset row after each but the last.
    assert collector.env_steps == 20 * num_envs and len(replay) == 23 * num_envs
    told = [(e.return_, e.length, e.terminated, e.truncated) for e in episodes]
    assert told == [(15.0, 5, True, False)] * 4 * num_envs
    assert sorted({e.env for e in episodes}) == list(range(num_envs))
    batch = replay.sample(64)
    place = batch["obs"][..., 1]
    np.testing.assert_array_equal(batch["reward"], place)
    np.testing.assert_array_equal(batch["is_last"], place == 5)
    np.testing.assert_array_equal(batch["is_terminal"], place == 5)
    np.testing.assert_array_equal(batch["is_first"][:, 1:], place[:, 1:] == 0)
    assert batch["is_first"][:, 0].all() and not batch["is_first"][:, 1:].all()
    _actions_precede_what_they_cause(batch)


def _actions_precede_what_they_cause(batch: dict[str, Any]) -> None:
    """action t is taken after observation t, and none after an episode's last one."""
    caused = batch["obs"][:, 1:, 2]
    taken = batch["action"][:, :-1].argmax(-1)
    real = ~batch["is_first"][:, 1:]
    np.testing.assert_array_equal(taken[real], caused[real])
    assert (batch["action"][batch["is_last"]] == 0).all()
    assert (batch["action"][~batch["is_last"]].sum(-1) == 1).all()
