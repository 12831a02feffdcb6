"""How a model's configuration meets the environment it acts in, and the data it is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldflux.config.model import WorldModelConfig
from worldflux.envs.vector import VectorEnv
from worldflux.errors import ConfigurationError

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig
    from worldflux.data.recorded.opening import RecordedSet


def for_environment(model: WorldModelConfig, envs: VectorEnv) -> WorldModelConfig:
    """The model's configuration with what its environment decides;
    ConfigurationError where they do not fit."""
    fitted = model.with_spaces(envs.obs_spaces, envs.action_spaces, envs.tasks)
    if getattr(fitted, "episode_length", 0) is None and not envs.tasks:
        fitted = fitted.with_overrides(episode_length=envs.episode_length)
    return fitted


def recorded_for(config: RunConfig, envs: VectorEnv | None) -> RecordedSet:
    """The episodes that `data.path` names, seen as by the run's environment; ConfigurationError where
    they do not fit it."""
    from worldflux.data.dataset_source import FRACTION, split
    from worldflux.data.recorded.encoding import View  # Gymnasium: nothing for commands that print
    from worldflux.data.recorded.opening import open_recorded, words
    from worldflux.data.recorded.stream import Stream
    from worldflux.envs.spaces import ImageFormat

    env = config.env
    view = View(
        image=ImageFormat(env.image_size, env.grayscale),
        observed=envs.own_spaces[0] if envs else None,
        acted=envs.own_spaces[1] if envs else None,
        actions=envs.action_spaces if envs else {},
        rescale=env.rescale_actions,
        clip=env.clip_reward,
    )
    recorded = open_recorded(config.data.paths, view)
    length = config.data.consec * config.training.sequence_length
    trained, held = split(recorded, config.data.validation_fraction)
    for key, episodes in (("data.path", trained), (FRACTION, held)):
        rows = len(Stream(recorded, episodes))
        if len(episodes) and rows < length:
            text = f"holds {rows} steps: no sequence of {length} can be taken"
            raise ConfigurationError(text, key=key)
    if envs is not None:
        pairs = (
            (recorded.obs_spaces, envs.obs_spaces, "observations"),
            (recorded.action_spaces, envs.action_spaces, "actions"),
        )
        for ours, theirs, what in pairs:
            if dict(ours) != dict(theirs):
                text = f"has the {what} {words(ours)}, and env.id={env.id} has {words(theirs)}"
                hint = "env=none trains without an environment"
                raise ConfigurationError(text, key="data.path", hint=hint)
    return recorded


def for_ends(model: WorldModelConfig, recorded: RecordedSet) -> WorldModelConfig:
    """With what learns that the task itself can end an episode, where one of the recorded did."""
    if getattr(model, "episodic", None) is False and recorded.terminates():
        return model.with_overrides(episodic=True)
    return model


def for_recorded(model: WorldModelConfig, recorded: RecordedSet) -> WorldModelConfig:
    """The model's configuration for recorded episodes alone, the longest of which is taken for an
    episode's length; ConfigurationError where they do not fit."""
    try:
        tasks = recorded.tasks()
        if known := getattr(model, "known_tasks", None):
            tasks = known(tasks)
        fitted = model.with_spaces(recorded.obs_spaces, recorded.action_spaces, tasks)
    except ConfigurationError as error:
        error.reason = error.reason.replace("the environment has", "the recorded episodes have")
        raise error from None
    if getattr(fitted, "episode_length", 0) is None and not tasks:
        fitted = fitted.with_overrides(episode_length=int(recorded.lengths.max()) - 1)
    return for_ends(fitted, recorded)
