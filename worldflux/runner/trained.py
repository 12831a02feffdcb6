"""What can be played with: run folders, and model folders in an environment that is named."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.composition import composed
from worldflux.config.env import EnvConfig
from worldflux.config.groups import SPELLING
from worldflux.config.model import WorldModelConfig
from worldflux.config.overrides import override, parse_overrides, with_free_keys
from worldflux.config.spaces import Task
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent, Carry, Entries
from worldflux.envs.make import make_envs
from worldflux.envs.suites import episode_length
from worldflux.envs.tasks import TaskLayout, task_configs
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.factory import make_model
from worldflux.models.families import family_of_type
from worldflux.models.hub import local
from worldflux.models.saved import is_model_folder, saved_model
from worldflux.report.video import write_video
from worldflux.run_folder.checkpoint import damage, read_checkpoint
from worldflux.run_folder.checkpoints import checkpoint_named, run_of
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import manifest_or_copy, warn_of_change
from worldflux.run_folder.names import CHECKPOINTS, MODEL
from worldflux.run_folder.trust import check_modules
from worldflux.runner.continuation import named_modules
from worldflux.runner.fitting import for_environment
from worldflux.runner.run import make_agent
from worldflux.training.evaluate import GreedyEvaluator
from worldflux.training.initial import check_weights, weight_shapes

NAMING = "--trust, in Python trust=True"  # what allows a run of others its modules


@dataclass
class Playable:
    """Something trained and the environment to play it in; model: its configuration there."""

    folder: Path
    model: WorldModelConfig
    env: EnvConfig

    @property
    def layout(self) -> TaskLayout | None:
        return layout_of(self.model, self.env)

    def evaluator(self, episodes: int) -> GreedyEvaluator:
        """Plays so many greedy episodes of each task."""
        return GreedyEvaluator(self.env, episodes, layout=self.layout)

    def record(self, agent: Agent, seed: int, path: Path) -> None:
        """Records one episode in a fresh environment (scored episodes draw no frames)."""
        played = self.evaluator(1)(agent, seed, record=True)
        if played is None or not played.frames:
            text = f"env.id={self.env.id} draws no frames, so there is no video"
            raise ConfigurationError(text)
        write_video(path, np.stack(played.frames))


@dataclass
class TrainedRun(Playable):
    """What evaluation needs of a run folder."""

    checkpoint: Path
    training: TrainingConfig

    @property
    def name(self) -> str:
        return self.checkpoint.name

    def agent(self, device: str) -> Agent:
        """The agent with the checkpoint's weights, on a device."""
        training = self.training.with_updates(device=device)
        training.check_device()
        if training.mixed_precision_dtype == "float16" and training.resolve_device() == "cpu":
            training = training.with_updates(mixed_precision=False)
        check_weights(self.checkpoint / MODEL, self.model)
        saved = read_checkpoint(self.checkpoint).agent
        agent = make_agent(self.model, training)
        try:
            agent.load_state_dict(saved)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            reason = damage(error)
            raise CheckpointError(f"{self.checkpoint} does not fit its model: {reason}") from error
        return agent


@dataclass
class SavedModel(Playable):
    """A model folder in an environment. obs_key: what the model calls the only observation, where
    the environment calls it otherwise."""

    obs_key: str | None = None

    @property
    def name(self) -> str:
        return self.env.id.replace("/", "_")

    def agent(self, device: str) -> Agent:
        """An agent with the model's weights, on a device."""
        if (self.folder / MODEL).is_file():
            check_weights(self.folder / MODEL, self.model)
        training = TrainingConfig(device=device)
        training.check_device()
        model = make_model(self.model)
        model.load_weights(self.folder)
        agent = model.make_agent(training, device=None)
        return agent if self.obs_key is None else OtherKey(agent, self.obs_key)


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


def open_trained(
    path: Path, checkpoint: str, overrides: Sequence[str], trust: bool = False
) -> TrainedRun | SavedModel:
    """A run folder, a checkpoint folder inside one, or a model folder.

    overrides: of the ``env`` group, on what the run was trained in; a model folder has no
    environment, so there they must name one. trust: see `open_run`. Raises ConfigurationError
    where that does not fit.
    """
    path = local(path)
    if is_model_folder(path):
        return open_model(path, overrides, trust)
    if not overrides:
        return open_run(path, checkpoint, trust)
    run = open_run(path, checkpoint, trust=True)  # its environment is not made as it is recorded
    env = chosen_env(run.model.model_type, overrides, run.env)
    items = parse_overrides(overrides)
    if not trust:
        named = named_modules(items)
        content = {"env": env.to_dict(), "model": run.model.to_dict()}
        if any(item.get_key_element() == "env" for item in items):
            del content["env"]  # nothing of it is the run's
        check_modules(run.folder, manifest_or_copy(run.folder), content, named, NAMING)
    fitted(run.folder, run.model, env)
    return replace(run, env=env)


