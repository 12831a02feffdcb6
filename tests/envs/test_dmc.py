"""DeepMind Control tasks, compared with dm_control itself."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest

from worldflux.config.env import EnvConfig
from worldflux.envs.dmc import find_task
from worldflux.envs.make import make_envs
from worldflux.envs.suites import choose_renderer
from worldflux.envs.vector import VectorEnv
from worldflux.errors import ConfigurationError, MissingDependencyError

TASKS = (
    ("ball_in_cup", "catch"),
    ("humanoid_CMU", "run"),
    ("point_mass", "easy"),
    ("walker", "run"),
    ("walker", "walk"),
)

try:
    choose_renderer()
    from dm_control import suite
except ImportError:
    suite = None
needs_dmc = pytest.mark.skipif(
    suite is None, reason="dm_control is not installed: pip install 'worldflux[dmc]'"
)
needs_egl = pytest.mark.skipif(
    os.environ.get("MUJOCO_GL") != "egl", reason="frames are drawn through EGL, which is not here"
)


def dmc(env_id: str, **fields: Any) -> EnvConfig:
    return EnvConfig(suite="dmc", id=env_id, **fields)


def as_published(env_id: str, **fields: Any) -> EnvConfig:
    """As TD-MPC2 counts."""
    return dmc(env_id, action_repeat=2, time_limit=500, flatten=True, **fields)


def test_without_dm_control_the_line_that_installs_it_is_told() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in sys.modules if n.split(".")[0] == "dm_control"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "dm_control", None)
        with pytest.raises(MissingDependencyError) as error:
            make_envs(dmc("walker-walk"))
    line = "env.id=walker-walk: dm_control is not installed; run: pip install 'worldflux[dmc]'"
    assert str(error.value) == line and error.value.exit_code == 2


@pytest.mark.parametrize(
    ("env_id", "task"),
    [
        ("walker-walk", ("walker", "walk")),
        ("walker_walk", ("walker", "walk")),
        ("cup-catch", ("ball_in_cup", "catch")),
        ("ball_in_cup-catch", ("ball_in_cup", "catch")),
        ("pointmass-easy", ("point_mass", "easy")),
        ("humanoid_cmu-run", ("humanoid_CMU", "run")),
    ],
)
def test_ids_name_a_domain_and_a_task(env_id: str, task: tuple[str, str]) -> None:
    assert find_task(env_id, TASKS) == task


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("walker-wlk", "did you mean 'walker-walk'?"),
        ("walker", "there are walker-run, walker-walk"),
        ("ALE/Pong-v5", "expected domain-task, for example walker-walk"),
    ],
)
def test_unknown_tasks_are_told_in_one_line(env_id: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"env.id={env_id}: no such DeepMind") as error:
        find_task(env_id, TASKS)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_settings_of_gymnasium_alone_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="noop_max has no meaning with suite dmc"):
        dmc("walker-walk", noop_max=3)


def direct(domain: str, task: str, envs: VectorEnv) -> Any:
    """dm_control's own environment in the very state in which `envs` begins its episode."""
    own = suite.load(domain, task, task_kwargs={"random": 0})
    seed = envs._envs.envs[0].env.unwrapped._np_random_seed  # type: ignore[union-attr]
    own.task._random = np.random.RandomState(seed)
    return own


def flat(observation: Any) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


@needs_dmc
def test_an_episode_is_dm_controls_own() -> None:
    envs = make_envs(dmc("walker-walk"), seed=5)
    shapes = {key: space.shape for key, space in envs.obs_spaces.items()}
    assert shapes == {"orientations": (14,), "height": (1,), "velocity": (9,)}
    row = envs.reset()
    own = direct("walker", "walk", envs)
    now = own.reset()
    rng = np.random.default_rng(0)
    for step in range(1, 1001):
        for key, value in now.observation.items():
            np.testing.assert_array_equal(row[key][0], np.atleast_1d(value).astype(np.float32))
        action = rng.uniform(-1, 1, (1, 6)).astype(np.float32)
        row, now = envs.step(action), own.step(action[0].astype(np.float64))
        assert row["reward"][0] == np.float32(now.reward)
        assert bool(row["is_last"][0]) == now.last() == (step == 1000)
        assert not row["is_terminal"].any()
    assert envs.step(action)["is_first"][0]
    envs.close()


@needs_dmc
def test_repeated_and_flattened_as_published() -> None:
    """quadruped's actuators have bounds of their own, to which [-1, 1] is rescaled."""
    envs = make_envs(as_published("quadruped-walk"), seed=2)
    row = envs.reset()
    own = direct("quadruped", "walk", envs)
    now = own.reset()
    spec = own.action_spec()
    np.testing.assert_array_equal(row["obs"][0], flat(now.observation))
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, (1, 12)).astype(np.float32)
        scaled = spec.minimum + (action[0].astype(np.float64) + 1) / 2 * (
            spec.maximum - spec.minimum
        )
        row = envs.step(action)
        reward = own.step(scaled).reward
        now = own.step(scaled)
        assert row["reward"][0] == pytest.approx(reward + now.reward, rel=1e-5)
        np.testing.assert_allclose(row["obs"][0], flat(now.observation), rtol=1e-4, atol=1e-4)
    envs.close()


