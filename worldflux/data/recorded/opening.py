"""From what `data.path` names to a set of recorded episodes."""

from __future__ import annotations

import glob
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from worldflux.config.spaces import TASK_KEY, Space, Task
from worldflux.data.recorded import lerobot, minari, run_replay
from worldflux.data.recorded.encoding import View
from worldflux.data.recorded.parts import Episodes
from worldflux.errors import BufferError, ConfigurationError


class FormatModule(Protocol):
    """What the file of a format offers."""

    def read_episodes(self, path: Path, view: View) -> list[Episodes]: ...


@dataclass(frozen=True)
class Format:
    """module: see FormatModule. takes: whether a path is of this format."""

    module: str
    takes: Callable[[Path], bool]


def _suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() in suffixes and not path.is_dir()


LOOKED_AT = 8  # episodes of a task, for the actions that they use
HERE = "worldflux.data.recorded"
FORMATS = {
    "Minari": Format(f"{HERE}.minari", lambda path: minari.folder_of(path) is not None),
    "LeRobot": Format(f"{HERE}.lerobot", lambda path: lerobot.takes(path)),
    "run": Format(f"{HERE}.run_replay", lambda path: run_replay.run_of(path) is not None),
    ".npz": Format(f"{HERE}.npz", _suffix(".npz")),
    "HDF5": Format(f"{HERE}.hdf5", _suffix(".hdf5", ".h5", ".hdf")),
    "TensorDict": Format(f"{HERE}.tensordict_file", _suffix(".pt")),
    "Parquet": Format(f"{HERE}.parquet", _suffix(".parquet")),
}
READABLE = "an .npz, HDF5, Parquet or .pt file, a Minari or LeRobot dataset or a run with a replay"


@dataclass(frozen=True)
class RecordedSet:
    """Recorded episodes of one or more files, which have the same spaces."""

    paths: tuple[str, ...]
    parts: tuple[Episodes, ...]

    @property
    def obs_spaces(self) -> Mapping[str, Space]:
        return self.parts[0].obs_spaces

    @property
    def action_spaces(self) -> Mapping[str, Space]:
        return self.parts[0].action_spaces

    @property
    def episodes(self) -> np.ndarray:
        """Which there are `[E, 2]`: the number of the part, and that of the episode in it."""
        rows = [
            np.stack([np.full(len(part.lengths), index), np.arange(len(part.lengths))], 1)
            for index, part in enumerate(self.parts)
        ]
        return np.concatenate(rows)

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each episode `[E]`."""
        return np.concatenate([part.lengths for part in self.parts])

    @property
    def steps(self) -> int:
        """Actions that were taken in all."""
        return int((self.lengths - 1).sum())

    def terminates(self) -> bool:
        """Whether the task itself ended an episode."""
        return any(part.terminates() for part in self.parts)

    def tasks(self) -> tuple[Task, ...]:
        """Several tasks, where the observation key ``task`` numbers them: each with the actions that
        some of its episodes use, the first of which take fewer than all; nothing: there is one."""
        space = self.obs_spaces.get(TASK_KEY)
        others = [one for key, one in self.obs_spaces.items() if key != TASK_KEY]
        if space is None or space.classes[:1] < (2,) or len(others) != 1:
            return ()
        widths, lengths = [1] * space.classes[0], [0] * space.classes[0]
        looked = [0] * space.classes[0]
        for part, episode in self.episodes:
            one, rows = self.parts[part], int(self.parts[part].lengths[episode])
            number = int(one.read(int(episode), 0, 1)[TASK_KEY][0])
            lengths[number] = max(lengths[number], rows - 1)
            if looked[number] < LOOKED_AT:
                looked[number] += 1
                used = np.flatnonzero(one.read(int(episode), 0, rows)["action"].any(0))
                widths[number] = max(widths[number], int(used.max(initial=0)) + 1)
        dim = others[0].size
        return tuple(
            Task(f"task_{number}", dim, width, length or None)
            for number, (width, length) in enumerate(zip(widths, lengths, strict=True))
        )

    def digest(self) -> str:
        """By which a run that goes on knows its data again, wherever it lies now."""
        digests = "".join(part.digest() for part in self.parts)
        return hashlib.sha256(digests.encode()).hexdigest()

    def summary(self) -> str:
        """One line for people."""
        files = f"{len(self.paths)} files, " if len(self.paths) > 1 else ""
        text = f"{files}{len(self.lengths):,} episodes, {self.steps:,} steps"
        return f"{text}; observed: {words(self.obs_spaces)}; acted: {words(self.action_spaces)}"


def words(spaces: Mapping[str, Space]) -> str:
    """Spaces in one line."""
    return ", ".join(f"{key} {space_words(space)}" for key, space in spaces.items())


def space_words(space: Space) -> str:
    """A space in a few words."""
    if space.discrete:
        return f"{' x '.join(map(str, space.classes))} choices"
    shape = "x".join(map(str, space.shape)) or "1"
    return f"{shape} {space.dtype}"


def open_recorded(paths: Sequence[str], view: View | None = None) -> RecordedSet:
    """The set of all files that `paths` name: files, folders, globs and local names of Minari
    datasets. ConfigurationError: there is none, or they differ in their spaces; BufferError: one is
    damaged."""
    view = view or View()
    chosen = [path for name in paths for path in expanded(name)]
    parts: list[Episodes] = []
    for path in chosen:
        module: FormatModule = importlib.import_module(FORMATS[format_of(path)].module)
        read = [part for part in module.read_episodes(path, view) if part.lengths.sum() > 0]
        if not read:
            raise BufferError(f"{path}: it holds no steps")
        parts += read
    _number_tasks(parts)
    first = parts[0]
    for part in parts[1:]:
        for what in ("obs_spaces", "action_spaces"):
            ours, theirs = getattr(first, what), getattr(part, what)
            if dict(ours) != dict(theirs):
                text = f"{part.name} has {words(theirs)}, and {first.name} has {words(ours)}"
                raise ConfigurationError(
                    f"must name files of the same spaces: {text}", key="data.path"
                )
    return RecordedSet(tuple(map(str, chosen)), tuple(parts))


def _number_tasks(parts: Sequence[Episodes]) -> None:
    """A file of several tasks may hold some of them: their number is that of the whole set."""
    of_tasks = [part.obs_spaces.get(TASK_KEY) for part in parts]
    counts = [space.classes[0] for space in of_tasks if space is not None and space.classes]
    for part, space in zip(parts, of_tasks, strict=True):
        if space is not None and space.classes:
            part.obs_spaces = {**part.obs_spaces, TASK_KEY: replace(space, classes=(max(counts),))}


def format_of(path: Path) -> str:
    """The name of the format that a path is of; ConfigurationError: of none."""
    for name, one in FORMATS.items():
        if one.takes(path) and (path.exists() or name == "Minari"):
            return name
    reason = f"={path}: expected {READABLE}"
    if not path.exists():
        reason = f"={path}: no such file, nor a Minari dataset of this name (in {Path.cwd()})"
    raise ConfigurationError(reason, key="data.path")


def expanded(name: str) -> list[Path]:
    """The paths that a name stands for, in order; ConfigurationError: a glob that matches none."""
    path = Path(name).expanduser()
    if path.exists() or not glob.has_magic(name):
        return [path]
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not matches:
        raise ConfigurationError(f"={name}: no file has such a name", key="data.path")
    return matches
