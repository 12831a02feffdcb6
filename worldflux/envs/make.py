"""From an EnvConfig to a vector environment that yields the step dict."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from worldflux.config.env import EnvConfig
from worldflux.envs.failures import described, make_error
from worldflux.envs.gate import Gate
from worldflux.envs.notes import notes_of
from worldflux.envs.own_wrappers import wrapped
from worldflux.envs.process_state import process_state
from worldflux.envs.spaces import ImageFormat, is_picture
from worldflux.envs.suites import GymEnv, suite
from worldflux.envs.tasks import OneOfTasks, TaskLayout, task_configs, task_of
from worldflux.envs.vector import VectorEnv
from worldflux.envs.wrappers import (
    ActionRepeat,
    ChosenSeeds,
    EncodedStep,
    FlattenVectors,
    NoopStart,
    RenderObservation,
    ResumableEpisodes,
)
from worldflux.errors import ConfigurationError, EnvironmentUnavailableError, WorldFluxError

log = logging.getLogger(__name__)

MODES = ("auto", "sync", "async")
Place = tuple[int, TaskLayout]  # which of several tasks


def make_envs(
    config: EnvConfig,
    *,
    num_envs: int = 1,
    mode: str = "auto",
    seed: int = 0,
    render: bool = False,
    layout: TaskLayout | None = None,
    fewer: bool = False,
) -> VectorEnv:
    """Makes `num_envs` copies of one environment, prepared as the config says; of each of
    `config.tasks`, in turn, where there are several.

    mode: ``sync`` steps them in this process, ``async`` in one process each; ``auto`` is sync,
    which was faster for everything measured whose step costs less than about a millisecond.
    seed: every environment and episode gets its own seed from it. render: `render()` gives frames.
    layout: the tasks that an agent knows, of which the config's are some; None: the config's are
    all there are. fewer: of one task, sync, take as many as can be made, at least one.
    Raises ConfigurationError (no such id, bad arguments, a space that cannot be learned from) or
    MissingDependencyError (with the line that installs what is missing).
    """
    if num_envs < 1:
        raise ConfigurationError(f"training.num_envs={num_envs}: at least 1 is needed")
    if mode not in MODES:
        raise ConfigurationError(f"training.env_mode={mode!r}: expected one of {', '.join(MODES)}")
    make = functools.partial(_make_one, seed=seed, render=render, main_process=os.getpid())
    configs = task_configs(config) if config.tasks else [config]
    task_numbers: list[int] = []
    if config.tasks or layout is not None:
        layout, task_numbers = _lay_out(configs, layout)
    places = [(number, layout) if layout else None for number in task_numbers] or [None]
    makers = [
        functools.partial(make, *member, index)
        for index, member in enumerate([*zip(configs, places, strict=True)] * num_envs)
    ]
    with one_line_errors(config):
        first = makers[0]()
        if left_out := first.get_wrapper_attr("encode").left_out:
            _warn_left_out(config.id, ", ".join(left_out))
        envs = _vectorize(first, makers, mode, fewer and not task_numbers)
        length: int | None = first.get_wrapper_attr("episode_length")
    encoded = _encoded(first)
    inner = encoded.env
    return VectorEnv(
        envs,
        first.get_wrapper_attr("obs_spaces"),
        first.get_wrapper_attr("action_spaces"),
        name=config.id,
        seed=seed,
        episode_length=None if config.tasks else length,
        clip_reward=config.clip_reward,
        tasks=() if layout is None else layout.tasks,
        task_numbers=task_numbers * num_envs,
        call_timeout=config.call_timeout,
        notes=notes_of(config, encoded),
        own_spaces=(None, None) if layout else (inner.observation_space, inner.action_space),
    )


def _encoded(env: GymEnv) -> EncodedStep:
    while not isinstance(env, EncodedStep):
        assert isinstance(env, gym.Wrapper)
        env = env.env
    return env


def _lay_out(
    configs: Sequence[EnvConfig], layout: TaskLayout | None
) -> tuple[TaskLayout, list[int]]:
    """The layout (None: that of the configs) and the number in it of each config's task."""
    tasks = []
    for config in configs:
        with one_line_errors(config):
            env = prepared(config, render=False)
            try:
                tasks.append(task_of(config, env))
            finally:
                ResumableEpisodes(env, 0, 0, config.id).close()
    layout = layout or TaskLayout.of(tasks)
    return layout, [layout.index(task) for task in tasks]


@contextmanager
def one_line_errors(config: EnvConfig) -> Iterator[None]:
    """Whatever making an environment raises, as the errors of `make_envs`."""
    try:
        with process_state:
            yield
    except (KeyboardInterrupt, WorldFluxError):
        raise
    except (EOFError, ConnectionError) as error:
        text = f"={config.id} cannot be made: a process of it ended"
        raise EnvironmentUnavailableError(text, key="env.id") from error
    except BaseException as error:  # foreign code: sys.exit() too
        raise make_error(config.id, dict(config.kwargs), error) from error


