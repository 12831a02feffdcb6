"""From an EnvConfig to a vector environment that yields the step dict."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from worldflux.config.env import EnvConfig
from worldflux.envs import dmc
from worldflux.envs.failures import make_error, missing
from worldflux.envs.spaces import ImageFormat, is_picture
from worldflux.envs.tasks import OneOfTasks, TaskLayout, task_configs, task_of
from worldflux.envs.vector import VectorEnv
from worldflux.envs.wrappers import (
    ActionRepeat,
    FlattenVectors,
    HouseStep,
    NoopStart,
    RenderObservation,
    ResumableEpisodes,
    StepLimit,
)
from worldflux.errors import ConfigurationError, WorldFluxError

log = logging.getLogger(__name__)

MODES = ("auto", "sync", "async")
Place = tuple[int, TaskLayout]  # which of several tasks

# Packages whose environments register on import: id prefix -> (module, extra of ours).
REGISTERED_BY = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
}


def make_envs(
    config: EnvConfig,
    *,
    num_envs: int = 1,
    mode: str = "auto",
    seed: int = 0,
    render: bool = False,
    layout: TaskLayout | None = None,
) -> VectorEnv:
    """Makes `num_envs` copies of one environment, prepared as the config says; of each of
    `config.tasks`, in turn, where there are several.

    mode: ``sync`` steps them in this process, ``async`` in one process each; ``auto`` is sync,
    which was faster for everything measured whose step costs less than about a millisecond.
    seed: every environment and episode gets its own seed from it. render: `render()` gives frames.
    layout: the tasks that an agent knows, of which the config's are some; None: the config's are
    all there are.
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
    makers = [
        functools.partial(make, one, index, place=_place(task_numbers, number, layout))
        for index, (number, one) in enumerate(list(enumerate(configs)) * num_envs)
    ]
    with _told_in_one_line(config):
        first = makers[0]()
        house = _find(first, HouseStep)
        obs_spaces, action_spaces = house.obs_spaces, house.decode.spaces
        if layout is not None:
            obs_spaces, action_spaces = layout.obs_spaces, layout.action_spaces
        if house.encode.left_out:
            _tell_left_out(config.id, ", ".join(house.encode.left_out))
        envs = _vectorize(first, makers, mode)
    return VectorEnv(
        envs,
        obs_spaces,
        action_spaces,
        name=config.id,
        seed=seed,
        clip_reward=config.clip_reward,
        tasks=() if layout is None else layout.tasks,
        task_numbers=task_numbers * num_envs,
    )


def _lay_out(
    configs: Sequence[EnvConfig], layout: TaskLayout | None
) -> tuple[TaskLayout, list[int]]:
    """The layout (None: that of the configs) and the number in it of each config's task."""
    tasks = []
    for config in configs:
        with _told_in_one_line(config):
            env = _prepared(config, render=False)
            try:
                tasks.append(task_of(config, env))
            finally:
                env.close()
    layout = layout or TaskLayout.of(tasks)
    return layout, [layout.index(task) for task in tasks]


def _place(numbers: Sequence[int], number: int, layout: TaskLayout | None) -> Place | None:
    return None if layout is None else (numbers[number], layout)


@contextmanager
def _told_in_one_line(config: EnvConfig) -> Iterator[None]:
    try:
        yield
    except WorldFluxError:
        raise
    except Exception as error:
        raise make_error(config.id, dict(config.kwargs), error) from error


@functools.cache  # once, not for every evaluation
def _tell_left_out(env_id: str, keys: str) -> None:
    log.warning("env.id=%s: not observed: %s", env_id, keys)


def _vectorize(
    first: gym.Env[Any, Any], makers: Sequence[Callable[[], gym.Env[Any, Any]]], mode: str
) -> SyncVectorEnv | AsyncVectorEnv:
    if mode == "async":
        first.close()
        # What a worker raised is told by VectorEnv in one line; gymnasium would also warn thrice.
        warnings.filterwarnings("ignore", module=r"gymnasium\.vector\.async_vector_env")
        return AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    made = [lambda: first, *makers[1:]]
    return SyncVectorEnv(made, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def _make_one(
    config: EnvConfig,
    index: int,
    *,
    place: Place | None,
    seed: int,
    render: bool,
    main_process: int,
) -> gym.Env[Any, Any]:
    if os.getpid() != main_process:
        # A stop signal goes to the whole process group. The trainer answers it by finishing its
        # update, for which it needs these processes; they end when their pipe closes.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    house = _prepared(config, render)
    return ResumableEpisodes(house if place is None else OneOfTasks(house, *place), seed, index)


def _prepared(config: EnvConfig, render: bool) -> HouseStep:
    """One environment with all its wrappers but those that say which of several it is."""
    env = _suite_make(config, render)
    frames = config.obs == "pixels" and not is_picture(env.observation_space)
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
        env = StepLimit(env, config.time_limit)
    return HouseStep(
        env,
        ImageFormat(_size(config), config.grayscale),
        config.rescale_actions,
        frame_stack=config.frame_stack,
    )


def _size(config: EnvConfig) -> tuple[int, int] | None:
    return None if config.image_size is None else (config.image_size[0], config.image_size[1])


def _suite_make(config: EnvConfig, render: bool) -> gym.Env[Any, Any]:
    if config.suite == "dmc":
        pixels = config.obs == "pixels"
        size = _size(config) if pixels else None
        return dmc.make(config.id, config.kwargs, size=size, render=render or pixels)
    return _gym_make(config, render)


def _gym_make(config: EnvConfig, render: bool) -> gym.Env[Any, Any]:
    if config.import_module:
        _import(config.import_module, f"env.import={config.import_module}")
    for prefix, (module, extra) in REGISTERED_BY.items():
        if config.id.startswith(prefix):
            _import_extra(module, extra, config.id)
    kwargs = dict(config.kwargs)
    if config.time_limit is not None:
        kwargs.setdefault("max_episode_steps", -1)
    if render or config.obs == "pixels":
        kwargs.setdefault("render_mode", "rgb_array")
        _render_without_a_screen()
    if config.id.startswith("ALE/") and config.action_repeat > 1:
        kwargs.setdefault("frameskip", 1)
    return gym.make(config.id, **kwargs)


def _render_without_a_screen() -> None:
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def _import(module: str, key: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{key}: {error}") from error


def _import_extra(module: str, extra: str, env_id: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise missing(env_id, module, extra) from error


def _find(env: gym.Env[Any, Any], kind: type[HouseStep]) -> HouseStep:
    while not isinstance(env, kind):
        env = env.env  # type: ignore[attr-defined]
    return env
