"""The arrays of recorded episodes on disk: .npz and Parquet.

Arrays: obs `[N, ...]`, actions `[N, A]`, rewards, dones `[N]`; obs_shape, action_dim, capacity.
Files of ours also hold truncations `[N]`, the episode table (episode_starts, episode_whole,
tail_rewards, tail_terminations, has_tail, all `[E]`) and reward_convention.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from worldflux.config.files import read_arrays
from worldflux.config.spaces import STEP_KEYS
from worldflux.data.recording import AFTER_ACTION, ARRIVAL, CONVENTIONS
from worldflux.errors import BufferError, MissingDependencyError
from worldflux.run_folder.disk import replaced

Arrays = dict[str, np.ndarray]

STEPS = ("obs", "actions", "rewards", "dones")
REQUIRED = (*STEPS, "obs_shape", "action_dim", "capacity")
TABLE = ("episode_starts", "episode_whole", "has_tail", "tail_rewards", "tail_terminations")


def write_npz(arrays: Arrays, path: Path) -> None:
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    stored: dict[str, Any] = arrays
    with _replaced(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **stored)
        file.flush()
        os.fsync(file.fileno())


def read_npz(path: Path) -> Arrays:
    if not path.exists() and path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    try:
        arrays = read_arrays(path)
    except FileNotFoundError as error:
        raise BufferError(f"replay file {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise BufferError(f"replay file {path} is damaged or no .npz: {error}") from error
    return checked(_of_steps(arrays) if "is_first" in arrays else arrays, path)


def _of_steps(arrays: Arrays) -> Arrays:
    """Columns of the step dict with one observation key and flat actions, as this file's arrays."""
    observed = [key for key in arrays if key not in (*STEP_KEYS, "spaces")]
    if len(observed) != 1 or arrays.get("action", np.zeros(0)).ndim != 2:
        return arrays
    obs, ends = arrays[observed[0]], np.append(arrays["is_first"][1:], True).astype(bool)
    terminal = arrays.get("is_terminal", np.zeros_like(ends)).astype(bool)
    return {
        "obs": obs,
        "actions": arrays["action"],
        "rewards": arrays["reward"],
        "dones": ends,
        "truncations": ends & ~terminal,
        "obs_shape": np.array(obs.shape[1:], np.int64),
        "action_dim": np.array(arrays["action"].shape[1]),
        "capacity": np.array(max(1, len(ends))),
        "reward_convention": np.array(ARRIVAL),
    }


def write_parquet(arrays: Arrays, path: Path, compression: str) -> None:
    pa, pq = _arrow()
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
    with _replaced(path) as temporary:
        pq.write_table(table, temporary, compression=compression)


def read_parquet(path: Path) -> Arrays:
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
    return checked(arrays, path)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A name to write to, which replaces `path` at the end; a crash leaves the file of before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            yield temporary
    except OSError as error:
        raise BufferError(f"{path} cannot be written: {error.strerror}") from error


def checked(arrays: Arrays, path: Path) -> Arrays:
    """The arrays with episode_starts and reward_convention, where files of others lack them."""
    missing = [key for key in REQUIRED if key not in arrays]
    if "has_tail" in arrays:
        missing += [key for key in TABLE if key not in arrays]
    if missing:
        raise BufferError(f"replay file {path}: missing keys {missing}")
    lengths = {key: len(np.atleast_1d(arrays[key])) for key in STEPS}
    if len(set(lengths.values())) > 1:
        raise BufferError(f"replay file {path}: lengths differ: {lengths}")
    rows, capacity = lengths["rewards"], int(arrays["capacity"])
    if rows > capacity:
        raise BufferError(f"replay file {path}: {rows} rows are more than its capacity {capacity}")
    stated = (tuple(np.atleast_1d(arrays["obs_shape"]).tolist()), int(arrays["action_dim"]))
    actual = (arrays["obs"].shape[1:], arrays["actions"].shape[-1])
    if stated != actual:
        raise BufferError(
            f"replay file {path}: metadata says obs_shape and action_dim {stated}, arrays {actual}"
        )
    convention = str(arrays.setdefault("reward_convention", np.array(AFTER_ACTION)))
    if convention not in CONVENTIONS:
        raise BufferError(
            f"replay file {path}: reward_convention {convention!r}, expected 'arrival' or "
            "'after_action'"
        )
    starts = arrays.get("episode_starts")
    if starts is None:
        starts = np.unique(np.concatenate([[0], np.flatnonzero(arrays["dones"]) + 1]))
        arrays["episode_starts"] = starts[starts < rows]
    elif rows and (starts.ndim != 1 or starts[0] != 0 or (np.diff(starts, append=rows) < 1).any()):
        raise BufferError(f"replay file {path}: episode_starts do not cut {rows} rows in episodes")
    return arrays


def _arrow() -> tuple[ModuleType, ModuleType]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow, which is not installed; run: pip install 'worldflux[parquet]'"
        ) from error
