"""Keeps the episodes that a training collects, in files of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.spaces import FLAGS, Space
from worldflux.data.recorded.parts import Steps
from worldflux.data.recorded.writing import write_episodes
from worldflux.run_folder.names import EPISODES, REPLAY

FILE = re.compile(r"episodes-(\d+)\.npz")


class Rows:
    """Rows of the step dict of N environments, gathered to whole episodes. A beginning that was not
    seen is left out with its episode."""

    def __init__(self, obs_keys: Mapping[str, Space], num_envs: int) -> None:
        self._keys = [*obs_keys]
        self.open: list[list[Steps]] = [[] for _ in range(num_envs)]

    def add(
        self, row: Mapping[str, np.ndarray], action: np.ndarray, reward: np.ndarray, env: int
    ) -> Steps | None:
        """Adds the newest row of one environment; the whole episode `[L+1, ...]`, if that ended it."""
        rows = self.open[env]
        if row["is_first"][env]:
            rows.clear()
        elif not rows:
            return None
        step = {key: row[key][env].copy() for key in (*self._keys, *FLAGS)}
        step |= {"action": action[env].copy(), "reward": np.asarray(reward[env], np.float32)}
        rows.append(step)
        if not row["is_last"][env]:
            return None
        whole = {key: np.stack([one[key] for one in rows]) for key in rows[0]}
        rows.clear()
        return whole


class Recorder:
    """Gathers the episodes of a collector's environments. Those that ended are written when the run
    saves, to ``episodes/episodes-<number of the first>.npz``, so that the files of a run that goes on
    are those of one that was never stopped."""

    def __init__(
        self, obs_spaces: Mapping[str, Space], action_spaces: Mapping[str, Space], num_envs: int
    ) -> None:
        self._spaces = obs_spaces, action_spaces
        self._rows = Rows(obs_spaces, num_envs)
        self._ended: list[Steps] = []
        self._count = 0  # episodes that are written

    def add(self, row: Mapping[str, np.ndarray], action: np.ndarray, reward: np.ndarray) -> None:
        """The newest rows `[N, ...]`, the actions taken after them and their unclipped rewards."""
        for env in range(len(reward)):
            whole = self._rows.add(row, action, reward, env)
            if whole is not None:
                self._ended.append(whole)

    def abandon(self, mask: np.ndarray) -> None:
        """The open episodes of these environments `[N]` do not go on."""
        for env in np.flatnonzero(mask):
            self._rows.open[env].clear()

    def write(self, replay: Path) -> None:
        """Writes what has ended since the last time; replay: the folder that the replay is saved in."""
        alone = replay.name == REPLAY
        folder = replay.parent / EPISODES if alone else replay.parents[1] / EPISODES / replay.name
        for path in folder.glob("episodes-*.npz"):  # of a run that went on from an earlier save
            match = FILE.fullmatch(path.name)
            if match and int(match[1]) >= self._count:
                path.unlink()
        if self._ended:
            out = folder / f"episodes-{self._count:08d}.npz"
            write_episodes(out, self._ended, *self._spaces)
            self._count += len(self._ended)
            self._ended = []

    def state_dict(self) -> dict[str, Any]:
        """After `write`: the count, and the open episodes."""
        opened = {
            str(env): {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            for env, rows in enumerate(self._rows.open)
            if rows
        }
        return {"count": self._count, "open": opened}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count, self._ended = int(state["count"]), []
        for env, rows in enumerate(self._rows.open):
            columns = {k: np.asarray(v) for k, v in state["open"].get(str(env), {}).items()}
            length = len(columns["reward"]) if columns else 0
            rows[:] = [{key: value[n] for key, value in columns.items()} for n in range(length)]
