"""HDF5 files: the plain layout and that of D4RL. Files of others: nothing but plain arrays that lie
in the file itself is read, and links, plugins and sizes that a file does not have are refused."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from worldflux.config.files import open_regular
from worldflux.config.spaces import Space
from worldflux.data.recorded.encoding import View, action_parts, observation_parts
from worldflux.data.recorded.layout import (
    SPACES,
    action_space,
    joined,
    observation_space,
    step_columns,
)
from worldflux.data.recorded.parts import Episodes, Transitions
from worldflux.errors import BufferError, MissingDependencyError

DEEPEST, MOST = 8, 1_000  # groups in each other, datasets of a group
# Of the library itself: deflate, shuffle, fletcher32, nbit, scaleoffset and h5py's lzf. Others load code.
FILTERS = (1, 2, 3, 5, 6, 32000)
BEST_RATIO = 1_200  # of bytes to compressed ones; deflate's is 1,032
LARGEST_CHUNK = 2**30
UNWRITTEN = 2**26  # bytes of an array that may be of zeros which the file leaves out
SCANNED = 65_536  # rows that are compared at a time


def library() -> ModuleType:
    """h5py; MissingDependencyError."""
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        text = "HDF5 needs h5py, which is not installed; run: pip install 'worldflux[hdf5]'"
        raise MissingDependencyError(text) from error


def open_file(path: Path) -> Any:
    """A regular HDF5 file, to read; BufferError."""
    h5py = library()
    try:
        open_regular(path).close()
        return h5py.File(os.fspath(path), "r", locking=False)
    except OSError as error:
        raise BufferError(f"{path}: damaged or no HDF5 file: {error}") from error


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes of one file; BufferError where it is damaged or of neither layout."""
    file = open_file(path)
    names = set(file.keys())
    if "is_first" in names:
        arrays = {key: column(one, path, view) for key, one in datasets(file, path).items()}
        return [step_columns(arrays, spaces_text(file, path), str(path), view)]
    if {"observations", "actions", "rewards"} <= names:
        return [_d4rl(file, path, view)]
    raise BufferError(
        f"{path}: neither the plain layout (action, reward, is_first) nor D4RL's (observations,"
        f" actions, rewards, terminals); it has {', '.join(sorted(names)[:8]) or 'nothing'}"
    )


def spaces_text(file: Any, path: Path) -> str | None:
    """The attribute that states the spaces, where there is one."""
    value = file.attrs.get(SPACES) if SPACES in file.attrs else None
    if value is not None and not isinstance(value, str):
        raise BufferError(f"{path}: {SPACES}: expected a text")
    return value


def datasets(group: Any, path: Path, prefix: str = "") -> dict[str, Any]:
    """Every array below a group, by its path in it."""
    return dict(_walk(group, path, prefix, DEEPEST))


