"""Takes frames of the running environment, within a share of the training time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldflux.config.env import EnvConfig
from worldflux.errors import WorldFluxError
from worldflux.report.video import rgb

if TYPE_CHECKING:
    from worldflux.envs.vector import VectorEnv

log = logging.getLogger(__name__)

SHARE = 0.008  # of the training time that drawing frames may take
MOST_CREDIT = 0.02  # seconds of drawing that a pause may save up
UNWATCHED_SECONDS = 2.0  # between frames while no page is open
GAMEPLAY_UNAVAILABLE = "gameplay_unavailable"

# (frame [H, W, 3] uint8, *, episode, episode_step, reward, done)
FrameCallback = Callable[..., None]


@dataclass
class FrameTap:
    """Called after each step of a vector environment; passes on frames of its environment 0.

    fps: at most so many per second, and so few that drawing takes no more than SHARE of the time.
    watched: whether a page is open; if not, a frame comes only now and then. The pictures that an
    agent observes cost nothing; otherwise the environment draws. An environment that cannot stops
    the frames, not the training: `on_failure` gets the reason.
    """

    frame_callback: FrameCallback
    _: KW_ONLY
    fps: int
    watched: Callable[[], bool] = lambda: True
    on_failure: Callable[[str], None] = lambda reason: None

    def __post_init__(self) -> None:
        self._next = 0.0
        self._credit = 0.0  # seconds that may be spent on drawing
        self._credited = time.perf_counter()
        self._drawn = 0
        self._failed = False

    def __call__(
        self, envs: VectorEnv, row: Mapping[str, np.ndarray], episode: int, episode_step: int
    ) -> None:
        now = time.perf_counter()
        if now < self._next or self._failed:
            return
        self._credit = min(self._credit + SHARE * (now - self._credited), MOST_CREDIT)
        self._credited = now
        if self._credit < 0:
            return
        try:
            frame = observed_frame(envs, row)
            frame = envs.render() if frame is None else frame
        except WorldFluxError as error:
            self._fail(str(error))
            return
        if frame is None:
            self._fail("the environment draws no frames")
            return
        self.frame_callback(
            frame,
            episode=episode,
            episode_step=episode_step,
            reward=float(envs.raw_reward[0]),
            done=bool(row["is_last"][0]),
        )
        self._drawn += 1
        if self._drawn > 1:  # the first one starts the renderer
            self._credit -= time.perf_counter() - now
        self._next = now + (1.0 / self.fps if self.watched() else UNWATCHED_SECONDS)

    def _fail(self, reason: str) -> None:
        self._failed = True
        self.on_failure(reason)


def observed_frame(envs: VectorEnv, row: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The newest picture `[H, W, 3]` that environment 0's agent sees, None if it sees none."""
    key = next((key for key, space in envs.obs_spaces.items() if space.image), None)
    return None if key is None else rgb(row[key][0])


def why_no_frames(config: EnvConfig, seed: int) -> str | None:
    """None if the environment draws, else the reason. Tries it once in a fresh environment,
    so that those of the training never meet a renderer that fails."""
    from worldflux.envs.make import make_envs

    try:
        envs = make_envs(config, num_envs=1, mode="sync", seed=seed, render=True)
    except WorldFluxError as error:
        return str(error)
    try:
        if any(space.image for space in envs.obs_spaces.values()):
            return None
        envs.reset()
        return "it draws no frames" if envs.render() is None else None
    except WorldFluxError as error:
        return str(error)
    finally:
        envs.close()
