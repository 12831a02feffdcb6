"""Writing recorded episodes: a file, or for Minari a folder, of any size, complete or absent."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.spaces import Space
from worldflux.data.recorded.layout import SPACES, described
from worldflux.data.recorded.parts import Steps
from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import disk_errors, replaced

COPIED = 2**24  # bytes at a time
# Format -> the module that has a `write`, and the suffixes that mean it.
WRITERS = {
    "npz": ("worldflux.data.recorded.writing", (".npz",)),
    "hdf5": ("worldflux.data.recorded.hdf5_file", (".hdf5", ".h5")),
    "minari": ("worldflux.data.recorded.minari_folder", ("",)),
    "parquet": ("worldflux.data.recorded.parquet", (".parquet",)),
}
Columns = Mapping[str, np.ndarray]


def writer_of(out: Path) -> str:
    """The format that a name means; ConfigurationError: none, or it exists already."""
    for name, (_, suffixes) in WRITERS.items():
        if out.suffix.lower() in suffixes or (name == "minari" and _is_version(out.suffix)):
            if out.exists():
                raise ConfigurationError(f"--out {out}: it exists already")
            return name
    text = f"--out {out}: expected .npz, .hdf5, .parquet, or a name without suffix for Minari"
    raise ConfigurationError(text)


def _is_version(suffix: str) -> bool:
    """Whether it only looks like a suffix, as that of pendulum-0.5 does."""
    return suffix[1:].isdigit()


def write_episodes(
    out: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> tuple[int, int]:
    """Writes whole episodes, rows of the step dict as the agent sees them, in the format that the name
    means. Returns how many there were, and their steps. DiskError: the disk refuses."""
    module = importlib.import_module(WRITERS[writer_of(out)][0])
    counts = [0, 0]

    def counted() -> Iterator[Steps]:
        for steps in episodes:
            counts[0] += 1
            counts[1] += len(steps["reward"]) - 1
            yield steps

    with disk_errors("recording", out):
        out.parent.mkdir(parents=True, exist_ok=True)
        module.write(out, counted(), obs_spaces, action_spaces)
    return counts[0], counts[1]


def write(
    out: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> None:
    """The plain layout as .npz, not compressed, so that it can be mapped."""
    with spooled(out, episodes, obs_spaces, action_spaces) as columns, replaced(out) as draft:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            stated = np.array(described(obs_spaces, action_spaces))
            for key, array in {**columns, SPACES: stated}.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                    header = np.lib.format.header_data_from_array_1_0(array)
                    np.lib.format.write_array_header_1_0(file, header)
                    for piece in pieces(array):
                        file.write(np.ascontiguousarray(piece).tobytes())


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in parts that memory holds."""
    if array.ndim == 0:
        yield array
        return
    rows = max(1, COPIED // max(1, array.nbytes // max(1, len(array))))
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows]


@contextmanager
def spooled(
    out: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> Iterator[Columns]:
    """The columns of all episodes, gathered on the disk beside `out`, mapped: how many rows they have
    is known at their end. ConfigurationError: there is no episode."""
    shapes: dict[str, tuple[Any, ...]] = {}
    rows = 0
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=out.parent) as folder:
        files: dict[str, Any] = {}
        try:
            for steps in episodes:
                for key, array in steps.items():
                    if key not in files:
                        files[key] = open(Path(folder) / str(len(files)), "wb")
                        shapes[key] = (array.dtype, array.shape[1:])
                    files[key].write(np.ascontiguousarray(array).tobytes())
                rows += len(steps["reward"])
        finally:
            for file in files.values():
                file.close()
        if not rows:
            raise ConfigurationError(f"{out}: there is no episode to write")
        yield {
            key: np.memmap(files[key].name, dtype, "r", 0, (rows, *shape))
            if np.prod(shape)
            else np.zeros((rows, *shape), dtype)
            for key, (dtype, shape) in shapes.items()
        }


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A new folder, which becomes `out` at the end."""
    draft = Path(tempfile.mkdtemp(prefix=".tmp-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
