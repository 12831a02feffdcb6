"""Replay on disk: segments as .npz files, an index that says which belong together, no pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.errors import BufferError
from worldflux.run_folder.disk import disk_errors, file_facts, read_sealed, seal, write_atomic

if TYPE_CHECKING:
    from worldflux.data.replay import SequenceReplay

SCHEMA = "worldflux.replay.v2"


class ReplayFiles:
    """Saves and loads a SequenceReplay, remembering which segments are already on disk.

    Files: ``steps-<segment>-<serial>.npz`` (what never changes once a segment is full),
    ``entries-<segment>-<serial>.npz`` (what training writes back) and ``replay-<serial>.json``, the
    index of one save with the checksums of its files. Serials grow, so that no save touches a file
    of an earlier one.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        # (group, segment) -> the version that is on disk, and its file
        self._written: dict[tuple[str, int], tuple[tuple[int, ...], dict[str, Any]]] = {}

    def save(self, replay: SequenceReplay, folder: Path) -> str:
        folder = folder.resolve()
        with disk_errors("replay", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if folder != self._folder:
                self._folder = folder
                self._written.clear()
            serial = 1 + max((_serial(path) for path in folder.iterdir()), default=0)
            tag = f"{serial:06d}"
            segments = [
                {
                    group: self._write(replay, index, group, keys, serial)
                    for group, keys in _groups(replay).items()
                }
                for index in range(len(replay.segments))
            ]
            write_atomic(folder / f"replay-{tag}.json", seal(_index(replay, segments)))
            return tag

    def load(self, replay: SequenceReplay, folder: Path, tag: str | None) -> str:
        folder = folder.resolve()
        path = _newest(folder) if tag is None else folder / f"replay-{tag}.json"
        try:
            index = read_sealed(path)
        except (OSError, ValueError) as error:
            raise BufferError(f"replay {path} is missing or damaged: {error}") from error
        _check(replay, index, path)
        replay.load_sampler_state(index["sampler"])
        replay.segments, replay.versions = [], []
        self._written.clear()
        for number, files in enumerate(index["segments"]):
            segment = replay.new_segment()
            for group, file in files.items():
                keys = _groups(replay)[group]
                _read(folder, file, {key: segment[key] for key in keys})
                self._written[group, number] = (tuple(index["versions"][number]), file)
            replay.segments.append(segment)
            replay.versions.append(list(index["versions"][number]))
        self._folder = folder
        return f"{_serial(path):06d}"

    def _write(
        self, replay: SequenceReplay, index: int, group: str, keys: list[str], serial: int
    ) -> dict[str, Any]:
        version = tuple(replay.versions[index][: 1 if group == "steps" else 2])
        known = self._written.get((group, index))
        if known is not None and known[0][: len(version)] == version:
            return known[1]
        assert self._folder is not None
        name = f"{group}-{index:05d}-{serial:06d}.npz"
        segment = replay.segments[index]
        rows = min(version[0], next(iter(segment.values())).shape[1])
        path = self._folder / name
        arrays: dict[str, Any] = {key: segment[key][:, :rows] for key in keys}
        try:
            with open(path, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # what is left of it would fill the disk further
            raise
        self._written[group, index] = (version, {"name": name, **file_facts(path)})
        return self._written[group, index][1]


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
            except ValueError:
                continue  # damaged: its files are of no use without it
            named.update(file["name"] for files in segments for file in files.values())
        for path in [*folder.glob("*-*-*.npz"), *folder.glob(".tmp-*")]:
            if path.name not in named:
                path.unlink()


def _groups(replay: SequenceReplay) -> dict[str, list[str]]:
    groups = {"steps": [key for key in replay.spaces if key not in replay.entries]}
    if replay.entries:
        groups["entries"] = sorted(replay.entries)
    return groups


def _layout(replay: SequenceReplay) -> dict[str, Any]:
    return {
        "num_envs": replay.num_envs,
        "steps per environment (data.capacity / training.num_envs)": replay.rows,
        "segment rows": replay.segment_rows,
        "spaces": {
            key: [list(space.shape), space.dtype] for key, space in sorted(replay.spaces.items())
        },
    }


def _index(replay: SequenceReplay, segments: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "layout": _layout(replay),
        "sampler": replay.sampler_state(),
        "versions": replay.versions,
        "segments": segments,
    }


def _check(replay: SequenceReplay, index: Mapping[str, Any], path: Path) -> None:
    if index.get("schema") != SCHEMA:
        raise BufferError(f"{path} is not a replay index of schema {SCHEMA}")
    for name, here in _layout(replay).items():
        stored = index["layout"].get(name)
        if stored != here:
            raise BufferError(f"replay {path} does not fit: its {name} is {stored}, not {here}")


def _read(folder: Path, file: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Fills the front rows of each array from the file."""
    path = folder / file["name"]
    try:
        if {"name": file["name"], **file_facts(path)} != file:
            raise ValueError("its checksum differs")
        with np.load(path, allow_pickle=False) as stored_arrays:
            for key, array in arrays.items():
                stored = stored_arrays[key]
                array[:, : stored.shape[1]] = stored
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BufferError(f"replay file {path} is missing or damaged: {error}") from error


def _newest(folder: Path) -> Path:
    indices = sorted(folder.glob("replay-*.json"))
    if not indices:
        raise BufferError(f"no replay in {folder}")
    return indices[-1]


def _serial(path: Path) -> int:
    tail = path.stem.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
