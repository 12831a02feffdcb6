"""Environments with room, seeds or patience for few."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.data.gym_source import GymSource
from worldflux.data.sources import Sequences
from worldflux.envs import vector, waiting
from worldflux.envs.make import make_envs
from worldflux.envs.vector import VectorEnv
from worldflux.errors import ConfigurationError, TrainingError
from worldflux.training import signals
from worldflux.training.evaluate import GreedyEvaluator
from worldflux.training.signals import StopSignals


def lives(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


class Narrow(gym.Env[Any, Any]):
    """room: a folder with a file for each living copy, of which there may be `most`. seeds: those it
    takes. hang: the step that never ends. endless: no episode does."""

    observation_space = spaces.Box(-1, 1e6, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(
        self,
        room: str = "",
        most: int = 1,
        seeds: tuple[int, ...] | None = None,
        hang: int = -1,
        endless: bool = False,
    ) -> None:
        self.file = Path(room, f"{os.getpid()}-{id(self)}") if room else None
        if self.file is not None:
            if sum(lives(int(file.name.split("-")[0])) for file in Path(room).iterdir()) >= most:
                raise RuntimeError("no licence left")
            self.file.touch()
        self.accepted, self.hang, self.endless = seeds, hang, endless

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None and self.accepted is not None and seed not in self.accepted:
            raise ValueError(f"seed {seed} is no scenario")
        self.steps = 0
        return np.float32([-1 if seed is None else seed]), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == self.hang:
            time.sleep(60)
        return np.float32([0]), 1.0, False, self.steps == 5 and not self.endless, {}

    def close(self) -> None:
        if self.file is not None:
            self.file.unlink(missing_ok=True)


gym.register("Narrow-v0", entry_point=Narrow, disable_env_checker=True)


class Still:
    """Does nothing, in any number of environments."""

    def initial_carry(self, n: int) -> dict[str, Any]:
        return {}

    def act(self, carry: Any, obs: Any, explore: bool) -> Any:
        return carry, np.zeros((len(obs["is_first"]), 2), np.float32), {}


def config(**kwargs: Any) -> EnvConfig:
    fields = {key: kwargs.pop(key) for key in ("seeds_", "call_timeout") if key in kwargs}
    if "seeds_" in fields:
        fields["seeds"] = fields.pop("seeds_")
    return EnvConfig(id="tests.envs.test_limits:Narrow-v0", kwargs=kwargs, **fields)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_simulator_that_allows_few_is_evaluated_in_few(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = make_envs(config(room=str(tmp_path), most=3))
    evaluator = GreedyEvaluator(config(room=str(tmp_path), most=3), episodes=4, mode=mode)
    try:
        for _ in range(2):
            result = evaluator(Still(), 0)
            assert result is not None and result.returns == [5.0] * 4
        assert caplog.text.count("cannot be made (") == 1
    finally:
        training.close()
    assert multiprocessing.active_children() == []


def gym_source(envs: VectorEnv) -> GymSource:
    sequences = Sequences(
        obs_spaces=envs.obs_spaces,
        action_spaces=envs.action_spaces,
        entry_spaces={},
        batch_size=1,
        sequence_length=4,
        replay_context=0,
        seed=0,
    )
    return GymSource(envs, DataConfig(prefill_steps=7, train_ratio=1), sequences)


@pytest.mark.parametrize(("mode", "copies"), [("sync", None), ("async", 0)])
def test_a_simulator_with_room_for_one_is_evaluated_in_that_one(
    mode: str, copies: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The training's own episode goes on after it, as if nothing had been."""
    room = {"room": str(tmp_path), "most": 1}
    expected = []
    for evaluated in (False, True):
        envs = make_envs(config(**room), mode=mode, seed=3)
        source = gym_source(envs)
        source.collector.collect(None, 7)
        if evaluated:
            evaluator = GreedyEvaluator(config(**room), 4, mode, copies=copies, borrow=source.lent)
            for _ in range(2):
                result = evaluator(Still(), 0)
                assert result is not None and result.returns == [5.0] * 4
        rest = source.collector.collect(None, 9)
        rows = [source.replay.sample(1)["reward"], envs.last["obs"], envs.env_steps]
        expected.append(([(e.return_, e.length, e.env_steps) for e in rest], rows))
        source.close()
    np.testing.assert_equal(expected[0], expected[1])
    assert caplog.text.count("plays in the environments of the training") == (copies is None)
    assert source.degraded_modes == []