@functools.cache  # once, not for every evaluation
def _warn_left_out(env_id: str, keys: str) -> None:
    log.warning("env.id=%s: not observed: %s", env_id, keys)


def _vectorize(
    first: GymEnv, makers: Sequence[Callable[[], GymEnv]], mode: str, fewer: bool
) -> SyncVectorEnv | AsyncVectorEnv:
    if mode == "async":
        first.close()
        # VectorEnv reports what a worker raised in one line; gymnasium would also warn thrice.
        warnings.filterwarnings("ignore", module=r"gymnasium\.vector\.async_vector_env")
        before = set(multiprocessing.active_children())
        try:
            # No daemons: they may have processes of their own.
            return AsyncVectorEnv(
                makers, copy=False, daemon=False, autoreset_mode=AutoresetMode.NEXT_STEP
            )
        except BaseException:  # one of them failed: the others would stay
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
                process.join()
            raise
    made = [first]
    try:
        for make in makers[1:]:
            made.append(make())
    except BaseException as error:
        # What could not be made may still count in its simulator: no second try of the others.
        if not fewer or not isinstance(error, Exception):
            for env in made:
                env.close()
            raise
        text = "environment copy %d cannot be made (%s); going on with %d"
        log.warning(text, len(made), described(error), len(made))
    held = [functools.partial(_same, env) for env in made]
    return SyncVectorEnv(held, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def _same(env: GymEnv) -> GymEnv:
    return env


def _end_with(parent: int) -> None:
    """Ends this process once the one that started it is gone: in a step that hangs it would never
    see its pipe close."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _make_one(
    config: EnvConfig,
    place: Place | None,
    index: int,
    *,
    seed: int,
    render: bool,
    main_process: int,
) -> ResumableEpisodes:
    if os.getpid() != main_process:
        # A stop signal goes to the whole process group. The trainer answers it by finishing its
        # update, for which it needs these processes; they end when their pipe closes.
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGHUP,
        ):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(main_process,), daemon=True).start()
        _seed_process(seed, index)
        try:
            env = prepared(config, render)
        except BaseException as error:
            # Without a traceback: the parent sees its pipe close, and ends.
            log.error("%s", make_error(config.id, dict(config.kwargs), error))
            raise SystemExit(1) from None
    else:
        env = prepared(config, render)
    return ResumableEpisodes(
        env if place is None else OneOfTasks(env, *place), seed, index, config.id
    )


def _check_frames(config: EnvConfig, env: GymEnv, pictures: bool) -> None:
    """Refuses Atari's treatment of frames where there are none."""
    if config.frame_pool > 1 and not pictures:
        text = f"={config.frame_pool}: the observation of {config.id} is no picture"
        raise ConfigurationError(text, key="env.frame_pool")
    discrete = isinstance(env.action_space, spaces.Discrete)
    if config.noop_max and not (discrete and (pictures or hasattr(env.unwrapped, "ale"))):
        text = f"={config.noop_max}: {config.id} has no frames to idle through"
        hint = "it needs pictures and discrete actions, the first of which does nothing"
        raise ConfigurationError(text, key="env.noop_max", hint=hint)


def _seed_process(seed: int, index: int) -> None:
    """Global random streams of its own for an environment's process, which would otherwise go on
    with copies of its parent's."""
    stream = np.random.SeedSequence([seed, index, 1])
    random.seed(int(stream.generate_state(1)[0]))
    np.random.seed(stream.generate_state(4))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(int(stream.generate_state(1)[0]))


def prepared(config: EnvConfig, render: bool) -> EncodedStep:
    """One environment with all its wrappers but those that say which of several it is."""
    env = suite(config).make(config, render)
    if config.seeds is not None:
        env = ChosenSeeds(env, config.seeds)
    env = wrapped(env, config.wrappers)
    frames = config.obs == "pixels" and not is_picture(env.observation_space)
    _check_frames(config, env, frames or is_picture(env.observation_space))
    env = Gate(env, observed=not frames)
    if frames and config.frame_pool > 1:
        env = RenderObservation(env)
    elif config.flatten and not frames:
        env = FlattenVectors(env)
    if config.noop_max:
        env = NoopStart(env, config.noop_max)
    if config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat, config.frame_pool)
    if frames and config.frame_pool == 1:
        env = RenderObservation(env)  # only the last frame of a repeat is drawn
    if config.time_limit is not None:
        env = TimeLimit(env, config.time_limit)
    image = ImageFormat(config.image_size, config.grayscale)
    return EncodedStep(env, image, config.rescale_actions, config.frame_stack)
