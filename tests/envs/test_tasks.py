"""Several tasks at once: padding, numbers, masks, seeds, evaluation of each, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs

from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space, Task
from worldflux.data.collect import Collector
from worldflux.data.replay import SequenceReplay
from worldflux.envs.make import make_envs
from worldflux.envs.tasks import TaskLayout
from worldflux.errors import ConfigurationError
from worldflux.training.evaluate import GreedyEvaluator


class Line(gym.Env[np.ndarray, np.ndarray]):
    """Observes and acts in `width` dimensions; the reward is the width, the action is shown."""

    def __init__(self, width: int, steps: int = 4) -> None:
        self.observation_space = gs.Box(-9, 9, (width,), np.float32)
        self.action_space = gs.Box(-2, 2, (width - 1,), np.float32)
        self.width, self.steps = width, steps

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return np.full(self.width, self.np_random.uniform(1, 2), np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        assert action.shape == (self.width - 1,)
        self.at += 1
        shown = np.append(action, 7).astype(np.float32)
        return shown, float(self.width), False, self.at >= self.steps, {}


for name, width in (("Narrow", 2), ("Wide", 4)):
    gym.register(
        f"tests/{name}-v0",
        lambda width=width: Line(width),
        max_episode_steps=width * 10,
        disable_env_checker=True,
    )
NARROW, WIDE = IDS = ("tests/Narrow-v0", "tests/Wide-v0")
BOTH = EnvConfig(tasks=IDS)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_tasks_share_one_space(mode: str) -> None:
    envs = make_envs(BOTH, num_envs=2, mode=mode, seed=1)
    assert envs.obs_spaces == {"obs": Space((4,)), "task": Space((), "int64", (2,))}
    assert envs.action_dim == 3 and envs.num_envs == 4
    assert envs.tasks == (Task(NARROW, 2, 1, 20), Task(WIDE, 4, 3, 40))
    row = envs.reset()
    assert row["task"].tolist() == [0, 1, 0, 1]
    assert (row["obs"][::2, 2:] == 0).all() and (row["obs"][1::2] >= 1).all()
    assert len(set(row["obs"][:, 0])) == 4  # every environment has its own seed
    row = envs.step(np.full((4, 3), 0.5, np.float32))
    assert row["obs"].tolist() == [[1, 7, 0, 0], [1, 1, 1, 7]] * 2
    assert row["reward"].tolist() == [2, 4, 2, 4]
    envs.close()


def test_random_actions_are_masked_in_the_replay() -> None:
    envs = make_envs(BOTH, num_envs=1)
    replay = SequenceReplay(
        spaces={**envs.obs_spaces, "action": Space((3,))}, capacity=100, length=2, num_envs=2
    )
    episodes = Collector(envs, replay).collect(None, 40)
    batch = replay.sample(30)
    narrow = batch["task"] == 0
    assert set(batch["task"].flatten()) == {0, 1}
    assert (batch["action"][narrow][:, 1:] == 0).all()
    assert (batch["action"][~narrow & ~batch["is_last"]] != 0).all()
    assert {e.task: e.return_ for e in episodes} == {NARROW: 8, WIDE: 16}
    envs.close()


def test_restored_tasks_go_on_as_the_original() -> None:
    original, restored = make_envs(BOTH, seed=3), make_envs(BOTH, seed=99)
    original.reset()
    action = np.full((2, 3), 0.25, np.float32)
    for _ in range(7):
        original.step(action)
    assert restored.load_state_dict(original.state_dict()).all()
    for _ in range(6):
        one, other = original.step(action), restored.step(action)
        for key, value in one.items():
            np.testing.assert_array_equal(other[key], value)


class Still:
    def initial_carry(self, n: int) -> dict[str, Any]:
        return {}

    def act(self, carry: Any, obs: Any, explore: bool) -> Any:
        return carry, np.zeros((len(obs["is_first"]), 3), np.float32), {}


@pytest.mark.parametrize("episodes", [1, 3, 12])
def test_each_task_is_evaluated_as_often(episodes: int) -> None:
    result = GreedyEvaluator(BOTH, episodes=episodes)(Still(), seed=0)  # type: ignore[arg-type]
    assert result is not None
    assert result.by_task == {NARROW: [8.0] * episodes, WIDE: [16.0] * episodes}
    assert result.mean == 12 and len(result.returns) == 2 * episodes
    assert result.metrics()[f"eval/return/{WIDE}"] == 16


def test_one_task_takes_its_place_among_those_an_agent_knows() -> None:
    layout = TaskLayout((Task("other", 6, 2, None), Task(WIDE, 4, 3, 40)), 6, 3)
    envs = make_envs(EnvConfig(id=WIDE), layout=layout)
    row = envs.reset()
    assert row["task"].tolist() == [1] and row["obs"].shape == (1, 6)
    assert (row["obs"][0, 4:] == 0).all()
    envs.close()
    with pytest.raises(ConfigurationError, match=f"env.id={NARROW}: the model does not know"):
        make_envs(EnvConfig(id=NARROW), layout=layout)
    small = TaskLayout((Task(WIDE, 2, 1, 40),), 2, 1)
    with pytest.raises(ConfigurationError, match="4 observations and 3 actions; the model takes"):
        make_envs(EnvConfig(id=WIDE), layout=small)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(tasks=IDS, id=NARROW), "id is tests/Narrow-v0 and tasks are given too"),
        (dict(tasks=(NARROW,)), "two or more different ids"),
        (dict(tasks=(NARROW, NARROW)), "two or more different ids"),
        (dict(tasks=IDS, obs="pixels"), "obs must be state with tasks"),
    ],
)
def test_wrong_task_lists_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        EnvConfig(**fields)


def test_tasks_that_cannot_be_joined_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="CartPole-v1 has no vector of continuous actions"):
        make_envs(EnvConfig(tasks=("Pendulum-v1", "CartPole-v1")))
    with pytest.raises(ConfigurationError, match="did you mean 'Pendulum-v1'"):
        make_envs(EnvConfig(tasks=(NARROW, "Pendulun-v1")))


def test_a_task_list_survives_a_manifest() -> None:
    assert EnvConfig.from_dict(BOTH.to_dict()) == BOTH
    assert BOTH.id == f"{NARROW}+{WIDE}"
