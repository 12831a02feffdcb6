"""`.npz` files: the plain layout, mapped where it is not compressed, and those of ReplayBuffer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldflux.config.files import map_arrays
from worldflux.config.modalities import simple_action_spaces
from worldflux.config.spaces import FLAGS, Space, flat_action_dim
from worldflux.data.buffer import ReplayBuffer
from worldflux.data.recorded.encoding import View
from worldflux.data.recorded.layout import SPACES, step_columns
from worldflux.data.recorded.parts import Episodes, Steps
from worldflux.data.recording import copy_steps
from worldflux.errors import BufferError


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes of one file; BufferError where it is damaged or of neither layout."""
    name = str(path)
    try:
        arrays = map_arrays(path)
    except (OSError, ValueError) as error:
        raise BufferError(f"{name}: damaged or no .npz: {error}") from error
    if {"obs", "rewards"} <= arrays.keys():
        return [BufferEpisodes(name, ReplayBuffer.of_arrays(arrays, path), view)]
    spaces = arrays.pop(SPACES, None)
    text = None if spaces is None else str(spaces)
    return [step_columns(arrays, text, name, view)]


class BufferEpisodes(Episodes):
    """The episodes of a ReplayBuffer, whose flat actions are one-hot where they are discrete."""

    def __init__(self, name: str, buffer: ReplayBuffer, view: View) -> None:
        self.name, self._episodes, self._clip = name, list(buffer.episodes), view.clip
        shape, self._scaled = buffer.obs_shape, False
        dtype = "float32"
        if len(shape) == 3:
            dtype, self._scaled = "uint8", buffer.obs_dtype.kind == "f"
        self.obs_spaces = {"obs": Space(shape, dtype)}
        self.action_spaces = dict(view.actions)
        if flat_action_dim(view.actions) != buffer.action_dim:
            kind = "discrete" if _one_hot(buffer) else "continuous"
            self.action_spaces = simple_action_spaces(kind, buffer.action_dim)
        rows = [len(episode) + (episode.tail is not None) for episode in self._episodes]
        self.lengths = np.array(rows, np.int64)

    def read(self, episode: int, start: int, stop: int) -> Steps:
        one, count = self._episodes[episode], stop - start
        (space,) = self.obs_spaces.values()
        steps = {
            "obs": np.empty((count, *space.shape), one.obs.dtype),
            "action": np.zeros((count, self.action_dim), np.float32),
            "reward": np.zeros(count, np.float32),
            **{flag: np.zeros(count, bool) for flag in FLAGS},
        }
        if start == len(one):  # the tail alone: its observation is the last one
            whole = self.read(episode, start - 1, stop)
            return {key: value[1:] for key, value in whole.items()}
        copy_steps(one, start, steps, tails=True)
        if self._scaled:
            steps["obs"] = np.clip(np.rint(steps["obs"] * 255), 0, 255)
        steps["obs"] = steps["obs"].astype(space.dtype, copy=False)
        if self._clip:
            steps["reward"] = np.sign(steps["reward"])
        if stop == self.lengths[episode]:
            steps["action"][-1] = 0
            steps["is_last"][-1] = True
        return steps


def _one_hot(buffer: ReplayBuffer) -> bool:
    """Whether all actions are choices: one-hot, or nothing at all as after the last."""
    for episode in buffer.episodes:
        taken = episode.actions
        if not (np.isin(taken, (0, 1)).all() and (taken.sum(1) <= 1).all()):
            return False
    return buffer.action_dim > 1
