"""What was trained, as a policy to act with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from worldflux.config.env import EnvConfig
from worldflux.core.agent import Agent, Carry
from worldflux.envs.border import Border, plain_env
from worldflux.envs.suites import GymEnv
from worldflux.errors import ConfigurationError, ValidationError
from worldflux.models.hub import local
from worldflux.models.saved import is_model_folder
from worldflux.runner.trained import SavedModel, TrainedRun, open_trained, playable_config
from worldflux.training.seed import isolated_rng

WITHOUT = EnvConfig(suite="none")


class Policy:
    """Acts as a trained agent does, for who steps the environments: of the family, of frame stacks
    and of action bounds nothing need be known.

    observation_space, action_space: of one environment. Between two calls it remembers what the
    agent saw and did since the episode began; `reset` forgets it.
    """

    def __init__(self, agent: Agent, border: Border, env: EnvConfig) -> None:
        self._agent, self._border, self._env = agent, border, env
        self._carry: Carry | None = None
        self._rows = 0

    @property
    def observation_space(self) -> Space[Any]:
        return self._border.observation_space

    @property
    def action_space(self) -> Space[Any]:
        return self._border.action_space

    def reset(self) -> None:
        """A new episode begins with the next observation, in every environment."""
        self._carry = None

    def act(
        self,
        observation: Any,
        *,
        is_first: bool | Sequence[bool] | np.ndarray | None = None,
        explore: bool = False,
    ) -> Any:
        """The action for an observation as the environment returns it, or those for a batch of N as
        Gymnasium's vector environments return it.

        is_first: whether this observation begins an episode, `[N]` in a batch; not needed after
        `reset`. explore: act as in training, by a sample of the policy; else greedily. ValidationError
        names what of the observation is not as the environment declares it.
        """
        rows, batch = self._border.rows(observation)
        first = _first(is_first, len(rows), batch)
        if self._carry is None:
            self._carry, self._rows = self._agent.initial_carry(len(rows)), len(rows)
            first[:] = True
        if len(rows) != self._rows:
            raise ValidationError(
                f"{len(rows)} observations, but the episodes that go on are {self._rows}: reset() first"
            )
        obs = {**self._border.encode(rows, first), "is_first": first}
        self._carry, flat, _ = self._agent.act(self._carry, obs, explore)
        return self._border.decode(flat, batch)

    def make_env(self, render: bool = False) -> GymEnv:
        """A fresh Gymnasium environment as the agent was trained in, with its action repeats and time
        limit; its observations and actions are those of `act`. render: `render()` gives frames
        `[H, W, 3]` uint8. ConfigurationError: this policy knows none."""
        if self._env.suite == "none":
            raise ConfigurationError(
                "this policy knows no environment: name one, load_policy(PATH, 'env.id=NAME')"
            )
        return plain_env(self._env, render)


def _first(value: Any, rows: int, batch: bool) -> np.ndarray:
    if value is None:
        return np.zeros(rows, bool)
    first = np.array(value, bool)
    if first.shape != ((rows,) if batch else ()) and first.shape != (rows,):
        shape = f"[{rows}]" if batch else "one bool"
        raise ValidationError(f"is_first must be {shape}, got {list(first.shape)}")
    return first.reshape(rows)


def load_policy(
    path: str | Path,
    *overrides: str,
    checkpoint: str = "best",
    device: str = "auto",
    seed: int = 0,
    trust: bool = False,
) -> Policy:
    """The policy of a run, of one of its checkpoints, or of a model folder.

    overrides: of the `env` group, as on the command line of `worldflux eval`: another environment
    than the run's own. A model folder needs none; its policy then takes observations as the model
    does (pictures `[C, H, W]` uint8) and gives continuous actions in [-1, 1]. checkpoint: of a run,
    `best`, `latest` or a folder's name. seed: of latents and actions that are sampled. trust: modules
    that the run names may be imported although another user made it.

    Raises CheckpointError for what is missing or damaged, and ConfigurationError.
    """
    path = local(path)
    with isolated_rng(seed):
        if is_model_folder(path) and not overrides:
            played: Any = SavedModel(path, playable_config(path, trust), WITHOUT)
        else:
            played = open_trained(path, checkpoint, overrides, trust)
        if isinstance(played, TrainedRun):  # the first action does not wait for a compiler
            eager = played.training.with_updates(compile_model=False)
            played = replace(played, training=eager)
        border = _border(played)
        agent = played.agent(device)
    generator = getattr(agent, "generator", None)
    if generator is not None:
        generator.manual_seed(seed)
    return Policy(agent, border, played.env)


def _border(played: Any) -> Border:
    env, model = played.env, played.model
    if env.suite == "none":
        return Border.of_model(model.obs_spaces(), model.action_spaces())
    if env.tasks:
        raise ConfigurationError(
            f"{played.folder} plays {len(env.tasks)} tasks: name one, load_policy(PATH, "
            f"'env.id={env.tasks[0]}')"
        )
    return Border.of_env(env, played.layout)
