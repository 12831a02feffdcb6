"""Replay on disk: segments as .npz files, an index that says which belong together, no pickle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import read_arrays
from worldflux.errors import BufferError
from worldflux.run_folder.disk import (
    disk_errors,
    file_facts,
    has_facts,
    read_sealed,
    seal,
    write_atomic,
)

SCHEMA = "worldflux.replay.v2"
Segment = dict[str, np.ndarray]  # key -> [N, rows, ...]
File = dict[str, Any]  # name, checksum and size of a file, as the index states them


@dataclass(frozen=True)
class Save:
    """What one save holds; its sampler as JSON values, and the tag that names it."""

    segments: list[Segment]
    versions: list[list[int]]
    sampler: dict[str, Any]
    tag: str


class ReplayFiles:
    """Saves and loads the segments of a replay, remembering which are already on disk.

    Files: ``steps-<segment>-<serial>.npz`` (what never changes once a segment is full),
    ``entries-<segment>-<serial>.npz`` (what training writes back) and ``replay-<serial>.json``, the
    index of one save with the checksums of its files. Serials grow, so that no save touches a file
    of an earlier one.

    layout: sizes that must be the same where a save is loaded. groups: the keys of a segment that
    share a file. A version counts what was written to a segment: its rows, and its entries.
    """

    def __init__(self, layout: Mapping[str, Any], groups: Mapping[str, list[str]]) -> None:
        self._layout = layout
        self._groups = groups
        self._folder: Path | None = None
        # (group, segment) -> the version that is on disk, and its file
        self._written: dict[tuple[str, int], tuple[tuple[int, ...], File]] = {}

    def save(
        self,
        folder: Path,
        segments: Sequence[Segment],
        versions: Sequence[Sequence[int]],
        sampler: Mapping[str, Any],
    ) -> str:
        folder = folder.resolve()
        with disk_errors("replay", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if folder != self._folder:
                self._folder = folder
                self._written.clear()
            serial = 1 + max((_serial(path) for path in folder.iterdir()), default=0)
            tag = f"{serial:06d}"
            files = [
                {
                    group: self._write(folder, index, segment, version, group, tag)
                    for group in self._groups
                }
                for index, (segment, version) in enumerate(zip(segments, versions, strict=True))
            ]
            index = {
                "schema": SCHEMA,
                "layout": self._layout,
                "sampler": sampler,
                "versions": versions,
                "segments": files,
            }
            write_atomic(folder / f"replay-{tag}.json", seal(index))
            return tag

    def load(self, folder: Path, tag: str | None, new_segment: Callable[[int], Segment]) -> Save:
        """The save with this tag, in memory that `new_segment` gives; tag None: the newest."""
        folder = folder.resolve()
        path, index = _index(folder, tag)
        self._check(index, path)
        segments = []
        self._written.clear()
        for number, files in enumerate(index["segments"]):
            segment = new_segment(number)
            for group, file in files.items():
                _read(folder, file, {key: segment[key] for key in self._groups[group]})
                self._written[group, number] = (tuple(index["versions"][number]), file)
            segments.append(segment)
        self._folder = folder
        return Save(segments, index["versions"], index["sampler"], f"{_serial(path):06d}")

    @staticmethod
    def stored_layout(folder: Path, tag: str | None) -> Mapping[str, Any]:
        """The layout of a save; see `load`."""
        layout = _index(folder.resolve(), tag)[1].get("layout")
        return layout if isinstance(layout, dict) else {}

    def _write(
        self,
        folder: Path,
        index: int,
        segment: Segment,
        versions: Sequence[int],
        group: str,
        tag: str,
    ) -> File:
        version = tuple(versions[: 1 if group == "steps" else 2])
        known = self._written.get((group, index))
        if known is not None and known[0][: len(version)] == version:
            return known[1]
        path = folder / f"{group}-{index:05d}-{tag}.npz"
        rows = min(version[0], next(iter(segment.values())).shape[1])
        arrays: dict[str, Any] = {key: segment[key][:, :rows] for key in self._groups[group]}
        try:
            with open(path, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # what is left of it would fill the disk further
            raise
        facts = {"name": path.name, **file_facts(path)}
        self._written[group, index] = (version, facts)
        return facts

    def _check(self, index: Mapping[str, Any], path: Path) -> None:
        if index.get("schema") != SCHEMA:
            raise BufferError(f"{path} is not a replay index of schema {SCHEMA}")
        for name, here in self._layout.items():
            stored = index["layout"].get(name)
            if stored != here:
                raise BufferError(f"replay {path} does not fit: its {name} is {stored}, not {here}")


def index_checksum(folder: Path, tag: str) -> str:
    """Checksum of a save's index, which binds the save to the checkpoint that names it."""
    return str(file_facts(folder / f"replay-{tag}.json")["sha256"])


def check_index(folder: Path, tag: str, checksum: str | None) -> None:
    """BufferError where the index is not the one with this checksum (None: of an older version)."""
    try:
        if checksum is None or index_checksum(folder, tag) == checksum:
            return
        reason = "it is the index of another save"
    except OSError as error:
        reason = str(error)
    raise BufferError(f"replay {folder / f'replay-{tag}.json'} is missing or damaged: {reason}")


def keep_saves(folder: Path, tags: set[str]) -> None:
    """Removes all other saves, and what interrupted ones left."""
    named: set[str] = set()
    with disk_errors("replay", folder):
        for path in folder.glob("replay-*.json"):
            if f"{_serial(path):06d}" not in tags:
                path.unlink()
                continue
            try:
                segments = read_sealed(path)["segments"]
            except (OSError, ValueError, LookupError, TypeError):
                continue  # damaged: its files are of no use without it
            named.update(file["name"] for files in segments for file in files.values())
        for path in [*folder.glob("*-*-*.npz"), *folder.glob(".tmp-*")]:
            if path.name not in named:
                path.unlink()


def _read(folder: Path, file: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Fills the front rows of each array from the file."""
    path = folder / file["name"]
    try:
        if not has_facts(path, {key: value for key, value in file.items() if key != "name"}):
            raise ValueError("its checksum differs")
        stored_arrays = read_arrays(path, sum(array.nbytes for array in arrays.values()))
        for key, array in arrays.items():
            stored = stored_arrays[key]
            array[:, : stored.shape[1]] = stored
    except (OSError, LookupError, TypeError, ValueError, MemoryError) as error:
        raise BufferError(f"replay file {path} is missing or damaged: {error}") from error


def _index(folder: Path, tag: str | None) -> tuple[Path, dict[str, Any]]:
    """The index of a save and its file; BufferError where it is damaged."""
    path = _newest(folder) if tag is None else folder / f"replay-{tag}.json"
    try:
        return path, read_sealed(path)
    except (OSError, ValueError) as error:
        raise BufferError(f"replay {path} is missing or damaged: {error}") from error


def _newest(folder: Path) -> Path:
    indices = sorted(folder.glob("replay-*.json"))
    if not indices:
        raise BufferError(f"no replay in {folder}")
    return indices[-1]


def _serial(path: Path) -> int:
    tail = path.stem.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
