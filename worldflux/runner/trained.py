"""What can be played with: run folders, and model folders in an environment that is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.env import EnvConfig
from worldflux.config.model import WorldModelConfig
from worldflux.config.spaces import Task
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent, Carry, Entries
from worldflux.envs.make import make_envs
from worldflux.envs.suites import episode_length
from worldflux.envs.tasks import TaskLayout, task_configs
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.factory import model_class
from worldflux.models.families import family_of_type
from worldflux.run_folder.checkpoint import read_checkpoint
from worldflux.run_folder.checkpoints import checkpoint_named, run_of
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import CHECKPOINTS, MANIFEST
from worldflux.runner.fitting import for_environment
from worldflux.runner.run import make_agent


@dataclass
class TrainedRun:
    """What evaluation needs of a run folder."""

    folder: Path
    checkpoint: Path
    model: WorldModelConfig
    env: EnvConfig
    training: TrainingConfig

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def layout(self) -> TaskLayout | None:
        return layout_of(self.model, self.env)

    def agent(self, device: str) -> Agent:
        """The agent with the checkpoint's weights, on a device."""
        training = self.training.with_updates(device=device)
        if training.mixed_precision_dtype == "float16" and training.resolve_device() == "cpu":
            training = training.with_updates(mixed_precision=False)
        agent = make_agent(self.model, training)
        agent.load_state_dict(read_checkpoint(self.checkpoint).agent)
        return agent


@dataclass
class SavedModel:
    """A model folder and the environment to play it in; model: its configuration there.

    own_key: what the model calls the only observation, where the environment calls it otherwise.
    """

    folder: Path
    model: WorldModelConfig
    env: EnvConfig
    own_key: str | None = None

    @property
    def name(self) -> str:
        return self.env.id.replace("/", "_")

    @property
    def layout(self) -> TaskLayout | None:
        return layout_of(self.model, self.env)

    def agent(self, device: str) -> Agent:
        """An agent with the model's weights, on a device."""
        model = model_class(self.model.model_type)(self.model)
        model.load_weights(self.folder)
        agent = model.make_agent(TrainingConfig(device=device), device=None)
        return agent if self.own_key is None else OtherKey(agent, self.own_key)


class OtherKey:
    """An agent whose only observation has another name in the environment."""

    def __init__(self, agent: Agent, key: str) -> None:
        self._agent, self._key = agent, key
        self.generator = getattr(agent, "generator", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        flags = ("reward", "is_first", "is_last", "is_terminal")
        (seen,) = [value for key, value in obs.items() if key not in flags]
        return self._agent.act(carry, {self._key: seen, "is_first": obs["is_first"]}, explore)


def open_trained(path: Path, wanted: str, overrides: Sequence[str]) -> TrainedRun | SavedModel:
    """A run folder, a checkpoint folder inside one, or a model folder.

    overrides: of the ``env`` group, on what the run was trained in; a model folder has no
    environment, so there they must name one. Raises ConfigurationError where that does not fit.
    """
    if (path / "config.json").is_file() and not (path / MANIFEST).is_file():
        return open_model(path, overrides)
    run = open_run(path, wanted)
    if not overrides:
        return run
    from worldflux.runner.env_overrides import chosen_env

    env = chosen_env(run.model.model_type, overrides, run.env)
    fitted(run.folder, run.model, env)
    return replace(run, env=env)


def open_model(path: Path, overrides: Sequence[str]) -> SavedModel:
    """A model folder in the environment that `overrides` name."""
    from worldflux.runner.env_overrides import chosen_env

    model = WorldModelConfig.load(path)
    if getattr(model, "actor_critic", True) is False:
        raise ConfigurationError(f"{path} is a world model without an actor: it cannot act")
    if not overrides:
        text = f"{path} is a model and knows no environment"
        raise ConfigurationError(f"{text}: name one, for example env=dmc env.id=walker-walk")
    return fitted(path, model, chosen_env(model.model_type, overrides))


def fitted(folder: Path, model: WorldModelConfig, env: EnvConfig) -> SavedModel:
    """The model in the environment; ConfigurationError where its spaces do not fit."""
    own_key: str | None = None
    envs = make_envs(env, layout=layout_of(model, env))
    try:
        ours, theirs = model.obs_spaces(), envs.obs_spaces
        if len(ours) == 1 and list(ours.values()) == list(theirs.values()) and ours != theirs:
            envs.obs_spaces, own_key = ours, next(iter(ours))
        return SavedModel(folder, for_environment(model, envs), env, own_key)
    except ConfigurationError as error:
        error.label = f"{folder} does not fit env.id={env.id}: "  # instead of the model's name
        raise error from None
    finally:
        envs.close()


def layout_of(model: WorldModelConfig, env: EnvConfig) -> TaskLayout | None:
    """The tasks that a multi-task model knows, None for others.

    A model whose tasks have no names takes them from `env`, which must list all of them.
    """
    count = getattr(model, "num_tasks", 1)
    if count == 1:
        return None
    values = model.to_dict()
    names, lengths = values["task_names"], values["task_episode_lengths"] or [0] * count
    if not names:
        names, lengths = env.tasks, [episode_length(one) or 0 for one in task_configs(env)]
        if len(names) != count:
            raise ConfigurationError(
                f"the model has {count} tasks that are not named: list all, env.tasks=[...]"
            )
    dims, width = values["task_action_dims"] or [model.action_dim] * count, model.obs_shape[0]
    rows = zip(names, dims, lengths, strict=True)
    tasks = [Task(name, width, dim, length or None) for name, dim, length in rows]
    return TaskLayout(tuple(tasks), width, model.action_dim)


def open_run(path: Path, wanted: str = "best") -> TrainedRun:
    """A run folder, or a checkpoint folder inside one.

    wanted: ``best`` (the newest where nothing was evaluated yet), ``latest`` or a folder name
    under ``checkpoints``. CheckpointError says what is missing.
    """
    if path.parent.name == CHECKPOINTS and path.is_dir():
        path, wanted = run_of(path), path.name
    if not path.is_dir():
        raise CheckpointError(f"no run folder at {path}")
    manifest = read_manifest(path)
    try:
        config, model = manifest["config"], manifest["model_config"]
        family = family_of_type(model["model_type"]).config_class()
        return TrainedRun(
            folder=path,
            checkpoint=checkpoint_named(path, wanted),
            model=family.from_dict(model),
            env=EnvConfig.from_dict(config["env"]),
            training=TrainingConfig.from_dict(config["training"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: its manifest has no {error}, so it cannot be run") from None
