"""Wrappers around one environment, in the order `make` puts them."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gs

from worldflux.config.spaces import Space
from worldflux.envs.failures import EnvironmentFailed, foreign_code, time_limit
from worldflux.envs.gate import checker
from worldflux.envs.spaces import (
    ActionDecoder,
    ImageFormat,
    ObservationEncoder,
    gym_space,
    is_picture,
    leaves,
)
from worldflux.envs.suites import GymEnv
from worldflux.errors import ConfigurationError

CLOSE_SECONDS = 20.0

log = logging.getLogger(__name__)

Wrapper = gym.Wrapper[Any, Any, Any, Any]
Start = tuple[Any, dict[str, Any]]  # observation, info
Step = tuple[
    Any, SupportsFloat, bool, bool, dict[str, Any]
]  # observation, reward, terminated, truncated


class RenderObservation(Wrapper):
    """The `rgb_array` frame `[H, W, 3]` uint8 is the only observation."""

    def __init__(self, env: GymEnv) -> None:
        super().__init__(env)
        env.reset(seed=0)
        frame = self._frame()
        if frame.min() == frame.max():
            warn_blank(env.spec.id if env.spec else str(env.unwrapped))
        self.observation_space = gs.Box(0, 255, frame.shape, np.uint8)
        self._check = checker(self.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        _, info = self.env.reset(seed=seed, options=options)
        return self._checked_frame(), info

    def step(self, action: Any) -> Step:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._checked_frame(), reward, terminated, truncated, info

    def _checked_frame(self) -> np.ndarray:
        frame = self._frame()
        if self._check and (reason := self._check(frame)):
            raise EnvironmentFailed(f"render() {reason}")
        return frame

    def _frame(self) -> np.ndarray:
        try:
            frame: Any = self.env.render()
        except NotImplementedError:
            frame = None
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise ConfigurationError(
                "env.obs=pixels: the environment's render() gives no rgb_array picture"
            )
        return frame


@functools.cache  # once, not for every copy
def warn_blank(name: str) -> None:
    log.warning("%s: render() draws a single colour; does it need a screen?", name)


class FlattenVectors(gym.ObservationWrapper[Any, Any, Any]):
    """All arrays of the observation as one float32 vector, in the environment's own order."""

    def __init__(self, env: GymEnv) -> None:
        super().__init__(env)
        self._leaves = list(leaves(env.observation_space, "obs"))
        for leaf in self._leaves:
            if not isinstance(leaf.space, gs.Box) or is_picture(leaf.space):
                raise ConfigurationError(
                    f"env.flatten=true: observation key {leaf.name!r} is no vector of numbers "
                    f"({leaf.space})"
                )
        size = sum(int(np.prod(leaf.space.shape or ())) for leaf in self._leaves)
        self.observation_space = gs.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        parts = [np.asarray(leaf.take(observation)).reshape(-1) for leaf in self._leaves]
        return np.concatenate(parts).astype(np.float32)


