"""Making environments: ids, arguments, preprocessing, and how failures are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces as gs

from worldflux.config.env import EnvConfig
from worldflux.envs.make import make_envs
from worldflux.errors import ConfigurationError, MissingDependencyError, TrainingError

COUNTING = "tests.envs.counting:Counting-v0"
STAY = np.eye(3, dtype=np.float32)[:1]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'?"),
        ("CartPole-v9", "did you mean 'CartPole-v1'?"),
        ("cartpole-V1", "'CartPole-v1'"),
        ("Zzzzzzzz-v0", "env.import"),
        ("no_such_module:Foo-v0", "cannot import module 'no_such_module'"),
    ],
)
def test_an_unknown_id_is_told_in_one_line(env_id: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_envs(EnvConfig(id=env_id))
    assert env_id in one_line(error) and said in one_line(error)
    assert error.value.exit_code == 2


def test_missing_packages_come_with_the_line_that_installs_them() -> None:
    for module, env_id, extra in [
        ("ale_py", "ALE/Pong-v5", "atari"),
        ("minigrid", "MiniGrid-Empty-8x8-v0", "minigrid"),
        ("Box2D", "LunarLander-v3", "box2d"),
        ("mujoco", "HalfCheetah-v5", "mujoco"),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in sys.modules if name.split(".")[0] == module]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, module, None)
            for name in [name for name in sys.modules if name.startswith("gymnasium.envs.")]:
                if name.split(".")[2] in ("box2d", "mujoco"):
                    patch.delitem(sys.modules, name)
            with pytest.raises(MissingDependencyError) as error:
                make_envs(EnvConfig(id=env_id))
        assert f"pip install 'worldflux[{extra}]'" in one_line(error)


def test_a_users_package_registers_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_robots.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyRobot-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError):
        make_envs(EnvConfig(id="MyRobot-v0"))
    envs = make_envs(EnvConfig(id="MyRobot-v0", import_module="my_robots"), mode="async")
    assert envs.obs_spaces["obs"].shape == (3,)
    envs.close()
    with pytest.raises(ConfigurationError, match=r"env\.import=my_robotz: No module named"):
        make_envs(EnvConfig(id="MyRobot-v0", import_module="my_robotz"))


def test_wrong_arguments_and_failing_constructors_name_the_key() -> None:
    with pytest.raises(ConfigurationError, match=r"env\.kwargs=.*'lenght'") as error:
        make_envs(EnvConfig(id=COUNTING, kwargs={"lenght": 3}))
    one_line(error)
    with pytest.raises(ConfigurationError, match="cannot be made: RuntimeError: no licence"):
        make_envs(EnvConfig(id=COUNTING, kwargs={"fail_to_make": True}))
    with pytest.raises(ConfigurationError, match="env_mode='threads'"):
        make_envs(EnvConfig(), mode="threads")
    with pytest.raises(ConfigurationError, match="num_envs=0"):
        make_envs(EnvConfig(), num_envs=0)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_environment_that_raises_is_named_with_its_step(
    mode: str, recwarn: pytest.WarningsRecorder
) -> None:
    envs = make_envs(EnvConfig(id=COUNTING, kwargs={"fail_at": 3}), num_envs=2, mode=mode)
    envs.reset()
    actions = np.repeat(STAY, 2, 0)
    envs.step(actions)
    envs.step(actions)
    with pytest.raises(TrainingError) as error:
        envs.step(actions)
    text = one_line(error)
    assert COUNTING in text and "after 4 environment steps" in text
    assert "ValueError: the robot fell over" in text and "counting.py:" in text
    assert error.value.exit_code == 3
    assert not [w for w in recwarn if "Worker" in str(w.message)]
    envs.close()
    envs.close()


def test_a_worker_process_that_dies_is_told() -> None:
    kwargs = {"fail_at": 2, "die": True}
    envs = make_envs(EnvConfig(id=COUNTING, kwargs=kwargs), num_envs=2, mode="async")
    envs.reset()
    envs.step(np.repeat(STAY, 2, 0))
    with pytest.raises(TrainingError, match="its process died"):
        envs.step(np.repeat(STAY, 2, 0))
    envs.close()


def test_a_stop_signal_to_the_whole_group_leaves_the_workers_at_work() -> None:
    """The trainer answers it by finishing its update, for which it needs them."""
    envs = make_envs(EnvConfig(id=COUNTING), num_envs=2, mode="async")
    envs.reset()
    for process in envs._envs.processes:  # type: ignore[union-attr]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(process.pid, number)  # type: ignore[arg-type]
    time.sleep(0.1)
    assert (envs.step(np.repeat(STAY, 2, 0))["obs"][:, 1] == 1).all()
    envs.close()
    assert not any(process.is_alive() for process in envs._envs.processes)  # type: ignore[union-attr]


def test_a_program_that_forgets_to_close_still_ends() -> None:
    text = (
        "from worldflux.config.env import EnvConfig\n"
        "from worldflux.envs.make import make_envs\n"
        "if __name__ == '__main__':\n"
        "    envs = make_envs(EnvConfig(), num_envs=2, mode='async')\n"
        "    envs.reset()\n"
        "    raise RuntimeError('unforeseen')\n"
    )
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, timeout=240)
    assert ended.returncode == 1 and b"unforeseen" in ended.stderr


def test_actions_of_a_wrong_shape_are_refused() -> None:
    envs = make_envs(EnvConfig())
    envs.reset()
    with pytest.raises(TrainingError, match=r"\(1, 3\), expected \(1, 2\)"):
        envs.step(STAY)
    envs.close()


def test_action_repeat_sums_rewards_and_stops_at_the_end() -> None:
    config = EnvConfig(id=COUNTING, kwargs={"length": 7}, action_repeat=3)
    envs = make_envs(config)
    envs.reset()
    seen = [envs.step(STAY) for _ in range(4)]
    envs.close()
    assert [row["reward"][0] for row in seen] == [1 + 2 + 3, 4 + 5 + 6, 7, 0]
    assert [row["obs"][0, 1] for row in seen] == [3, 6, 7, 0]
    assert [bool(row["is_last"][0]) for row in seen] == [False, False, True, False]
    assert envs.env_steps == 3  # the reset row is none


def test_time_limit_counts_agent_steps() -> None:
    config = EnvConfig(id=COUNTING, kwargs={"length": 99}, action_repeat=3, time_limit=2)
    envs = make_envs(config)
    envs.reset()
    seen = [envs.step(STAY) for _ in range(3)]
    envs.close()
    assert [bool(row["is_last"][0]) for row in seen] == [False, True, False]
    assert seen[1]["obs"][0, 1] == 6


def test_rewards_are_clipped_to_their_sign_but_told_raw() -> None:
    config = EnvConfig(id="tests.envs.counting:Flicker-v0", action_repeat=2, clip_reward=True)
    envs = make_envs(config)
    envs.reset()
    row = envs.step(STAY[:, :2])
    assert row["reward"][0] == -1 and envs.raw_reward[0] == -5
    envs.close()


@pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array'")
def test_frame_pool_removes_flicker_and_noops_vary_the_start() -> None:
    flicker = "tests.envs.counting:Flicker-v0"
    plain = make_envs(EnvConfig(id=flicker, action_repeat=4))
    pooled = make_envs(EnvConfig(id=flicker, action_repeat=4, frame_pool=2))
    for envs, brightest in ((plain, 0), (pooled, 3)):
        envs.reset()
        assert envs.step(STAY[:, :2])["obs"].max() == brightest
        envs.close()
    config = EnvConfig(id=COUNTING, kwargs={"length": 50}, noop_max=8, obs="pixels")
    envs, again = make_envs(config, num_envs=20), make_envs(config, num_envs=20)
    starts = envs.reset()["obs"].max(axis=(1, 2, 3))  # frames show how many steps were taken
    np.testing.assert_array_equal(starts, again.reset()["obs"].max(axis=(1, 2, 3)))
    assert starts.min() < 2 and 6 < starts.max() <= 8
    envs.close()
    again.close()


@pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array'")
def test_pixels_are_render_frames() -> None:
    config = EnvConfig(id=COUNTING, obs="pixels", image_size=(32, 32))
    for mode in ("sync", "async"):
        envs = make_envs(config, num_envs=2, mode=mode)
        assert envs.reset()["obs"].shape == (2, 3, 32, 32)
        assert (envs.step(np.repeat(STAY, 2, 0))["obs"] == 1).all()
        envs.close()
    blind = {"observation_space": gs.Discrete(2), "observation": 0}
    with pytest.raises(ConfigurationError, match=r"env\.obs=pixels"):
        make_envs(EnvConfig(id="tests.envs.counting:Showing-v0", obs="pixels", kwargs=blind))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_render_gives_a_frame_of_the_first_environment(mode: str) -> None:
    envs = make_envs(EnvConfig(id=COUNTING), num_envs=2, mode=mode, render=True)
    envs.reset()
    envs.step(np.repeat(STAY, 2, 0))
    frame = envs.render()
    assert frame is not None and frame.shape == (40, 60, 3) and (frame == 1).all()
    envs.close()
    silent = make_envs(EnvConfig(id=COUNTING), mode=mode)
    silent.reset()
    assert silent.render() is None
    silent.close()