@needs_dmc
def test_an_episode_has_500_decisions_and_is_truncated() -> None:
    envs = make_envs(as_published("cartpole-balance"))
    envs.reset()
    rows = [envs.step(np.zeros((1, 1), np.float32)) for _ in range(501)]
    last = [bool(row["is_last"][0]) for row in rows]
    assert last.index(True) == 499 and rows[500]["is_first"][0]
    assert not any(row["is_terminal"][0] for row in rows)
    assert envs.env_steps == 500
    envs.close()


@needs_dmc
@pytest.mark.parametrize("env_id", ["reacher-easy", "ball_in_cup-catch", "point_mass-hard"])
def test_seeds_decide_episodes(env_id: str) -> None:
    """Targets, bodies and even point_mass's wiring are drawn when an episode begins."""

    def walk(seed: int) -> np.ndarray:
        envs = make_envs(as_published(env_id, kwargs={}), num_envs=2, seed=seed)
        envs.reset()
        rng = np.random.default_rng(0)
        seen = []
        for _ in range(510):
            seen.append(envs.step(rng.uniform(-1, 1, (2, 2)).astype(np.float32))["obs"])
        envs.close()
        return np.stack(seen)

    one = walk(1)
    np.testing.assert_array_equal(one, walk(1))
    assert (one[0] != walk(2)[0]).any()
    assert (one[0, 0] != one[0, 1]).any()  # the environments differ
    assert (one[500, 0] != one[0, 0]).any()  # and the episodes


@needs_dmc
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_restored_task_goes_on_as_the_original(mode: str) -> None:
    config = as_published("walker-walk")
    original = make_envs(config, num_envs=2, mode=mode, seed=7)
    rng = np.random.default_rng(2)
    original.reset()
    for _ in range(530):
        original.step(rng.uniform(-1, 1, (2, 6)).astype(np.float32))
    restored = make_envs(config, num_envs=2, seed=99)
    assert restored.load_state_dict(original.state_dict()).all()
    for _ in range(20):
        actions = rng.uniform(-1, 1, (2, 6)).astype(np.float32)
        one, other = original.step(actions), restored.step(actions)
        for key, value in one.items():
            np.testing.assert_array_equal(other[key], value)
    original.close()
    restored.close()


@needs_dmc
@needs_egl
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_pixels_are_the_published_stack(mode: str) -> None:
    config = as_published("quadruped-walk", obs="pixels", image_size=(64, 64), frame_stack=3)
    envs = make_envs(config, num_envs=2, mode=mode, seed=3)
    assert {key: space.shape for key, space in envs.obs_spaces.items()} == {"obs": (9, 64, 64)}
    first = envs.reset()["obs"].copy()
    second = envs.step(np.ones((2, 12), np.float32))["obs"].copy()
    envs.close()
    assert (first[:, :3] == first[:, 6:]).all() and first.std() > 10
    np.testing.assert_array_equal(second[:, :6], first[:, 3:])
    assert (second[:, 6:] != first[:, 6:]).any()
    if mode == "sync":
        own = direct("quadruped", "walk", envs)
        own.reset()
        frame = own.physics.render(64, 64, camera_id=2).transpose(2, 0, 1)
        np.testing.assert_array_equal(first[0, 6:], frame)


@needs_dmc
@needs_egl
def test_video_frames_and_cheaper_pictures() -> None:
    envs = make_envs(dmc("cheetah-run"), render=True)
    envs.reset()
    frame = envs.render()
    assert frame is not None and frame.shape == (240, 320, 3) and frame.std() > 10
    envs.close()
    pictures = []
    for shadows in (True, False):
        config = dmc("cheetah-run", obs="pixels", image_size=(64, 64), kwargs={"shadows": shadows})
        envs = make_envs(config)
        pictures.append(envs.reset()["obs"].astype(float))
        envs.close()
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 10


@needs_dmc
def test_wrong_arguments_name_their_key() -> None:
    with pytest.raises(ConfigurationError, match=r"env\.kwargs=.*'shadow'"):
        make_envs(dmc("cheetah-run", kwargs={"shadow": False}))
    with pytest.raises(ConfigurationError, match=r"env\.kwargs\.camera must be -1 \(free\) to 1"):
        make_envs(dmc("cheetah-run", kwargs={"camera": 7}))
    with pytest.raises(ConfigurationError, match="did you mean 'cheetah-run'"):
        make_envs(dmc("cheeta-run"))


@needs_dmc
def test_a_mujoco_that_breaks_dm_control_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")

    monkeypatch.setattr(suite, "load", load)
    with pytest.raises(MissingDependencyError, match=r"mujoco .*pip install 'worldflux\[dmc\]'"):
        make_envs(dmc("cheetah-run"))


@needs_dmc
def test_every_task_of_the_suite_can_be_learned_from() -> None:
    for domain, task in [("dog", "run"), ("stacker", "stack_2"), ("humanoid_CMU", "run")]:
        envs = make_envs(as_published(f"{domain}-{task}"))
        obs = envs.reset()["obs"]
        assert obs.shape[1] > 20 and np.isfinite(obs).all()
        envs.close()
