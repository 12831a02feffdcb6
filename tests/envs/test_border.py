"""Odd environments: what they return or raise is one line, and nothing of it is learned."""

from __future__ import annotations

import logging
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldflux.config.composition import composed
from worldflux.config.env import EnvConfig
from worldflux.core.math import symexp_bins, symlog_two_hot, two_hot
from worldflux.envs.make import make_envs
from worldflux.envs.spaces import ActionDecoder
from worldflux.errors import ConfigurationError, TrainingError
from worldflux.training.bookkeeping import Bookkeeping

ODD = "tests.envs.test_border:Odd-v0"
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (64, 64, 3), np.uint8)
UNIT_PICTURE = spaces.Box(0, 1, (64, 64, 3), np.float32)
PLANES = spaces.Box(0, 1, (16, 16, 4), np.uint8)
FRAME = np.zeros((64, 64, 3), np.uint8)
CASES: dict[str, tuple[spaces.Space[Any], Any]] = {
    "nan": (VECTOR, np.array([0, np.nan, 0], np.float32)),
    "inf": (VECTOR, np.array([0, 0, np.inf], np.float32)),
    "float64": (VECTOR, np.full(3, 1e300)),
    "shape": (VECTOR, np.zeros(4, np.float32)),
    "dict": (VECTOR, {"position": 1}),
    "object": (VECTOR, [None, 1.0, 2.0]),
    "range": (spaces.Discrete(5), 5),
    "start": (spaces.Discrete(5, start=1), 0),
    "multi": (spaces.MultiDiscrete([2, 3]), np.array([0, 3])),
    "half": (spaces.Discrete(5), 1.5),
    "rgba": (PICTURE, np.zeros((64, 64, 4), np.uint8)),
    "fractions": (PICTURE, FRAME + 0.5),
    "scale": (UNIT_PICTURE, FRAME + np.uint8(128)),
    "missing": (spaces.Dict(x=VECTOR, y=VECTOR), {"x": np.zeros(3, np.float32)}),
}
FINE: dict[str, tuple[spaces.Space[Any], Any, Any]] = {
    "array": (spaces.Discrete(5), np.array([2]), 2),
    "list": (VECTOR, [1, 2, 3], 1.0),
    "ints": (VECTOR, np.array([1, 2, 3]), 1.0),
    "planes": (PLANES, np.ones((16, 16, 4), np.uint8), 255),
}
REWARDS = {"nan": np.nan, "inf": np.inf, "large": 1e39, "none": None, "two": np.zeros(2)}