class ActionRepeat(Wrapper):
    """Repeats each action, sums the rewards and stops where the episode ends.

    pool: the observation is the element-wise maximum of the last `pool` frames of the repeat,
    Atari's remedy against flickering sprites (1: the last frame as it is).
    """

    def __init__(self, env: GymEnv, repeat: int, pool: int = 1) -> None:
        super().__init__(env)
        self.repeat = repeat
        self._pool = pool

    def step(self, action: Any) -> Step:
        total = 0.0
        frames: list[np.ndarray] = []
        for _ in range(self.repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if self._pool > 1:
                frames.append(np.array(obs))
            if terminated or truncated:
                break
        if len(frames) > 1:
            obs = np.max(np.stack(frames[-self._pool :]), axis=0)
        return obs, total, terminated, truncated, info


class ChosenSeeds(Wrapper):
    """Resets with one of `seeds`, which the seed of the episode picks; without one where there are
    none."""

    def __init__(self, env: GymEnv, seeds: Sequence[int]) -> None:
        super().__init__(env)
        self._seeds = tuple(seeds)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        if seed is not None:
            seed = self._seeds[seed % len(self._seeds)] if self._seeds else None
        return self.env.reset(seed=seed, options=options)


class NoopStart(Wrapper):
    """Begins each episode with up to `most` frames of the first action, drawn from the reset seed."""

    def __init__(self, env: GymEnv, most: int) -> None:
        super().__init__(env)
        self._most = most
        self._noop = int(env.action_space.start) if isinstance(env.action_space, gs.Discrete) else 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        obs, info = self.env.reset(seed=seed, options=options)
        frames = int(np.random.default_rng(seed).integers(self._most + 1))
        for _ in range(frames):
            obs, _, terminated, truncated, info = self.env.step(self._noop)
            if terminated or truncated:
                obs, info = self.env.reset(options=options)
        return obs, info


class FrameStack:
    """The newest `frames` pictures of every picture key, oldest first along the channels."""

    def __init__(self, spaces: Mapping[str, Space], frames: int) -> None:
        self.spaces = dict(spaces)
        self._held: dict[str, deque[np.ndarray]] = {}
        for key, space in spaces.items():
            if space.dtype == "uint8" and len(space.shape) == 3:
                channels, *size = space.shape
                self.spaces[key] = Space((frames * channels, *size), "uint8")
                self._held[key] = deque(maxlen=frames)

    def __call__(self, obs: dict[str, np.ndarray], *, first: bool) -> dict[str, np.ndarray]:
        stacked = dict(obs)
        for key, held in self._held.items():
            held.extend([obs[key]] * ((held.maxlen or 1) if first else 1))
            stacked[key] = np.concatenate(held)
        return stacked


class EncodedStep(Wrapper):
    """Flat actions in, named observation arrays out, no infos.

    episode_length: agent steps after which an episode is cut; None: no limit is known.
    """

    def __init__(
        self, env: GymEnv, image: ImageFormat, rescale: bool, frame_stack: int = 1
    ) -> None:
        super().__init__(env)
        self.encode = ObservationEncoder(env.observation_space, image)
        self.decode = ActionDecoder(env.action_space, rescale)
        self.episode_length = episode_length(env)
        self._stack = FrameStack(self.encode.spaces, frame_stack) if frame_stack > 1 else None
        self.obs_spaces = self._stack.spaces if self._stack else self.encode.spaces
        self.action_spaces = self.decode.spaces
        self.observation_space = gym_space(self.obs_spaces)
        self.action_space = gs.Box(-np.inf, np.inf, (self.decode.flat_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._encode(obs, first=True), {}

    def step(self, action: np.ndarray) -> Step:
        obs, reward, terminated, truncated, _ = self.env.step(self.decode(action))
        encoded = self._encode(obs, first=False)
        return encoded, float(reward), bool(terminated), bool(truncated), {}

    def _encode(self, obs: Any, *, first: bool) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):  # an environment may raise for them: it is checked already
            encoded = self.encode(obs)
        return self._stack(encoded, first=first) if self._stack else encoded


def episode_length(env: GymEnv) -> int | None:
    """Steps of `env` after which one of its wrappers, or itself, cuts an episode; None: none says
    so. The limit is kept where Gymnasium's TimeLimit keeps it."""
    limits: list[int] = []
    layer: Any = env
    repeat = 1
    while layer is not None:
        steps = vars(layer).get("_max_episode_steps")
        if isinstance(steps, int | np.integer) and steps > 0:
            limits.append(ceil(steps / repeat))
        if isinstance(layer, ActionRepeat):
            repeat *= layer.repeat
        layer = vars(layer).get("env")
    return min(limits, default=None)


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Reset seed of one episode of one environment: the same run sees the same episodes."""
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0] >> 1)


class ResumableEpisodes(Wrapper):
    """Gives every episode its own seed, so that one can be repeated from its actions alone.

    After `resume_at(states)` the next `reset` returns to a recorded place: it resets with that
    episode's seed and replays all its actions but the last, which the caller then takes through
    `step`. An episode without actions is already in place, so that one `step` changes nothing.
    """

    def __init__(self, env: GymEnv, seed: int, index: int, name: str = "") -> None:
        super().__init__(env)
        self._name = name
        self._seed = seed
        self._index = index
        self._episodes = 0
        self._resume: list[np.ndarray] | None = None
        self._hold: Any = None

    def resume_at(self, seed: int, places: list[tuple[int, np.ndarray]]) -> None:
        """Places of all environments: (episodes begun, flat actions `[n, A]` since)."""
        self._seed = seed
        self._episodes, actions = places[self._index]
        self._resume = list(actions)

    def begin_anew(self, seed: int) -> None:
        """The next reset is the first one, with this seed."""
        self._seed, self._episodes, self._resume = seed, 0, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        with foreign_code():
            return self._reset(options)

    def _reset(self, options: dict[str, Any] | None) -> Start:
        self._hold = None
        if self._resume is None:
            self._episodes += 1
        obs, info = self.env.reset(
            seed=episode_seed(self._seed, self._index, self._episodes), options=options
        )
        if self._resume is not None:
            ended = not self._resume
            for action in self._resume[:-1]:
                obs, _, terminated, truncated, _ = self.env.step(action)
                # An episode that ends earlier than it did before is not the same one any more.
                if ended := bool(terminated or truncated):
                    break
            self._hold = obs if ended else None
            self._resume = None
        return obs, info

    def step(self, action: np.ndarray) -> Step:
        if self._hold is not None:
            obs, self._hold = self._hold, None
            return obs, 0.0, False, False, {}
        with foreign_code():
            return self.env.step(action)

    def render(self) -> Any:
        with foreign_code():
            return self.env.render()

    def close(self) -> None:
        """Ends the environment; what it raises, or that it takes too long, is only a warning."""
        try:
            with time_limit(CLOSE_SECONDS), foreign_code():
                self.env.close()
        except EnvironmentFailed as error:
            log.warning("environment %s: close() failed: %s", self._name, error)
