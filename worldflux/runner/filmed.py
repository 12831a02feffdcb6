"""Videos of the policy while it is trained."""

from __future__ import annotations

import logging

import numpy as np

from worldflux.config.env import EnvConfig
from worldflux.envs.tasks import TaskLayout
from worldflux.errors import DiskError, WorldFluxError
from worldflux.report.video import write_video
from worldflux.run_folder.names import VIDEOS
from worldflux.training.evaluate import GreedyEvaluator
from worldflux.training.seed import VIDEO, derive_seed
from worldflux.training.session import Callback, TrainingSession
from worldflux.training.trainer import due

UNAVAILABLE = "video_unavailable"
LOGGED_FRAMES, LOGGED_SIDE = 200, 256  # of a video that loggers get: frames, pixels

log = logging.getLogger("worldflux.run")


class Videos(Callback):
    """Records a greedy episode every so many updates, into `videos/` and for the loggers. It leaves
    the training as it is. An environment that draws no frames is said once, and a degraded mode."""

    def __init__(self, env: EnvConfig, layout: TaskLayout | None, time_limit: int | None) -> None:
        self._evaluator = GreedyEvaluator(env, 1, layout=layout, time_limit=time_limit)
        self._name = env.id
        self.degraded_modes: list[str] = []

    def on_step_end(self, trainer: TrainingSession) -> None:
        config, step = trainer.config, trainer.state.global_step
        if self.degraded_modes or not due(step, config.video_interval):
            return
        with trainer.pausing("recording a video"):
            frames = self._frames(trainer, derive_seed(config.seed, VIDEO, step))
            if frames is not None:
                write_video(trainer.folder.path / VIDEOS / f"step_{step:09d}.gif", frames)
                trainer.show_pictures({"videos/episode": smaller(frames)})

    def _frames(self, trainer: TrainingSession, seed: int) -> np.ndarray | None:
        """`[T, H, W, 3]` of an episode."""
        why = "it draws no frames"
        try:
            played = self._evaluator(trainer.agent, seed, record=True)
            if played is not None and played.frames:
                return np.stack(played.frames)
        except DiskError:
            raise
        except WorldFluxError as error:
            why = str(error)
        log.warning("environment %s: no videos are recorded: %s", self._name, why)
        self.degraded_modes.append(UNAVAILABLE)
        return None


def smaller(frames: np.ndarray) -> np.ndarray:
    """A video that loggers take quickly: fewer frames, fewer pixels."""
    often = -(-len(frames) // LOGGED_FRAMES)
    side = -(-max(frames.shape[1:3]) // LOGGED_SIDE)
    return np.ascontiguousarray(frames[::often, ::side, ::side])
