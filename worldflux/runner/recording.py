"""Plays whole episodes for `worldflux record`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.env import EnvConfig
from worldflux.config.fields import near_miss
from worldflux.config.spaces import Space
from worldflux.core.agent import Agent
from worldflux.data.collect import random_actions
from worldflux.data.recorded.encoding import Part, action_parts
from worldflux.data.recorded.parts import Steps
from worldflux.data.recorder import Rows
from worldflux.envs.border import Border, plain_env
from worldflux.envs.failures import described
from worldflux.envs.make import make_envs
from worldflux.envs.tasks import TaskLayout
from worldflux.envs.vector import VectorEnv
from worldflux.envs.wrappers import episode_seed
from worldflux.errors import ConfigurationError, TrainingError, WorldFluxError
from worldflux.models.families import DEFAULT
from worldflux.runner.trained import chosen_env, open_trained
from worldflux.training.evaluate import quotas
from worldflux.training.seed import isolated_rng

AGENT, RANDOM = "agent", "random"
MOST_ENVS = 8
Act = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # rows `[N, ...]` -> flat actions `[N, A]`


@dataclass
class Played:
    """Episodes that are played as they are taken, and their spaces."""

    obs_spaces: Mapping[str, Space]
    action_spaces: Mapping[str, Space]
    episodes: Iterator[Steps]


def play(
    path: Path | None,
    overrides: Sequence[str],
    *,
    policy: str,
    episodes: int,
    seed: int,
    checkpoint: str = "best",
    explore: bool = False,
    trust: bool = False,
    device: str = "auto",
) -> Played:
    """Episodes of a run's agent, of random actions, or of a function ``module:function`` from an
    observation of the environment to an action of it. path None: `overrides` name the environment."""
    agent: Agent | None = None
    layout: TaskLayout | None = None
    if path is None:
        if policy == AGENT:
            text = "names no run whose agent could act"
            raise ConfigurationError(f"the command {text}", hint="--policy random needs none")
        if not overrides:
            raise ConfigurationError("a run or an environment is needed, such as env=pendulum")
        env = chosen_env(DEFAULT.model_type, overrides)
    else:
        run = open_trained(path, checkpoint, overrides, trust)
        env, layout = run.env, run.layout
        agent = run.agent(device) if policy == AGENT else None
    if env.suite == "none":
        text = f"{path} was trained without an environment: name one (env=...)"
        raise ConfigurationError(text)
    if policy not in (AGENT, RANDOM):
        return _of_function(env, _imported(policy), policy, episodes, seed)
    count = 1 if env.tasks else min(episodes, MOST_ENVS)
    envs = make_envs(env, num_envs=count, mode="sync", seed=seed, layout=layout)
    rng = np.random.default_rng(seed)

    def randomly(row: Mapping[str, np.ndarray]) -> np.ndarray:
        return random_actions(envs.action_spaces, envs.num_envs, rng) * envs.action_mask

    act = randomly if agent is None else _agents(agent, envs, explore)
    generator = getattr(agent, "generator", None)

    def taken() -> Iterator[Steps]:
        with closing(envs), isolated_rng(seed, generator):
            yield from _rows(envs, act, episodes)

    return Played(envs.obs_spaces, envs.action_spaces, taken())


def _agents(agent: Agent, envs: VectorEnv, explore: bool) -> Act:
    carry = agent.initial_carry(envs.num_envs)

    def act(row: Mapping[str, np.ndarray]) -> np.ndarray:
        nonlocal carry
        obs = {key: row[key] for key in (*envs.obs_spaces, "is_first")}
        carry, action, _ = agent.act(carry, obs, explore)
        return action

    return act


def _rows(envs: VectorEnv, act: Act, episodes: int) -> Iterator[Steps]:
    """Whole episodes, of each environment a number that is fixed beforehand."""
    tasks = len(set(envs.task_numbers)) or 1
    left = np.repeat(quotas(episodes, envs.num_envs // tasks), tasks)
    gathered, row = Rows(envs.obs_spaces, envs.num_envs), envs.reset()
    while True:
        action = np.where(row["is_last"][:, None], np.float32(0), act(row))
        for env in np.flatnonzero(left):
            whole = gathered.add(row, action, envs.raw_reward, int(env))
            if whole is not None:
                left[env] -= 1
                yield whole
        if not left.any():
            return
        row = envs.step(action)


# === A function of the user's own =============================================================


def _imported(policy: str) -> Callable[[Any], Any]:
    module, _, name = policy.partition(":")
    if not module or not name:
        text = f"--policy {policy}: expected agent, random or module:function"
        raise ConfigurationError(text)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python` does
    try:
        content = importlib.import_module(module)
    except (KeyboardInterrupt, WorldFluxError):
        raise
    except BaseException as error:
        text = str(error) if isinstance(error, ImportError) else described(error)
        raise ConfigurationError(f"--policy {policy}: {text}") from error
    function = getattr(content, name, None)
    if not callable(function):
        text = f"--policy {policy}: {module} has no function {name!r}."
        raise ConfigurationError(text, hint=near_miss(name, vars(content)))
    return function


def _of_function(
    config: EnvConfig, function: Callable[[Any], Any], name: str, episodes: int, seed: int
) -> Played:
    if config.tasks:
        raise ConfigurationError(
            f"--policy {name}: a function acts in one task: name one, env.id=…"
        )
    border = Border.of_env(config)
    parts = action_parts(border.action_space, config.rescale_actions)
    env = plain_env(config, render=False)
    with make_envs(config, seed=seed) as one:
        obs, actions = one.obs_spaces, one.action_spaces

    def called(observation: Any) -> tuple[Any, np.ndarray]:
        try:
            action = function(observation)
            return action, np.concatenate([_flat(part, action) for part in parts])
        except (KeyboardInterrupt, WorldFluxError):
            raise
        except Exception as error:
            text = f"--policy {name}: {described(error)}"
            raise TrainingError(
                f"{text}; it must give an action of {border.action_space}"
            ) from error

    def taken() -> Iterator[Steps]:
        with closing(env), isolated_rng(seed):
            for number in range(episodes):
                yield _episode(env, border, called, obs, episode_seed(seed, 0, number + 1))

    return Played(obs, actions, taken())


def _flat(part: Part, action: Any) -> np.ndarray:
    flat: np.ndarray = part.convert(np.asarray(part.leaf.take(action))[None])[0]
    return flat


def _episode(
    env: Any, border: Border, act: Any, obs_spaces: Mapping[str, Space], seed: int
) -> Steps:
    observation, _ = env.reset(seed=seed)
    gathered, first = Rows(obs_spaces, 1), True
    reward, terminated, truncated = 0.0, False, False
    while True:
        flags = {"is_first": first, "is_last": terminated or truncated, "is_terminal": terminated}
        row = border.encode([observation], np.array([first]))
        row |= {key: np.array([value], bool) for key, value in flags.items()}
        action, flat = act(observation)
        if flags["is_last"]:
            flat = np.zeros_like(flat)
        whole = gathered.add(row, flat[None], np.array([reward]), 0)
        if whole is not None:
            return whole
        observation, reward, terminated, truncated, _ = env.step(action)
        first = False
