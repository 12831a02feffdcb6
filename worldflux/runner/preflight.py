"""What of a run is checked on this machine before its folder exists: device, environment, weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldflux.config.data import RECORDED
from worldflux.config.files import memory
from worldflux.config.run import RunConfig
from worldflux.config.targets import Target
from worldflux.dashboard.server import check_host, check_installed
from worldflux.errors import ConfigurationError, MissingDependencyError, TrainingError
from worldflux.runner.parts import Fitted, Parts
from worldflux.training.loggers import check_loggers

if TYPE_CHECKING:
    from worldflux.config.model import WorldModelConfig
    from worldflux.envs.vector import VectorEnv


def one_environment(config: RunConfig) -> VectorEnv:
    """One environment of the run, to look at."""
    from worldflux.envs.make import make_envs  # Gymnasium: nothing for commands that only print

    return make_envs(config.env, num_envs=1, mode="sync", seed=config.training.seed)


def training_envs(
    config: RunConfig, *, rank: int = 0, size: int = 1, render: bool = False
) -> VectorEnv:
    """The share that one of `size` processes has of the environments to train in."""
    from worldflux.envs.make import make_envs

    training = config.training
    seed = training.seed
    if rank > 0:
        from worldflux.training.parallel import rank_seed

        seed = rank_seed(seed, rank)
    return make_envs(
        config.env,
        num_envs=training.num_envs // size,
        mode=training.env_mode,
        seed=seed,
        render=render,
    )


def check_trainable(configs: Iterable[RunConfig]) -> None:
    """The models and environments of all jobs exist here, and fit each other."""
    seen: list[tuple[object, ...]] = []
    for config in configs:
        check_machine(config)
        data = config.data
        facts = (config.env, config.model, data.on_env_failure, data.paths, config.init_from)
        if facts not in seen:
            seen.append(facts)
            fitted = check_environment(config, one_environment)
            if fitted is not None:
                fitted.close()


def check_run(config: RunConfig, parts: Parts) -> None:
    """Everything a run needs exists here; its environments are made for `parts` to keep."""
    check_machine(config)
    if config.callbacks and config.training.nproc == 1:
        from worldflux.training.own_callbacks import own_callbacks

        parts.callbacks = own_callbacks(config.callbacks)
    parts.prepare(config)
    if parts.model is not None:
        return
    # An environment may draw random numbers while it is made.
    random.seed(config.training.seed)
    np.random.seed(config.training.seed % 2**32)
    drawn = config.visualization.enabled and config.gameplay.enabled
    if drawn or config.training.nproc > 1:  # the run's are made to draw, or are a process's share
        check_trainable([config])
    else:
        parts.fitted = check_environment(config, training_envs)


def check_machine(config: RunConfig) -> None:
    """What a run needs of this machine is there."""
    check_loggers(config.logger.names(), config.logger.to_dict())
    for name, entry in config.callbacks.items():
        Target.of(f"callbacks.{name}", entry)
    if config.visualization.enabled and config.data.on_env_failure != "degrade":
        check_installed()
        check_host(config.visualization.host)
    try:
        config.training.check_device()
    except ConfigurationError as error:
        raise error.within("training") from None
    if config.training.compile_model:
        import torch

        from worldflux.core.compile import check_compiler

        check_compiler(torch.device(config.training.resolve_device()))


def check_environment(config: RunConfig, make: Callable[[RunConfig], VectorEnv]) -> Fitted | None:
    """The environments that `make` gives and the recorded episodes, which fit the model: a wrong id,
    argument, file or shape shows here. None where the run has neither, or goes on without."""
    if config.data.source in RECORDED:
        return check_recorded(config, make)
    if config.env.suite == "none":
        return None
    try:
        envs = make(config)
    except (MissingDependencyError, TrainingError):  # its package, or itself, is not to be had
        if config.data.on_env_failure == "degrade":
            return None  # the run itself reports it, and goes on
        raise
    try:
        _check_idle(config, envs)
        return Fitted(envs, _fitted(config, envs))
    except BaseException:
        envs.close()
        raise


def check_recorded(config: RunConfig, make: Callable[[RunConfig], VectorEnv]) -> Fitted:
    """The episodes of `data.path`, which fit the model and the environment, where one is named. That
    of a run which collects nothing is made to look at, and closed again."""
    from worldflux.runner.fitting import for_ends, for_recorded, recorded_for

    if config.env.suite == "none":
        recorded = recorded_for(config, None)
        try:
            model = for_recorded(config.model, recorded)
        except ConfigurationError as error:
            raise error.within("model") from None
        _check_begin(config, model)
        return Fitted(None, model, recorded)
    envs = make(config) if config.data.source == "mixed" else one_environment(config)
    try:
        _check_idle(config, envs)
        recorded = recorded_for(config, envs)
        fitted = Fitted(envs, for_ends(_fitted(config, envs), recorded), recorded)
    except BaseException:
        envs.close()
        raise
    if config.data.source == "mixed":
        return fitted
    envs.close()
    return fitted._replace(envs=None)


def check_size(model: WorldModelConfig) -> None:
    """ConfigurationError where this machine's memory cannot hold the model's weights."""
    from worldflux.core.memory import memory_for
    from worldflux.models.factory import count_parameters

    try:
        with memory_for(f"a model of this size ({model.model_name})"):
            needed = 4 * count_parameters(model)
    except (NotImplementedError, RuntimeError):
        return  # a family whose model cannot be laid out without memory; the run builds it
    if needed > memory():
        text = f"has weights of {needed / 2**30:,.0f} GiB, and this machine has a memory of"
        raise ConfigurationError(f"{text} {memory() / 2**30:,.0f} GiB", key="model")


def _check_idle(config: RunConfig, envs: VectorEnv) -> None:
    """Refuses settings that would change nothing; a run that was begun with some goes on."""
    if envs.notes.idle and config.resume in (None, "auto"):
        text = f"{envs.notes.idle[0]}: {envs.name} is not observed as pictures"
        raise ConfigurationError(text, hint=f"it {envs.notes.summary}; env.obs=pixels draws it")


def _fitted(config: RunConfig, envs: VectorEnv) -> WorldModelConfig:
    from worldflux.runner.fitting import for_environment

    try:
        model = for_environment(config.model, envs)
    except ConfigurationError as error:
        raise error.within("model") from None
    _check_begin(config, model)
    return model


def _check_begin(config: RunConfig, model: WorldModelConfig) -> None:
    """The weights that it begins with, or goes on from, are those of such a model."""
    check_size(model)
    if model.components or model.losses:
        from worldflux.models.factory import make_model

        made = make_model(model)
        if model.losses:
            made.try_losses()
    if config.resume not in (None, "auto"):
        from worldflux.training.initial import check_continues

        check_continues(Path(config.resume), model)
    elif config.init_from is not None:
        from worldflux.training.initial import InitialWeights

        InitialWeights.find(config.init_from).check(model)
