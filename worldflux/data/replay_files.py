"""Replay on disk: segments as .npz files, an index that says which belong together, no pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.core.disk import disk_errors, write_atomic
from worldflux.errors import BufferError

if TYPE_CHECKING:
    from worldflux.data.replay import SequenceReplay

SCHEMA = "worldflux.replay.v1"


class ReplayFiles:
    """Saves and loads a SequenceReplay, remembering which segments are already on disk.

    Files: ``steps-<segment>-<serial>.npz`` (what never changes once a segment is full),
    ``entries-<segment>-<serial>.npz`` (what training writes back) and ``replay-<serial>.json``, the
    index of one save. Serials grow, so that no save touches a file of an earlier one.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._tag: str | None = None
        self._written: dict[tuple[str, int], tuple[tuple[int, ...], str]] = {}

    def save(self, replay: SequenceReplay, folder: Path) -> str:
        with disk_errors("replay", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if folder != self._folder:
                self._folder, self._tag = folder, None
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
            write_atomic(folder / f"replay-{tag}.json", json.dumps(_index(replay, segments)))
            self._prune(folder, {tag, self._tag or tag})
            self._tag = tag
            return tag

    def load(self, replay: SequenceReplay, folder: Path, tag: str | None) -> str:
        path = _newest(folder) if tag is None else folder / f"replay-{tag}.json"
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise BufferError(f"replay {path} cannot be read: {error}") from error
        _check(replay, index, path)
        replay.load_sampler_state(index["sampler"])
        replay.segments, replay.versions = [], []
        self._written.clear()
        for number, files in enumerate(index["segments"]):
            segment = replay.new_segment()
            for group, name in files.items():
                keys = _groups(replay)[group]
                _read(folder / name, {key: segment[key] for key in keys})
                self._written[group, number] = (tuple(index["versions"][number]), name)
            replay.segments.append(segment)
            replay.versions.append(list(index["versions"][number]))
        self._folder, self._tag = folder, f"{_serial(path):06d}"
        return self._tag

    def _write(
        self, replay: SequenceReplay, index: int, group: str, keys: list[str], serial: int
    ) -> str:
        version = tuple(replay.versions[index][: 1 if group == "steps" else 2])
        known = self._written.get((group, index))
        if known is not None and known[0][: len(version)] == version:
            return known[1]
        assert self._folder is not None
        name = f"{group}-{index:05d}-{serial:06d}.npz"
        segment = replay.segments[index]
        rows = min(version[0], next(iter(segment.values())).shape[1])
        with open(self._folder / name, "wb") as file:
            arrays: dict[str, Any] = {key: segment[key][:, :rows] for key in keys}
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        self._written[group, index] = (version, name)
        return name

    def _prune(self, folder: Path, tags: set[str]) -> None:
        """Removes indices of other saves, and the segments that no kept index names."""
        named: set[str] = set()
        for path in folder.glob("replay-*.json"):
            if f"{_serial(path):06d}" in tags:
                for files in json.loads(path.read_text(encoding="utf-8"))["segments"]:
                    named.update(files.values())
            else:
                path.unlink()
        for path in folder.glob("*-*-*.npz"):
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


def _index(replay: SequenceReplay, segments: list[dict[str, str]]) -> dict[str, Any]:
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


def _read(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Fills the front rows of each array from the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            for key, array in arrays.items():
                stored = file[key]
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