def _walk(group: Any, path: Path, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    h5py = library()
    if depth == 0 or len(group) > MOST:
        raise BufferError(f"{path}: {prefix or '/'}: too many groups or arrays in each other")
    for name in group:
        inner = child(group, name, path)
        key = f"{prefix}/{name}" if prefix else name
        if isinstance(inner, h5py.Group):
            yield from _walk(inner, path, key, depth - 1)
        else:
            yield key, checked(inner, path, key)


def child(group: Any, name: str, path: Path) -> Any:
    """What a group itself holds under a name; a link to elsewhere is refused."""
    h5py = library()
    try:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise BufferError(f"{path}: {group.name}/{name}: a link, which is not followed")
        return group[name]
    except (KeyError, OSError, RuntimeError) as error:
        raise BufferError(f"{path}: {group.name}/{name}: {error}") from error


def checked(dataset: Any, path: Path, key: str, kinds: str = "biuf") -> Any:
    """A dataset that lies in its file and has as many bytes as it declares; BufferError."""
    h5py = library()

    def refuse(reason: str) -> BufferError:
        return BufferError(f"{path}: {key}: {reason}")

    if not isinstance(dataset, h5py.Dataset):
        raise refuse("no array")
    bytes_of = h5py.check_vlen_dtype(dataset.dtype)
    if dataset.dtype.kind not in kinds or (dataset.dtype.kind == "O" and bytes_of != np.uint8):
        raise refuse(f"of type {dataset.dtype}, expected numbers")
    if dataset.is_virtual or dataset.external:
        raise refuse("it lies in other files, which are not read")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
    if any(one not in FILTERS for one in filters):
        raise refuse(f"compressed by a plugin (filter {filters[-1]}), which is not loaded")
    size, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > LARGEST_CHUNK:
        raise refuse(f"chunks of {chunk:,} bytes")
    if size > max(stored * (BEST_RATIO if filters else 1), UNWRITTEN):
        raise refuse(f"declares {size:,} bytes and holds {stored:,}")
    return dataset


def column(dataset: Any, path: Path, view: View) -> Any:
    """A dataset as an array to slice: mapped where it is stored as it is, in memory where it is small,
    else read chunk by chunk."""
    offset = dataset.id.get_offset()
    if offset is not None and dataset.chunks is None and dataset.size:
        if dataset.dtype.isnative:
            return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if not view.budget.take(size):
        return dataset
    try:
        return dataset[()]
    except OSError as error:
        raise BufferError(f"{path}: {dataset.name}: cannot be read: {error}") from error


# === D4RL ====================================================================================


def _d4rl(file: Any, path: Path, view: View) -> Transitions:
    """A row is an observation, the action taken after it, and what followed; `timeouts` are ends that
    are none of the task, `next_observations` what was seen after each action."""
    name = str(path)
    obs = observed(file, "observations", path, view)
    action, reward = (
        column(checked(child(file, key, path), path, key), path, view)
        for key in ("actions", "rewards")
    )
    rows = len(reward) if reward.shape else 0
    following = observed(file, "next_observations", path, view)
    ends = {key: _flags(file, key, path, rows) for key in ("terminals", "timeouts") if key in file}
    lengths = {
        "observations": {len(array) for array in obs.values()},
        "next_observations": {len(array) for array in following.values()},
        "actions": {len(action)},
    }
    for key, counts in lengths.items():
        if counts - {rows}:
            raise BufferError(f"{name}: {key}: {min(counts - {rows}):,} rows, rewards {rows:,}")
    if reward.shape != (rows,) or not rows:
        raise BufferError(f"{name}: rewards: shape {reward.shape}, expected (N,)")
    if set(following) - set(obs):
        raise BufferError(f"{name}: next_observations: other keys than observations")
    terminal = ends.get("terminals", np.zeros(rows, bool))
    last = terminal | ends.get("timeouts", np.zeros(rows, bool))
    if "timeouts" not in ends:
        last |= _torn(obs, following, rows)
    last[-1] = True
    stops = np.flatnonzero(last) + 1
    begins = np.concatenate([[0], stops[:-1]])
    get, spaces = getter(obs, following, action, reward, begins, stops, view, name)
    return Transitions(
        name, *spaces, stops - begins, terminal[stops - 1], get, final=bool(following)
    )


def observed(file: Any, key: str, path: Path, view: View) -> dict[str, Any]:
    """An observation's arrays by key; ``obs`` for a single one, nothing where there is none."""
    if key not in file:
        return {}
    inner = child(file, key, path)
    if isinstance(inner, library().Group):
        return {k: column(one, path, view) for k, one in datasets(inner, path).items()}
    return {"obs": column(checked(inner, path, key), path, view)}


def _flags(file: Any, key: str, path: Path, rows: int) -> np.ndarray:
    flags = checked(child(file, key, path), path, key)
    if flags.shape != (rows,):
        raise BufferError(f"{path}: {key}: shape {flags.shape}, expected ({rows},)")
    try:
        return np.asarray(flags[()]).astype(bool)
    except OSError as error:
        raise BufferError(f"{path}: {key}: cannot be read: {error}") from error


def _torn(obs: dict[str, Any], following: dict[str, Any], rows: int) -> np.ndarray:
    """Where the observation after an action is not the next row's: an episode ends there `[N]`."""
    torn = np.zeros(rows, bool)
    for key, after in following.items():
        for begin in range(0, rows - 1, SCANNED):
            end = min(begin + SCANNED, rows - 1)
            same = np.asarray(after[begin:end]) == np.asarray(obs[key][begin + 1 : end + 1])
            torn[begin:end] |= ~same.reshape(end - begin, -1).all(1)
    return torn


def getter(
    obs: dict[str, Any],
    following: dict[str, Any],
    action: Any,
    reward: Any,
    begins: np.ndarray,
    stops: np.ndarray,
    view: View,
    name: str,
) -> tuple[Callable[[str, int, int, int], np.ndarray], tuple[dict[str, Space], dict[str, Space]]]:
    """Reads encoded rows of episodes that lie one after another in columns, and their spaces."""
    parts = observation_parts(observation_space(obs, view), view.image)
    acts = action_parts(action_space(action, view), view.rescale)
    act = joined(acts)
    sources = {
        part.leaf.name: (part.leaf.path[0] if part.leaf.path else next(iter(obs)), part.convert)
        for part in parts
    }

    def get(key: str, episode: int, start: int, stop: int) -> np.ndarray:
        begin = int(begins[episode])
        if key == "action":
            return act(np.asarray(action[begin + start : begin + stop]))
        if key == "reward":
            values = np.asarray(reward[begin + start : begin + stop], np.float32)
            return np.sign(values) if view.clip else values
        inner, convert = sources[key]
        end = int(stops[episode])
        rows = np.asarray(obs[inner][begin + start : min(begin + stop, end)])
        if begin + stop > end:  # the one after the last action
            rows = np.concatenate([rows, np.asarray(following[inner][end - 1 : end])])
        return convert(rows)

    spaces = {p.leaf.name: p.space for p in parts}, {p.leaf.name: p.space for p in acts}
    return get, spaces
