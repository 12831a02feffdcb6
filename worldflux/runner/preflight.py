"""What of a run is checked on this machine before its folder exists: device, environment, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldflux.config.run import RunConfig
from worldflux.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from worldflux.envs.vector import VectorEnv


def one_environment(config: RunConfig) -> VectorEnv:
    """One environment of the run, to look at."""
    from worldflux.envs.make import make_envs  # Gymnasium: nothing for commands that only print

    return make_envs(config.env, num_envs=1, mode="sync", seed=config.training.seed)


def check_machine(config: RunConfig) -> None:
    """What a run needs of this machine is there."""
    if config.training.compile_model:
        import torch

        from worldflux.core.compile import check_compiler

        check_compiler(torch.device(config.training.resolve_device()))


def check_environment(config: RunConfig) -> None:
    """Makes one environment and closes it again: a wrong id, argument or shape shows here."""
    if config.env.suite == "none":
        return
    try:
        envs = one_environment(config)
    except MissingDependencyError:  # its package, or the environment itself, is not to be had
        if config.data.on_env_failure == "degrade":
            return  # the run itself tells it, and goes on
        raise
    try:
        model = config.model.with_spaces(envs.obs_spaces, envs.action_spaces, envs.tasks)
    except ConfigurationError as error:
        raise error.within("model") from None
    finally:
        envs.close()
    if config.init_from is not None and config.resume in (None, "auto"):
        from worldflux.training.initial import InitialWeights

        InitialWeights.find(config.init_from).check(model)
