"""Parquet files in the plain layout: a row a step, arrays as lists of one length, and the spaces in
the schema's metadata. Read once into room of their own, as their pages are compressed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from worldflux.config.files import open_regular
from worldflux.config.spaces import STEP_KEYS, Space
from worldflux.data.recorded.encoding import View
from worldflux.data.recorded.layout import SPACES, described, spaces_in, step_columns
from worldflux.data.recorded.parts import Episodes, Steps
from worldflux.data.recorded.room import room_for
from worldflux.errors import BufferError, ConfigurationError, MissingDependencyError
from worldflux.run_folder.disk import replaced

GROUP_BYTES = 2**24  # of a row group
BATCH = 4_096  # rows that are read at a time


def library() -> tuple[ModuleType, ModuleType]:
    """pyarrow and its Parquet part; MissingDependencyError."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        text = (
            "Parquet needs pyarrow, which is not installed; run: pip install 'worldflux[parquet]'"
        )
        raise MissingDependencyError(text) from error


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes of one file; BufferError where it is damaged or of another layout."""
    name = str(path)
    file = open_file(path)
    schema = file.schema_arrow
    note = (schema.metadata or {}).get(SPACES.encode())
    spaces = None if note is None else note.decode("utf-8", "replace")
    shapes: dict[str, tuple[int, ...]] = {}
    if spaces is not None:
        obs, _ = spaces_in(spaces, name)
        shapes = {key: space.shape for key, space in obs.items()}
    wanted = [key for key in schema.names if spaces is None or key in (*shapes, *STEP_KEYS)]
    return [step_columns(columns_of(file, wanted, shapes, view, name), spaces, name, view)]


def open_file(path: Path) -> Any:
    """A regular Parquet file, to read; BufferError."""
    pa, pq = library()
    try:
        open_regular(path).close()
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise BufferError(f"{path}: damaged or no Parquet file: {_line(error)}") from error


def columns_of(
    file: Any, wanted: list[str], shapes: Mapping[str, tuple[int, ...]], view: View, name: str
) -> dict[str, np.ndarray]:
    """Columns of numbers `[N, ...]`. shapes: those of rows that are no scalars or vectors."""
    pa, _ = library()
    rows, columns, done = file.metadata.num_rows, dict[str, np.ndarray](), 0
    try:
        for batch in file.iter_batches(BATCH, columns=wanted):
            for key in wanted:
                part = _numbers(batch.column(key), f"{name}: {key}")
                shape = shapes.get(key, part.shape[1:])
                if math.prod(shape) != math.prod(part.shape[1:]):
                    raise BufferError(f"{name}: {key}: rows of {part.shape[1:]}, not of {shape}")
                if key not in columns:
                    columns[key] = room_for((rows, *shape), part.dtype, view.budget, name)
                columns[key][done : done + len(part)] = part.reshape(len(part), *shape)
            done += batch.num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BufferError(f"{name}: cannot be read: {_line(error)}") from error
    if done != rows:
        raise BufferError(f"{name}: {done:,} rows, and it declares {rows:,}")
    if not rows:
        raise BufferError(f"{name}: it holds no steps")
    return columns


def _numbers(array: Any, where: str) -> np.ndarray:
    """Numbers `[n]`, or of lists of one length `[n, K]`."""
    pa, _ = library()
    count, widths = len(array), []
    while pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        inner = array.flatten()
        if array.null_count or len(inner) % max(1, len(array)):
            raise BufferError(f"{where}: lists of different lengths")
        if pa.types.is_list(array.type) and len(set(np.diff(array.offsets.to_numpy()))) > 1:
            raise BufferError(f"{where}: lists of different lengths")
        widths.append(len(inner) // max(1, len(array)))
        array = inner
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise BufferError(f"{where}: of type {kind}, expected numbers")
    if array.null_count:
        raise BufferError(f"{where}: it has empty entries")
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values.reshape(count, *widths)


def write(
    out: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> None:
    """Row groups of about 16 MB, compressed by zstd."""
    pa, _ = library()
    held: list[Steps] = []
    size, writer = 0, None
    note = {SPACES: described(obs_spaces, action_spaces)}
    with replaced(out) as draft:
        try:
            for steps in episodes:
                held.append(steps)
                size += sum(array.nbytes for array in steps.values())
                if size >= GROUP_BYTES:
                    writer = _write_group(writer, draft, held, note)
                    held, size = [], 0
            if held:
                writer = _write_group(writer, draft, held, note)
        except pa.ArrowException as error:
            raise OSError(_line(error)) from error
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ConfigurationError(f"{out}: there is no episode to write")


def _write_group(writer: Any, draft: Path, held: list[Steps], note: Mapping[str, str]) -> Any:
    pa, pq = library()
    columns = {}
    for key in held[0]:
        array = np.concatenate([steps[key] for steps in held])
        values = pa.array(array.reshape(-1))
        if array.ndim > 1:
            values = pa.FixedSizeListArray.from_arrays(values, math.prod(array.shape[1:]))
        columns[key] = values
    table = pa.table(columns).replace_schema_metadata(note)
    if writer is None:
        writer = pq.ParquetWriter(draft, table.schema, compression="zstd")
    writer.write_table(table)
    return writer


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