class Odd(gym.Env[Any, Any]):
    """Does at step 3 of an episode what `fault` names."""

    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, fault: str = "", value: str = "", render_mode: str | None = None) -> None:
        self.fault, self.value, self.render_mode = fault, value, render_mode
        self.observation_space, self.fine = VECTOR, np.zeros(3, np.float32)
        if fault in ("observation", "fine"):
            cases: Any = CASES if fault == "observation" else FINE
            self.observation_space = cases[value][0]
            self.fine = self.observation_space.sample()
        if fault == "make":
            sys.exit(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        if self.fault == "reset":
            sys.exit(0)
        if self.fault == "global":
            return np.random.uniform(size=3).astype(np.float32), {}
        return self.fine, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        obs, reward = self.fine, 1.0
        if self.steps == 3:
            if self.fault == "interrupt":
                raise KeyboardInterrupt
            if self.fault == "exit":
                sys.exit(0)
            if self.fault == "old":
                return obs, reward, False, {}
            obs = CASES[self.value][1] if self.fault == "observation" else obs
            obs = FINE[self.value][1] if self.fault == "fine" else obs
            reward = REWARDS[self.value] if self.fault == "reward" else reward
            flag = float("nan") if self.fault == "flag" else np.int64(0)
            return obs, np.array([reward]) if self.fault == "fine" else reward, flag, False, {}
        return obs, reward, False, False, {}

    def close(self) -> None:
        if self.fault == "close":
            raise RuntimeError("viewer already destroyed")


class Reused(Odd):
    """Writes each picture into the same array."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (1, 64, 64), np.uint8)
        self.buffer = np.zeros((1, 64, 64), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.buffer[...] = 1
        return self.buffer, {}

    def step(self, action: Any) -> Any:
        self.buffer += 1
        return self.buffer, 0.0, False, False, {}


gym.register("Odd-v0", Odd, disable_env_checker=True)
gym.register("Reused-v0", Reused, disable_env_checker=True)
gym.register("InnerLimit-v0", lambda: gym.wrappers.TimeLimit(Odd(), 50))


def third_step(mode: str = "sync", **kwargs: Any) -> Any:
    envs = make_envs(EnvConfig(id=ODD, kwargs=kwargs), mode=mode)
    try:
        envs.reset()
        for _ in range(2):
            envs.step(np.eye(2, dtype=np.float32)[[0]])
        return envs.step(np.eye(2, dtype=np.float32)[[0]])
    finally:
        envs.close()


@pytest.mark.parametrize("value", CASES)
def test_a_wrong_observation_is_named(value: str) -> None:
    key = "'y'" if value == "missing" else "'obs'"
    with pytest.raises(TrainingError, match=rf"observation {key} .*step 3 of its episode") as error:
        third_step(fault="observation", value=value)
    assert ODD in str(error.value) and "after 2 environment steps" in str(error.value)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("value", FINE)
def test_other_forms_of_the_same_value_are_taken(value: str) -> None:
    row = third_step(fault="fine", value=value)
    assert row["obs"].reshape(-1)[0] == FINE[value][2] and row["reward"] == 1.0


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("value", REWARDS)
def test_a_reward_that_is_no_finite_number_is_named(value: str, mode: str) -> None:
    with pytest.raises(TrainingError, match=r"reward is .*step 3 of its episode"):
        third_step(mode, fault="reward", value=value)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "line"),
    [("exit", "SystemExit: 0"), ("reset", "SystemExit: 0"), ("old", "old gym API")],
)
def test_foreign_code_ends_in_one_line(fault: str, line: str, mode: str) -> None:
    with pytest.raises(TrainingError, match=line):
        third_step(mode, fault=fault)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_interrupt_in_an_environment_is_one_of_the_run(mode: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        third_step(mode, fault="interrupt")


def test_a_flag_is_true_or_false() -> None:
    with pytest.raises(TrainingError, match="terminated is nan"):
        third_step(fault="flag")


def test_an_exit_while_being_made_is_a_wrong_environment() -> None:
    with pytest.raises(ConfigurationError, match="cannot be made: SystemExit: 0"):
        third_step(fault="make")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_close_that_fails_is_a_warning(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert third_step(mode, fault="close")["reward"] == 1.0
    assert (
        "viewer already destroyed" in caplog.text
    )  # of the one that is looked at, in this process


def test_a_reused_array_is_copied() -> None:
    envs = make_envs(EnvConfig(id="tests.envs.test_border:Reused-v0", frame_stack=3))
    envs.reset()
    for _ in range(4):
        row = envs.step(np.eye(2, dtype=np.float32)[[0]])
    assert row["obs"][0, :, 0, 0].tolist() == [3, 4, 5]
    envs.close()


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("Pendulum-v1", 200),
        ("Pendulum", 200),
        ("gymnasium.envs.classic_control:Pendulum-v1", 200),
        ("tests.envs.test_border:InnerLimit-v0", 50),
        (ODD, None),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_made_environment_knows_its_limit(name: str, length: int | None) -> None:
    envs = make_envs(EnvConfig(id=name))
    assert envs.episode_length == length
    envs.close()


def test_each_process_has_random_streams_of_its_own() -> None:
    envs = make_envs(EnvConfig(id=ODD, kwargs={"fault": "global"}), num_envs=3, mode="async")
    assert len(np.unique(envs.reset()["obs"][:, 0])) == 3
    envs.close()


def test_bounds_without_end_leave_the_whole_range_of_the_agent() -> None:
    large = np.finfo(np.float32).max
    space = spaces.Box(
        np.array([-large, 0, -np.inf, -2], np.float32), np.array([large, np.inf, 3, 4], np.float32)
    )
    decode = ActionDecoder(space)
    np.testing.assert_allclose(decode(np.full(4, -1, np.float32)), [-1, 0, 1, -2])
    np.testing.assert_allclose(decode(np.full(4, 1, np.float32)), [1, 2, 3, 4])
    assert "not bounded on both sides" in decode.ranges["action"]


def test_two_hot_codes_propagate_nan_and_saturate() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for code in (two_hot(x, symexp_bins(255)), symlog_two_hot(x, torch.linspace(-10, 10, 101))):
        assert code[0].isnan().all()
        assert code[1, -1] == 1 and code[2, 0] == 1 and code[1:].sum() == 2


def test_a_score_that_is_not_finite_is_never_the_best() -> None:
    books = Bookkeeping()
    for step, score in enumerate((float("nan"), 5.0, float("inf"), 100.0, float("nan"))):
        books.state.global_step = step
        books.note_score(score)
    assert (books.state.best_step, books.state.best_score) == (3, 100.0)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], (True, 475.0)),
        (["env.id=Acrobot-v1"], (False, None)),
        (["env.id=Acrobot-v1", "env.solved_return=-100"], (False, -100.0)),
        (["env.id=gymnasium:CartPole-v1"], (True, 475.0)),
    ],
)
def test_facts_of_a_task_leave_with_it(words: list[str], facts: tuple[bool, float | None]) -> None:
    env = composed(words).env
    assert (env.terminates, env.solved_return) == facts
