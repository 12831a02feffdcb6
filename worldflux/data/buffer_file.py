"""ReplayBuffer on disk: .npz and Parquet.

Arrays: obs `[N, ...]`, actions `[N, A]`, rewards, dones `[N]`; obs_shape, action_dim, capacity.
Files of ours also hold truncations `[N]`, the episode table (episode_starts, episode_whole,
tail_rewards, tail_terminations, has_tail, all `[E]`) and reward_convention.
"""

from __future__ import annotations

import importlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.errors import BufferError, MissingDependencyError

if TYPE_CHECKING:
    from worldflux.data.buffer import ReplayBuffer
    from worldflux.data.recording import Recording

STEPS = ("obs", "actions", "rewards", "dones")
REQUIRED = (*STEPS, "obs_shape", "action_dim", "capacity")
TABLE = ("episode_starts", "episode_whole", "has_tail", "tail_rewards", "tail_terminations")


def save(buffer: ReplayBuffer, path: Path) -> None:
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            arrays: dict[str, Any] = _arrays(buffer)
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise BufferError(f"{path} cannot be written: {error.strerror}") from error


def load(cls: type[ReplayBuffer], path: Path) -> ReplayBuffer:
    if not path.exists() and path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise BufferError(f"replay file {path} does not exist") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BufferError(f"replay file {path} is damaged or no .npz: {error}") from error
    return _rebuild(cls, arrays, path)


def _arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    episodes = buffer.episodes
    lengths = [len(episode) for episode in episodes]

    def rows(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        empty = np.zeros((0, *shape), dtype)
        return np.concatenate([empty, *(getattr(e, name).astype(dtype) for e in episodes)])

    return {
        "obs": rows("obs", buffer.obs_shape, buffer.obs_dtype),
        "actions": rows("actions", (buffer.action_dim,), np.float32),
        "rewards": rows("rewards", (), np.float32),
        "dones": rows("dones", (), np.float32),
        "truncations": rows("truncations", (), bool),
        "obs_shape": np.array(buffer.obs_shape, np.int64),
        "action_dim": np.array(buffer.action_dim),
        "capacity": np.array(buffer.capacity),
        "reward_convention": np.array("arrival"),
        "episode_starts": np.cumsum([0, *lengths])[:-1].astype(np.int64),
        "episode_whole": np.array([e.whole for e in episodes], bool),
        "has_tail": np.array([e.tail is not None for e in episodes], bool),
        "tail_rewards": np.array([e.tail[0] if e.tail else 0.0 for e in episodes], np.float32),
        "tail_terminations": np.array([bool(e.tail and e.tail[1]) for e in episodes], bool),
    }


def _rebuild(cls: type[ReplayBuffer], arrays: Mapping[str, np.ndarray], path: Path) -> ReplayBuffer:
    _check(arrays, path)
    obs_shape = tuple(int(n) for n in np.atleast_1d(arrays["obs_shape"]))
    buffer = cls(int(arrays["capacity"]), obs_shape, int(arrays["action_dim"]), arrays["obs"].dtype)
    convention = str(arrays.get("reward_convention", "after_action"))
    if convention not in ("arrival", "after_action"):
        raise BufferError(
            f"replay file {path}: reward_convention {convention!r}, expected 'arrival' or "
            "'after_action'"
        )
    rows = len(arrays["rewards"])
    starts = arrays.get("episode_starts")
    if starts is None:
        ends = np.flatnonzero(arrays["dones"])
        starts = np.unique(np.concatenate([[0], ends + 1]))
        starts = starts[starts < rows]
    elif rows and (starts.ndim != 1 or starts[0] != 0 or (np.diff(starts, append=rows) < 1).any()):
        raise BufferError(f"replay file {path}: episode_starts do not cut {rows} rows in episodes")
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], rows], strict=True)):
        part = slice(int(start), int(end))
        truncations = arrays.get("truncations")
        buffer.add_episode(
            *(arrays[key][part] for key in STEPS),
            truncations=None if truncations is None else truncations[part],
            reward_convention=convention,
        )
        if "has_tail" in arrays:
            _mark(buffer.episodes[-1], arrays, number)
    return buffer


def _mark(episode: Recording, arrays: Mapping[str, np.ndarray], number: int) -> None:
    episode.whole = bool(arrays["episode_whole"][number])
    if arrays["has_tail"][number]:
        tail = arrays["tail_rewards"][number], arrays["tail_terminations"][number]
        episode.tail = (float(tail[0]), bool(tail[1]))


def _check(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    missing = [key for key in REQUIRED if key not in arrays]
    if "has_tail" in arrays:
        missing += [key for key in TABLE if key not in arrays]
    if missing:
        raise BufferError(f"replay file {path}: missing keys {missing}")
    rows = {key: len(np.atleast_1d(arrays[key])) for key in STEPS}
    if len(set(rows.values())) > 1:
        raise BufferError(f"replay file {path}: lengths differ: {rows}")
    count, capacity = rows["rewards"], int(arrays["capacity"])
    if count > capacity:
        raise BufferError(f"replay file {path}: {count} rows are more than its capacity {capacity}")
    stated = (tuple(np.atleast_1d(arrays["obs_shape"]).tolist()), int(arrays["action_dim"]))
    found = (arrays["obs"].shape[1:], arrays["actions"].shape[-1])
    if stated != found:
        raise BufferError(
            f"replay file {path}: metadata says obs_shape and action_dim {stated}, arrays {found}"
        )


def save_parquet(buffer: ReplayBuffer, path: Path, compression: str) -> None:
    pa, pq = _arrow()
    arrays = _arrays(buffer)
    count = len(arrays["rewards"])
    columns, layout = {}, {}
    for key in (*STEPS, "truncations"):
        flat = arrays[key].reshape(count, -1)
        values = pa.array(flat.reshape(-1))
        columns[key] = pa.FixedSizeListArray.from_arrays(values, max(1, flat.shape[1]))
        layout[key] = [list(arrays[key].shape[1:]), str(arrays[key].dtype)]
    rest = {key: value.tolist() for key, value in arrays.items() if key not in columns}
    note = json.dumps({"layout": layout, "rest": rest})
    table = pa.table(columns).replace_schema_metadata({"worldflux": note})
    temporary = path.with_name(f".tmp-{path.name}")
    pq.write_table(table, temporary, compression=compression)
    os.replace(temporary, path)


def load_parquet(cls: type[ReplayBuffer], path: Path) -> ReplayBuffer:
    pa, pq = _arrow()
    try:
        table = pq.read_table(path)
        note = json.loads((table.schema.metadata or {})[b"worldflux"])
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise BufferError(f"{path} is no replay Parquet file: {error}") from error
    arrays = {key: np.asarray(value) for key, value in note["rest"].items()}
    for key, (shape, dtype) in note["layout"].items():
        column = table.column(key).combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        arrays[key] = values.astype(dtype).reshape(len(table), *shape)
    return _rebuild(cls, arrays, path)


def _arrow() -> tuple[ModuleType, ModuleType]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow, which is not installed; run: pip install pyarrow"
        ) from error
