"""A policy acts in environments that others step, as `worldflux eval` plays it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs
from gymnasium.vector import AutoresetMode

import worldflux
from tests.cli.conftest import folder  # noqa: F401
from worldflux.config.env import EnvConfig
from worldflux.envs.border import Border
from worldflux.envs.wrappers import episode_seed
from worldflux.errors import ConfigurationError, ValidationError
from worldflux.runner.policy import Policy
from worldflux.runner.trained import open_trained

SMALL: dict[str, Any] = dict(num_samples=16, num_elites=4, num_pi_trajs=2, iterations=2)


def save(name: str, preset: str, **fields: Any) -> str:
    if preset.startswith("dreamerv3"):
        fields["actor_critic"] = True
    worldflux.create_world_model(preset, **fields).save_pretrained(name)
    return name


def played(policy: Policy, seed: int) -> float:
    """The return of an episode in the environment that the policy makes."""
    env = policy.make_env()
    observation, _ = env.reset(seed=episode_seed(seed, 0, 1))
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        total, ended = total + float(reward), terminated or truncated
    env.close()
    return total


CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "discrete": (
        "dreamerv3:ci",
        dict(obs_shape=(4,), action_dim=2, action_type="discrete"),
        ["env.id=CartPole-v1"],
    ),
    "planned": (
        "tdmpc2:ci",
        dict(obs_shape=(3,), action_dim=1, **SMALL),
        ["env=pendulum", "env.time_limit=9", "env.action_repeat=2"],
    ),
    "stacked pictures": (
        "dreamerv3:ci",
        dict(obs_shape=(6, 16, 16), action_dim=1),
        ["env=pixels", "env.id=Pendulum-v1", "env.time_limit=5", "env.frame_stack=2"]
        + ["env.image_size=[16,16]"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_plays_what_eval_plays(case: str, folder: Path) -> None:  # noqa: F811
    preset, fields, words = CASES[case]
    if case == "stacked pictures":
        pytest.importorskip("pygame")
    save("model", preset, **fields)
    run = open_trained(Path("model"), "best", words)
    expected = run.evaluator(1)(run.agent("cpu"), 7)
    assert expected is not None
    policy = worldflux.load_policy("model", *words, device="cpu", seed=7)
    assert played(policy, 7) == pytest.approx(expected.returns[0], rel=1e-5)


def test_a_joined_observation_of_the_control_suite(folder: Path) -> None:  # noqa: F811
    pytest.importorskip("dm_control")
    words = ["env=dmc", "env.id=cartpole-swingup", "env.time_limit=6"]
    save("model", "tdmpc2:ci", obs_shape=(5,), action_dim=1, **SMALL)
    run = open_trained(Path("model"), "best", words)
    expected = run.evaluator(1)(run.agent("cpu"), 3)
    assert expected is not None
    policy = worldflux.load_policy("model", *words, device="cpu", seed=3)
    assert played(policy, 3) == pytest.approx(expected.returns[0], rel=1e-5)
    parts = {"position": np.zeros(3), "velocity": np.zeros(2)}
    again = worldflux.load_policy("model", *words, device="cpu", seed=3)
    policy = worldflux.load_policy("model", *words, device="cpu", seed=3)
    assert again.act(parts) == policy.act(np.zeros(5, np.float32))


def test_a_run_acts_in_a_plain_environment_alone_and_in_a_batch(trained: worldflux.Run) -> None:
    policy = worldflux.load_policy(trained)
    env = gym.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    action = policy.act(observation)
    assert env.action_space.contains(action) and policy.action_space == env.action_space
    assert policy.observation_space == env.observation_space
    assert policy.make_env().spec.id == "Pendulum-v1"
    with pytest.raises(ValidationError, match=r"2 observations.*are 1: reset\(\) first"):
        policy.act(np.stack([observation] * 2))
    policy.reset()
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    envs = gym.make_vec("Pendulum-v1", num_envs=2, vector_kwargs=same_step)
    observations, _ = envs.reset(seed=0)
    ended = np.ones(2, bool)
    for _ in range(3):
        actions = policy.act(observations, is_first=ended)
        assert envs.action_space.contains(actions)
        observations, _, terminated, truncated, _ = envs.step(actions)
        ended = terminated | truncated


def test_exploring_samples_what_greedy_acting_does_not(folder: Path) -> None:  # noqa: F811
    save("model", "dreamerv3:ci", obs_shape=(3,), action_dim=1)
    observation = np.zeros(3, np.float32)
    greedy, again = (worldflux.load_policy("model", seed=0).act(observation) for _ in range(2))
    sampled = worldflux.load_policy("model", seed=0).act(observation, explore=True)
    assert greedy == again != sampled


# === Beside an agent ============================================================================


class Recorder:
    """An agent that notes what it is shown and acts by fixed flat actions."""

    def __init__(self, flat: list[list[float]]) -> None:
        self.flat, self.seen = np.array(flat, np.float32), []

    def initial_carry(self, n: int) -> dict[str, Any]:
        return {"n": n, "calls": 0}

    def act(self, carry: Any, obs: Mapping[str, np.ndarray], explore: bool) -> Any:
        self.seen.append((carry, obs, explore))
        return {**carry, "calls": carry["calls"] + 1}, self.flat, {}


class Odd(gym.Env[Any, Any]):
    """Several observations, of which one is a text, and named actions."""

    observation_space = gs.Dict(
        {"count": gs.Discrete(5, start=1), "place": gs.Box(-1, 1, (2,)), "name": gs.Text(4)}
    )
    action_space = gs.Dict({"turn": gs.Discrete(3, start=-1), "push": gs.Box(0.0, 4.0, (1,))})

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}


def test_named_observations_and_actions_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", Odd))
    env = EnvConfig(id="Odd-v0")
    agent = Recorder([[0.5, 0, 1, 0], [-1, 1, 0, 0]])  # push, then turn one-hot
    policy = Policy(agent, Border.of_env(env), env)  # type: ignore[arg-type]
    place = np.array([[0.1, 0.2], [0.3, 0.4]])
    observation = {"count": np.array([1, 5]), "place": place, "name": ("a", "b")}
    actions = policy.act(observation)
    assert actions["push"].tolist() == [[3.0], [0.0]]
    assert actions["turn"].tolist() == [0, -1]
    _, obs, _ = agent.seen[0]
    assert obs["count"].tolist() == [0, 4] and np.allclose(obs["place"], place)
    assert obs["is_first"].tolist() == [True, True]
    policy.act(observation, is_first=[False, True], explore=True)
    carry, obs, explore = agent.seen[1]
    assert (carry["calls"], explore, obs["is_first"].tolist()) == (1, True, [False, True])
    policy.act(observation)
    assert agent.seen[2][1]["is_first"].tolist() == [False, False]
    policy.reset()
    agent.flat = agent.flat[:1]
    one = policy.act({"count": 3, "place": [0.0, 0.0], "name": "a"})
    assert one == {"push": np.array([3.0], np.float32), "turn": 0}
    assert agent.seen[3][0] == {"n": 1, "calls": 0}


@pytest.mark.parametrize(
    ("observation", "is_first", "line"),
    [
        ({"place": [0, 0], "name": "a"}, None, "observation 'count' is missing"),
        ({"count": 9, "place": [0, 0], "name": "a"}, None, "observation 'count'"),
        ({"count": 1, "place": [0, np.nan], "name": "a"}, None, "observation 'place'"),
        ({"count": 1, "place": [0, 0, 0], "name": "a"}, None, "observation 'place'"),
        (np.zeros(2), None, "observation 'count' is missing"),
        ({"count": 1, "place": [0, 0], "name": "a"}, [True, False], "is_first must be one bool"),
        ({"count": [], "place": [], "name": []}, None, "the batch holds no observation"),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(
    monkeypatch: pytest.MonkeyPatch, observation: Any, is_first: Any, line: str
) -> None:
    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", Odd))
    env = EnvConfig(id="Odd-v0")
    policy = Policy(Recorder([[0, 1, 0, 0]]), Border.of_env(env), env)  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as caught:
        policy.act(observation, is_first=is_first)
    assert line in str(caught.value)


def test_a_model_by_itself_acts_in_its_own_spaces(folder: Path) -> None:  # noqa: F811
    fields = dict(obs_shape=(3, 16, 16), action_dim=4, action_type="discrete")
    policy = worldflux.load_policy(save("model", "dreamerv3:ci", **fields))
    pictures = np.zeros((2, 3, 16, 16), np.uint8)
    actions = policy.act(pictures)
    assert actions.shape == (2,) and set(actions) <= {0, 1, 2, 3}
    with pytest.raises(ConfigurationError, match="knows no environment: name one"):
        policy.make_env()
    worldflux.create_world_model(
        "dreamerv3:ci", obs_shape=(3,), action_dim=1, actor_critic=False
    ).save_pretrained("blind")
    with pytest.raises(ConfigurationError, match="without an actor: it cannot act"):
        worldflux.load_policy("blind")


def test_of_several_tasks_one_is_named(folder: Path) -> None:  # noqa: F811
    fields: dict[str, Any] = dict(
        obs_shape=(3,),
        action_dim=1,
        num_tasks=2,
        task_names=["Pendulum-v1", "MountainCarContinuous-v0"],
        task_action_dims=[1, 1],
        task_episode_lengths=[9, 9],
        task_dim=4,
    )
    save("model", "tdmpc2:ci", **fields, **SMALL)
    with pytest.raises(ConfigurationError, match=r"2 tasks: name one.*'env\.id=Pendulum-v1'"):
        worldflux.load_policy(
            "model", "env=gym", "env.tasks=[Pendulum-v1,MountainCarContinuous-v0]"
        )
    policy = worldflux.load_policy("model", "env=gym", "env.id=MountainCarContinuous-v0")
    action = policy.act(np.array([-0.5, 0.0], np.float32))  # two of the three that all tasks share
    assert action.shape == (1,)
