"""LeRobot folders of version 3: Parquet tables of steps, and mp4 files of the cameras.

A row is an observation and the action taken after it; `next.reward` is what followed, 0 where the
folder has none. The observation after an episode's last action is not there, and its end counts as a
time limit. Actions go to [-1, 1] by the bounds in `meta/stats.json`. Videos are decoded once, into
memory or a file in TMPDIR, at the size of `env.image_size`.
"""

from __future__ import annotations

import importlib
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces as gs

from worldflux.config.files import open_regular
from worldflux.config.spaces import Space
from worldflux.data.recorded.encoding import View, action_parts, observation_parts
from worldflux.data.recorded.parquet import columns_of, open_file
from worldflux.data.recorded.parts import Episodes, Transitions, json_mapping
from worldflux.data.recorded.room import room_for
from worldflux.envs.spaces import resize
from worldflux.errors import BufferError, MissingDependencyError

INFO, STATS, TABLES = "meta/info.json", "meta/stats.json", "meta/episodes"
ACTION, REWARD, EPISODE, OBSERVED = "action", "next.reward", "episode_index", "observation."
VERSION = re.compile(r"v3\.\d+")
VECTORS = ("float32", "float64", "int64", "int32")
LARGEST_SIDE = 8_192  # of a picture

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Table:
    """The steps of all files `[N, ...]`, by column; begins, counts `[E]`: rows of each episode."""

    columns: Mapping[str, np.ndarray]
    begins: np.ndarray
    counts: np.ndarray


def takes(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / INFO).is_file()


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes of one folder; BufferError where it is damaged or of another version."""
    info = json_mapping(path / INFO)
    version, features = info.get("codebase_version"), info.get("features")
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        text = f"{path}: {INFO}: codebase_version {version!r} is not read, v3.0 is"
        raise BufferError(text)
    if not isinstance(features, Mapping) or ACTION not in features:
        raise BufferError(f"{path}: {INFO}: features: no action")
    try:
        kinds = {str(key): str(one["dtype"]) for key, one in features.items()}
        shapes = {str(key): tuple(int(n) for n in one["shape"]) for key, one in features.items()}
        fps = float(info.get("fps", 0))
    except (LookupError, TypeError, ValueError) as error:
        raise BufferError(f"{path}: {INFO}: features: {error}") from error
    seen = [key for key in features if key.startswith(OBSERVED)]
    vectors = [key for key in seen if kinds[key] in VECTORS]
    videos = [key for key in seen if kinds[key] == "video"]
    if left := [key for key in seen if key not in (*vectors, *videos)]:
        log.warning("%s: not observed: %s", path, ", ".join(left))
    if not vectors and not videos:
        raise BufferError(f"{path}: {INFO}: features: nothing is observed")
    table = _table(path, [*vectors, ACTION], REWARD in features, view)
    observed: dict[str, np.ndarray] = {key: table.columns[key] for key in vectors}
    for key in videos:
        observed[key] = _video(path, key, shapes[key], table, fps, view)
    return [_transitions(path, observed, table, view)]


def _tables(path: Path, below: str, wanted: list[str], view: View) -> dict[str, np.ndarray]:
    """Columns of all Parquet files below a folder, in the order of their names."""
    files = sorted((path / below).glob("chunk-*/file-*.parquet"))
    if not files:
        raise BufferError(f"{path}: {below}: it has no tables")
    parts = []
    for one in files:
        file = open_file(one)
        missing = [key for key in wanted if key not in file.schema_arrow.names]
        if missing:
            raise BufferError(f"{one}: {missing[0]}: missing")
        parts.append(columns_of(file, wanted, {}, view, str(one)))
    try:
        return {key: np.concatenate([part[key] for part in parts]) for key in wanted}
    except ValueError as error:
        raise BufferError(f"{path}: {below}: its tables differ: {error}") from error


def _table(path: Path, wanted: list[str], rewarded: bool, view: View) -> _Table:
    more = [EPISODE, *([REWARD] if rewarded else [])]
    columns = _tables(path, "data", [*wanted, *more], view)
    episode = columns[EPISODE].reshape(-1)
    begins = np.flatnonzero(np.diff(episode, prepend=episode[:1] - 1))
    if len(np.unique(episode[begins])) < len(begins):
        raise BufferError(f"{path}: data: {EPISODE}: an episode's rows are not together")
    if not rewarded:
        log.warning("%s: it has no %s: every reward is 0", path, REWARD)
        columns[REWARD] = np.zeros(len(episode), np.float32)
    return _Table(columns, begins, np.diff(begins, append=len(episode)))


def _transitions(
    path: Path, observed: Mapping[str, np.ndarray], table: _Table, view: View
) -> Transitions:
    arrays = {key.removeprefix(OBSERVED): array for key, array in observed.items()}
    spaces: dict[str, gs.Space[Any]] = {key: _space(array) for key, array in arrays.items()}
    seen = {str(one.leaf.path[0]): one for one in observation_parts(gs.Dict(spaces), view.image)}
    action = table.columns[ACTION].reshape(len(table.columns[ACTION]), -1)
    (acts,) = action_parts(_bounds(path, action, view), rescale=True)
    rewards = table.columns[REWARD].reshape(-1)

    def get(key: str, episode: int, start: int, stop: int) -> np.ndarray:
        rows = slice(int(table.begins[episode]) + start, int(table.begins[episode]) + stop)
        if key == "action":
            return acts.convert(action[rows])
        if key == "reward":
            values = rewards[rows].astype(np.float32)
            return np.sign(values) if view.clip else values
        return seen[key].convert(arrays[key][rows])

    obs: dict[str, Space] = {key: one.space for key, one in seen.items()}
    never = np.zeros(len(table.counts), bool)
    return Transitions(
        str(path), obs, {"action": acts.space}, table.counts, never, get, final=False
    )


def _space(array: np.ndarray) -> gs.Box:
    if array.dtype == np.uint8:
        return gs.Box(0, 255, array.shape[1:], np.uint8)
    return gs.Box(-np.inf, np.inf, array.shape[1:], np.float32)


def _bounds(path: Path, action: np.ndarray, view: View) -> gs.Space[Any]:
    """The environment's actions where one is named and they fit, else those of the statistics."""
    width = action.shape[1]
    if isinstance(view.acted, gs.Box) and math.prod(view.acted.shape) == width:
        return view.acted
    try:
        stats = json_mapping(path / STATS)[ACTION]
        low, high = (np.array(stats[end], np.float64).reshape(-1) for end in ("min", "max"))
        if low.shape != (width,) or high.shape != (width,) or not (low <= high).all():
            raise ValueError(f"bounds of {low.shape} for {width} actions")
    except (LookupError, TypeError, ValueError) as error:
        raise BufferError(f"{path}: {STATS}: action: no bounds: {error}") from error
    return gs.Box(low.astype(np.float32), high.astype(np.float32), (width,), np.float32)


