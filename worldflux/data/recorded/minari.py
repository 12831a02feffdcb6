"""Minari datasets in its HDF5 format: a folder with `main_data.hdf5` and `metadata.json`, read as they
are, without the package. Their spaces come from the metadata; nothing that it names is imported."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces as gs
from PIL import Image

from worldflux.config.files import parsed
from worldflux.data.recorded import hdf5
from worldflux.data.recorded.encoding import Part, View, action_parts, observation_parts
from worldflux.data.recorded.parts import Episodes, Transitions, json_mapping
from worldflux.errors import BufferError

MAIN, METADATA = "main_data.hdf5", "metadata.json"
OPEN = 4_096  # datasets of episodes that stay open


def folder_of(path: Path) -> Path | None:
    """The folder of the dataset that a path, or a local name, stands for; None: of none."""
    root = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    tries = [path.parent] if path.name == MAIN else [path, path / "data"]
    if not path.is_absolute() and not path.exists():
        tries.append(Path(root) / path / "data")
    return next((one for one in tries if (one / METADATA).is_file()), None)


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes of one dataset; BufferError where it is damaged or of another format."""
    folder = folder_of(path)
    assert folder is not None
    name = str(folder)
    facts = json_mapping(folder / METADATA)
    kind = facts.get("data_format", "hdf5")
    if kind != "hdf5":
        raise BufferError(f"{name}: {METADATA}: data_format {kind!r} is not read, hdf5 is")
    observed = _space(facts, "observation_space", view.observed, folder)
    acted = _space(facts, "action_space", view.acted, folder)
    file = hdf5.open_file(folder / MAIN)
    groups = [name for name in file if name.startswith("episode_")]
    groups.sort(key=lambda name: int(name[8:]) if name[8:].isdigit() else -1)
    if not groups:
        raise BufferError(f"{name}: {MAIN}: it has no episodes")
    return [_episodes(file, groups, folder, observed, acted, view)]


def _space(
    facts: Mapping[str, Any], key: str, stated: gs.Space[Any] | None, folder: Path
) -> gs.Space[Any]:
    """The space in the metadata; where it has none, that of the run's environment."""
    if key not in facts:
        if stated is None:
            text = f"{folder}: {METADATA}: {key}: missing; name the environment (env=...)"
            raise BufferError(text)
        return stated
    try:
        return gym_space_of(parsed(facts[key]))
    except (ValueError, LookupError, TypeError, AssertionError, OverflowError) as error:
        raise BufferError(f"{folder}: {METADATA}: {key}: no space: {error}") from error


def gym_space_of(content: Mapping[str, Any]) -> gs.Space[Any]:
    """The space that Minari's JSON describes; ValueError and others: it describes none."""
    kind = content["type"]
    if kind == "Box":
        shape = tuple(int(n) for n in content["shape"])
        if content["dtype"] not in NUMBERS or min(shape, default=1) < 0:
            raise ValueError(f"a Box of {content['dtype']} {shape}")
        dtype = np.dtype(content["dtype"])
        low, high = (np.array(content[end], np.float64) for end in ("low", "high"))
        if low.shape != shape or high.shape != shape:
            raise ValueError(f"bounds of shape {low.shape} for a Box of {shape}")
        return gs.Box(_bounded(low, dtype), _bounded(high, dtype), shape, dtype.type)
    if kind == "Discrete":
        return gs.Discrete(int(content["n"]), start=int(content.get("start", 0)))
    if kind == "MultiDiscrete":
        start = content.get("start")
        return gs.MultiDiscrete(np.array(content["nvec"], np.int64), start=start)
    if kind == "MultiBinary":
        n = content["n"]
        return gs.MultiBinary(n if isinstance(n, int) else tuple(n))
    if kind == "Dict":
        return gs.Dict([(str(k), gym_space_of(one)) for k, one in content["subspaces"].items()])
    if kind == "Tuple":
        return gs.Tuple([gym_space_of(one) for one in content["subspaces"]])
    if kind == "Text":
        return gs.Text(int(content["max_length"]))
    raise ValueError(f"of type {kind!r}")