def playable_config(path: Path, trust: bool = False) -> WorldModelConfig:
    """The configuration of a model folder; ConfigurationError: it cannot act, or names parts of its
    own that nobody trusts."""
    model, _ = saved_model(path, trust=trust)
    if getattr(model, "actor_critic", True) is False:
        raise ConfigurationError(f"{path} is a world model without an actor: it cannot act")
    return model


def open_model(path: Path, overrides: Sequence[str], trust: bool = False) -> SavedModel:
    """A model folder in the environment that `overrides` name."""
    model = playable_config(path, trust)
    if not overrides:
        text = f"{path} is a model and knows no environment"
        raise ConfigurationError(f"{text}: name one, for example env=dmc env.id=walker-walk")
    return fitted(path, model, chosen_env(model.model_type, overrides))


def chosen_env(
    model_type: str, overrides: Sequence[str], recorded: EnvConfig | None = None
) -> EnvConfig:
    """The environment that `overrides` describe, as on the command line of `worldflux-run`.

    model_type: of the family, which says how its official code counts. recorded: what a run was
    trained in, which the overrides change unless they choose another group (env=...).
    """
    keys: dict[str, str] = {}
    items = parse_overrides(overrides)
    for item in items:
        key, word = item.get_key_element().lstrip("+~"), str(item.input_line)
        if key != "env" and not key.startswith("env."):
            raise ConfigurationError(f"{word}: only env can be overridden here")
        if item.is_sweep_override():
            raise ConfigurationError(f"{word}: one environment is needed, not a sweep")
        keys[key] = word
    words = with_free_keys(items)
    if "env" not in keys:
        words = ["env=gym", *([] if recorded is None else _words(recorded, keys)), *words]
    return composed([f"model={family_of_type(model_type).name}", *words]).env


def _words(recorded: EnvConfig, keys: Container[str]) -> list[str]:
    """The recorded fields as overrides, but those that are overridden anew."""
    fields = recorded.to_dict()
    kwargs, wrappers = fields.pop("kwargs"), fields.pop("wrappers")
    if "env.id" in keys or "env.tasks" in keys:
        kwargs = {}  # another environment takes other arguments
        del fields["id"], fields["tasks"]
    else:
        del fields["id" if fields["tasks"] else "tasks"]
    values = {f"env.{SPELLING.get(name, name)}": value for name, value in fields.items()}
    words = [override(key, value) for key, value in values.items() if key not in keys]
    # Its keys are free: added here, overrides of them come later and win.
    words += [override(f"++env.kwargs.{key}", value) for key, value in kwargs.items()]
    return words + [override(f"++env.wrappers.{key}", value) for key, value in wrappers.items()]


def fitted(folder: Path, model: WorldModelConfig, env: EnvConfig) -> SavedModel:
    """The model in the environment; ConfigurationError where its spaces do not fit."""
    obs_key: str | None = None
    envs = make_envs(env, layout=layout_of(model, env))
    try:
        ours, theirs = model.obs_spaces(), envs.obs_spaces
        if len(ours) == 1 and list(ours.values()) == list(theirs.values()) and ours != theirs:
            envs.obs_spaces, obs_key = ours, next(iter(ours))
        return SavedModel(folder, for_environment(model, envs), env, obs_key)
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


def open_run(path: Path, checkpoint: str = "best", trust: bool = False) -> TrainedRun:
    """A run folder, or a checkpoint folder inside one.

    checkpoint: ``best`` (the newest where nothing was evaluated yet), ``latest`` or a folder name
    under ``checkpoints``. trust: modules that the run names may be imported though another user made
    it. CheckpointError says what is missing.
    """
    if path.parent.name == CHECKPOINTS and path.exists():
        path, checkpoint = run_of(path), path.name
    if not path.is_dir():
        raise CheckpointError(f"no run folder at {path}")
    check_links(path)
    manifest = manifest_or_copy(path, warn=False)
    try:
        config, model = manifest["config"], manifest["model_config"]
        family = family_of_type(model["model_type"]).config_class()
        if not trust:
            content = {"env": config["env"], "model": model}
            check_modules(path, manifest, content, hint=NAMING)
        warn_of_change(path, manifest)
        chosen = checkpoint_named(path, checkpoint)
        return TrainedRun(
            folder=path,
            checkpoint=chosen,
            model=family.from_dict(model).of_weights(weight_shapes(chosen / MODEL)),
            env=EnvConfig.from_dict(config["env"]),
            training=TrainingConfig.from_dict(config["training"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: its manifest has no {error}, so it cannot be run") from None