def test_of_an_episode_beyond_all_bounds_no_actions_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vector, "MOST_ACTIONS", 100)
    envs = make_envs(config(endless=True), num_envs=2)
    envs.reset()
    for _ in range(100):
        envs.step(np.zeros((2, 2), np.float32))
    whole = envs.state_dict()
    assert whole["actions"]["1"].shape == (100, 2)
    assert envs.load_state_dict(whole).all()
    envs.step(np.zeros((2, 2), np.float32))
    beyond = envs.state_dict()
    assert beyond["actions"]["1"].shape == (0, 2)
    assert not envs.load_state_dict(beyond).any()
    envs.close()


def test_a_number_that_was_set_is_kept(tmp_path: Path) -> None:
    room = {"room": str(tmp_path), "most": 1}
    assert GreedyEvaluator(config(**room), episodes=4, copies=1)(Still(), 0) is not None
    with pytest.raises(TrainingError, match=r"evaluation: env\.id=.*no licence left"):
        GreedyEvaluator(config(**room), episodes=4, copies=2)(Still(), 0)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_of_evaluation_is_cut() -> None:
    evaluator = GreedyEvaluator(config(endless=True), episodes=3, copies=2, time_limit=7)
    result = evaluator(Still(), 0)
    assert result is not None
    assert (result.returns, result.lengths) == ([7.0] * 3, [7] * 3)


def first_seeds(seeds: Any, count: int = 12) -> list[int]:
    accepted = None if seeds is None else tuple(seeds)
    envs = make_envs(config(seeds=accepted, seeds_=seeds), num_envs=count)
    seen = envs.reset()["obs"][:, 0].astype(int).tolist()
    envs.close()
    return seen


def test_an_environment_gets_the_seeds_that_it_takes() -> None:
    seen = first_seeds((3, 7))
    assert set(seen) == {3, 7} and seen == first_seeds((3, 7))
    assert set(first_seeds(())) == {-1}
    with pytest.raises(TrainingError, match=r"seed \d+ is no scenario"):
        make_envs(config(seeds=(1,))).reset()
    with pytest.raises(ConfigurationError, match="seeds"):
        config(seeds_=(-1,))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_call_that_takes_too_long_ends_and_names_the_copy(mode: str) -> None:
    envs = make_envs(config(hang=2, call_timeout=1.0), num_envs=2, mode=mode)
    act = np.zeros((2, 2), np.float32)
    envs.reset()
    envs.step(act)
    which = " of copy 0, 1" if mode == "async" else ""
    text = rf"env\.call_timeout=1 s{which}$"
    with pytest.raises(TrainingError, match=text):
        envs.step(act)
    envs.close()


def hanging(envs: VectorEnv, *received: signal.Signals) -> None:
    """Steps into a call that hangs, and gets signals meanwhile."""

    def send() -> None:
        for number in received:
            time.sleep(0.3)
            os.kill(os.getpid(), number)

    act = np.zeros((1, 2), np.float32)
    envs.reset()
    thread = threading.Thread(target=send)
    thread.start()
    try:
        envs.step(act)
    finally:
        thread.join()
        envs.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("ctrl_c")
def test_a_second_signal_ends_a_call_that_hangs(
    mode: str,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(signals, "HANGS", 0.2)
    stop = StopSignals()
    with stop.catching(), pytest.raises(KeyboardInterrupt):
        hanging(make_envs(config(hang=1), mode=mode), number, number)
    assert stop.received == number
    assert capfd.readouterr().err.count(f"{number.name}: stopping after this update") == 1


def test_a_second_signal_does_not_end_what_does_not_hang() -> None:
    stop = StopSignals()
    with stop.catching():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received == signal.SIGTERM and waiting.longest() == 0


def test_a_module_of_this_folder_is_imported_and_another_one_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    line = "import gymnasium; gymnasium.register('My-v0', 'gymnasium.envs.classic_control:CartPoleEnv')"
    for name in ("my_env", "my_other"):
        Path(f"{name}.py").write_text(line.replace("My", name))
    for fields in (
        {"import_module": "my_env", "id": "my_env-v0"},
        {"id": "my_other:my_other-v0"},
    ):
        make_envs(EnvConfig(**fields)).close()
    places = rf"the current folder \({tmp_path}\), PYTHONPATH \(/some/where\) and the installed"
    for fields in ({"import_module": "not_mine"}, {"id": "not_mine:My-v0"}):
        with pytest.raises(ConfigurationError, match=places):
            make_envs(EnvConfig(**fields))
