"""The replay of a run, as its newest save left it: what was collected, ready to train others on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import map_arrays
from worldflux.config.spaces import Space
from worldflux.data.recorded.encoding import Rows, View
from worldflux.data.recorded.parts import Episodes, StepColumns
from worldflux.data.replay_files import SCHEMA
from worldflux.errors import BufferError, CheckpointError, ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.run_folder.disk import has_facts, read_sealed
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import manifest_or_copy
from worldflux.run_folder.names import MANIFEST, REPLAY

PER_ENV = "steps per environment (data.capacity / training.num_envs)"
MORE = "environments with one step more"


def run_of(path: Path) -> Path | None:
    """The run folder whose replay a path is, or holds; None: of none."""
    for run in (path, path.parent):
        if (run / REPLAY).is_dir() and (run / MANIFEST).is_file() and path in (run, run / REPLAY):
            return run
    return None


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes that the environments of one run left; BufferError where they are damaged."""
    run = run_of(path)
    assert run is not None
    try:
        check_links(run)
        obs, actions = _spaces(manifest_or_copy(run))
    except (CheckpointError, ConfigurationError, LookupError, TypeError) as error:
        raise BufferError(f"{run}: {MANIFEST}: names no spaces: {error}") from error
    folders = sorted(one.parent for one in (run / REPLAY).glob("rank_*/replay-*.json"))
    parts: list[Episodes] = []
    for folder in dict.fromkeys(folders) or [run / REPLAY]:
        parts += _environments(folder, obs, actions, view)
    return parts


def _spaces(manifest: Mapping[str, Any]) -> tuple[dict[str, Space], dict[str, Space]]:
    content = manifest["model_config"]
    model = family_of_type(content["model_type"]).config_class().from_dict(content)
    return model.obs_spaces(), model.action_spaces()


def _environments(
    folder: Path, obs: Mapping[str, Space], actions: Mapping[str, Space], view: View
) -> list[Episodes]:
    saves = sorted(folder.glob("replay-*.json"))
    if not saves:
        raise BufferError(f"{folder}: no save of a replay: the run keeps none, or saved none yet")
    try:
        index = read_sealed(saves[-1])
        if index.get("schema") != SCHEMA:
            raise ValueError(f"not of schema {SCHEMA}")
        layout, added = index["layout"], int(index["sampler"]["added"])
        ring, num_envs = int(layout[PER_ENV]), int(layout["num_envs"])
        segments = [
            _mapped(folder / one["steps"]["name"], one["steps"]) for one in index["segments"]
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BufferError(f"{saves[-1]}: damaged: {error}") from error
    if not segments:
        raise BufferError(f"{folder}: it holds no steps")
    size, extra = int(layout["segment rows"]), int(layout.get(MORE, 0))
    parts: list[Episodes] = []
    for env in range(num_envs):
        kept = ring - (1 if extra and env < num_envs - extra else 0)
        first = max(0, added - kept)
        keys = [*obs, "action", "reward", "is_terminal", "is_first"]
        columns = {key: _column(segments, key, env, first, ring, size) for key in keys}
        is_first = columns.pop("is_first")(0, added - first)
        if view.clip:
            columns["reward"] = _signs(columns["reward"])
        parts.append(StepColumns(f"{folder}:{env}", obs, actions, columns, is_first))
    return parts


def _mapped(path: Path, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not has_facts(path, {key: value for key, value in facts.items() if key != "name"}):
        raise ValueError(f"{path.name}: its checksum differs")
    return map_arrays(path)


def _column(
    segments: list[dict[str, np.ndarray]], key: str, env: int, first: int, ring: int, size: int
) -> Rows:
    """Rows of one environment, counted from step `first` on, out of the ring's segments."""

    def read(start: int, stop: int) -> np.ndarray:
        pieces = [segments[0][key][env, :0]]
        step = first + start
        while step < first + stop:
            index, row = divmod(step % ring, size)
            end = min(size, ring - index * size)
            count = min(first + stop - step, end - row)
            pieces.append(segments[index][key][env, row : row + count])
            step += count
        return np.concatenate(pieces)

    return read


def _signs(rows: Rows) -> Rows:
    return lambda start, stop: np.sign(rows(start, stop))