# === Videos ===================================================================================


def _library() -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        text = "videos need av, which is not installed; run: pip install 'worldflux[lerobot]'"
        raise MissingDependencyError(text) from error


def _video(
    path: Path, key: str, shape: tuple[int, ...], table: _Table, fps: float, view: View
) -> np.ndarray:
    """Frames of one camera `[N, H, W, 3]`, a row each."""
    if len(shape) != 3 or max(shape) > LARGEST_SIDE or fps <= 0:
        raise BufferError(f"{path}: {INFO}: {key}: shape {shape} at {fps} frames a second")
    height, width = shape[:2] if shape[2] == 3 else shape[1:]
    size = view.image.size or (height, width)
    rows = int(table.counts.sum())
    out = room_for((rows, *size, 3), np.dtype(np.uint8), view.budget, str(path))
    names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    places = _tables(path, TABLES, [EPISODE, *names], view)
    order = np.argsort(places[EPISODE].reshape(-1), kind="stable")
    chunks, files, starts = (places[name].reshape(-1)[order] for name in names)
    if len(order) != len(table.counts):
        text = f"{len(order)} episodes, and the tables of steps have {len(table.counts)}"
        raise BufferError(f"{path}: {TABLES}: {text}")
    for chunk, number in sorted({*zip(chunks.tolist(), files.tolist(), strict=True)}):
        held = np.flatnonzero((chunks == chunk) & (files == number))
        first = np.rint(starts[held] * fps).astype(np.int64)
        file = path / "videos" / key / f"chunk-{int(chunk):03d}" / f"file-{int(number):03d}.mp4"
        wanted = {
            int(frame) + offset: int(table.begins[episode]) + offset
            for episode, frame in zip(held, first, strict=True)
            for offset in range(int(table.counts[episode]))
        }
        _decode(file, (int(height), int(width)), size, wanted, out)
    return out


def _decode(
    path: Path,
    shape: tuple[int, int],
    size: tuple[int, int],
    wanted: dict[int, int],
    out: np.ndarray,
) -> None:
    """Puts frames of a file, by their number, into rows of `out`; BufferError: one is missing."""
    av = _library()
    left = dict(wanted)
    try:
        with open_regular(path) as file, av.open(file, format="mp4") as container:
            for number, frame in enumerate(container.decode(video=0)):
                row = left.pop(number, None)
                if row is not None:
                    if (frame.height, frame.width) != shape:
                        text = f"frames of {frame.height} x {frame.width}, expected {shape}"
                        raise BufferError(f"{path}: {text}")
                    picture = frame.to_ndarray(format="rgb24")
                    out[row] = picture if size == shape else resize(picture, size)
                if not left:
                    return
    except (OSError, ValueError, av.FFmpegError) as error:
        raise BufferError(f"{path}: damaged or no mp4: {error}") from error
    raise BufferError(f"{path}: frame {min(left)} is missing, the tables have it")