def _bounded(ends: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Bounds in a type, which may have to be smaller than they were written."""
    if dtype.kind == "f":
        return ends.astype(dtype)
    if dtype.kind == "b":
        return ends.clip(0, 1).astype(dtype)
    info = np.iinfo(dtype)
    return ends.clip(float(info.min), float(info.max)).astype(dtype)


NUMBERS = (
    "bool",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)


def _episodes(
    file: Any,
    groups: list[str],
    folder: Path,
    observed: gs.Space[Any],
    acted: gs.Space[Any],
    view: View,
) -> Transitions:
    path, name = folder / MAIN, str(folder)
    seen = {part.leaf.name: part for part in observation_parts(observed, view.image)}
    acts = action_parts(acted, view.rescale)

    @lru_cache(OPEN)
    def array(group: str, kind: str, inner: str = "", shape: tuple[int, ...] = ()) -> Any:
        key = "/".join(filter(None, [group, kind, inner]))
        one = file
        for step in key.split("/"):
            one = hdf5.child(one, step, path)
        return _readable(one, path, key, shape)

    def get(key: str, episode: int, start: int, stop: int) -> np.ndarray:
        group = groups[episode]
        if key == "reward":
            values = np.asarray(array(group, "rewards")[start:stop], np.float32)
            return np.sign(values) if view.clip else values
        if key == "action":
            flat = [p.convert(array(group, "actions", *_place(p))[start:stop]) for p in acts]
            return np.concatenate(flat, axis=1)
        part = seen[key]
        return part.convert(array(group, "observations", *_place(part))[start:stop])

    held = [_ending(array, group, [*seen.values()], acts, path) for group in groups]
    groups = [group for group, (count, _) in zip(groups, held, strict=True) if count]
    held = [one for one in held if one[0]]
    if not held:
        raise BufferError(f"{path}: its episodes have no steps")
    counts, terminated = (np.array(column) for column in zip(*held, strict=True))
    obs = {key: part.space for key, part in seen.items()}
    actions = {part.leaf.name: part.space for part in acts}
    return Transitions(name, obs, actions, counts, terminated, get)


def _place(part: Part) -> tuple[str, tuple[int, ...]]:
    """Where Minari puts an array of a Dict or a Tuple, and the shape of its rows."""
    names = (f"_index_{key}" if isinstance(key, int) else str(key) for key in part.leaf.path)
    return "/".join(names), tuple(part.leaf.space.shape or ())


def _readable(dataset: Any, path: Path, key: str, shape: tuple[int, ...]) -> Any:
    """Rows of this shape, which pictures that are JPEG bytes become; BufferError."""
    checked = hdf5.checked(dataset, path, key, "biufO")
    if checked.shape[1:] == shape and checked.dtype.kind != "O":
        return checked
    size = checked.shape[1] if checked.ndim == 2 else 0
    if len(shape) in (2, 3) and (checked.dtype.kind == "O" or (checked.dtype == np.uint8 and size)):
        return _Pictures(checked, shape)
    raise BufferError(f"{path}: {key}: rows of shape {checked.shape[1:]}, the space says {shape}")


def _ending(
    array: Callable[..., Any], group: str, seen: list[Part], acts: list[Part], path: Path
) -> tuple[int, bool]:
    """Actions of an episode, and whether it terminated; BufferError where its arrays disagree."""
    rewards, ends = array(group, "rewards"), array(group, "terminations")
    count = len(rewards)
    lengths = [("terminations", len(ends), count)]
    for kind, parts, expected in (("observations", seen, count + 1), ("actions", acts, count)):
        lengths += [(kind, len(array(group, kind, *_place(p))), expected) for p in parts]
    for kind, length, expected in lengths:
        if length != expected:
            text = f"{length} rows, expected {expected} with {count} rewards"
            raise BufferError(f"{path}: {group}/{kind}: {text}")
    return count, bool(count and ends[count - 1])


class _Pictures:
    """Pictures `[n, H, W, 3]` or `[n, H, W]` that a dataset holds as JPEG bytes, one a row."""

    def __init__(self, dataset: Any, shape: tuple[int, ...]) -> None:
        self._dataset, self._shape = dataset, shape

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, rows: slice) -> np.ndarray:
        pictures = [self._picture(row) for row in self._dataset[rows]]
        return np.stack(pictures) if pictures else np.zeros((0, *self._shape), np.uint8)

    def _picture(self, content: np.ndarray) -> np.ndarray:
        with Image.open(io.BytesIO(content.tobytes()), formats=["JPEG"]) as image:
            if (image.height, image.width) != self._shape[:2]:
                raise ValueError(f"a picture of {image.size}, expected {self._shape}")
            return np.asarray(image.convert("RGB" if len(self._shape) == 3 else "L"))
