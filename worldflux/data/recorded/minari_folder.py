"""Writes a Minari dataset in its HDF5 format, as the package reads it: observations and actions as the
agent sees them (pictures `[C, H, W]`, continuous actions in [-1, 1]), pictures not compressed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.spaces import Space
from worldflux.data.recorded.hdf5 import library
from worldflux.data.recorded.minari import MAIN, METADATA
from worldflux.data.recorded.parts import Steps
from worldflux.data.recorded.writing import replaced_folder
from worldflux.envs.spaces import SINGLE_KEY
from worldflux.errors import ConfigurationError

VERSION = "0.5.0"  # of Minari, whose format it is


def write(
    out: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> None:
    library()
    observed = _single(obs_spaces, SINGLE_KEY)
    acted = _single(action_spaces, "action")
    for key in [*([] if observed else obs_spaces), *([] if acted else action_spaces)]:
        if "/" in key:
            raise ConfigurationError(f"{out}: Minari takes no key with a slash, such as {key!r}")
    with replaced_folder(out) as draft:
        (draft / "data").mkdir()
        count, total = _write_main(draft / "data" / MAIN, episodes, obs_spaces, action_spaces)
        if not count:
            raise ConfigurationError(f"{out}: there is no episode to write")
        facts = {
            "dataset_id": out.name,
            "minari_version": VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": count,
            "total_steps": total,
            "dataset_size": round((draft / "data" / MAIN).stat().st_size / 2**20, 1),
            "observation_space": json.dumps(_description(obs_spaces, observed, np.inf)),
            "action_space": json.dumps(_description(action_spaces, acted, 1.0)),
            "description": "Recorded by WorldFlux, as its agent sees observations and actions.",
        }
        (draft / "data" / METADATA).write_text(json.dumps(facts), encoding="utf-8")


def _single(spaces: Mapping[str, Space], name: str) -> str | None:
    """The key of a space that stands for itself; None: they are a Dict."""
    return name if list(spaces) == [name] else None


def _description(spaces: Mapping[str, Space], single: str | None, bound: float) -> dict[str, Any]:
    inner = {key: _one(space, bound) for key, space in spaces.items()}
    return inner[single] if single else {"type": "Dict", "subspaces": inner}


def _one(space: Space, bound: float) -> dict[str, Any]:
    if space.discrete and not space.shape:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": space.classes[0]}
    if space.discrete:
        zeros = [0] * len(space.classes)
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": [*space.classes], "start": zeros}
    low, high = (0, 255) if space.dtype == "uint8" else (-bound, bound)
    ends = {"low": np.full(space.shape, low).tolist(), "high": np.full(space.shape, high).tolist()}
    return {"type": "Box", "dtype": space.dtype, "shape": [*space.shape], **ends}


def _write_main(
    path: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> tuple[int, int]:
    """Returns how many episodes and steps there were."""
    count = total = 0
    with library().File(path, "w", track_order=True) as file:
        for steps in episodes:
            length = len(steps["reward"]) - 1
            group = file.create_group(f"episode_{count}")
            group.attrs["id"], group.attrs["total_steps"] = count, length
            ended = steps["is_last"][1:]
            group["rewards"] = steps["reward"][1:]
            group["terminations"] = steps["is_terminal"][1:]
            group["truncations"] = ended & ~steps["is_terminal"][1:]
            observed = {key: steps[key] for key in obs_spaces}
            _put(group, "observations", observed, SINGLE_KEY)
            _put(group, "actions", _apart(steps["action"][:-1], action_spaces), "action")
            count, total = count + 1, total + length
    return count, total


def _put(group: Any, kind: str, arrays: Mapping[str, np.ndarray], single: str) -> None:
    for key, array in arrays.items():
        group[kind if list(arrays) == [single] else f"{kind}/{key}"] = array


def _apart(flat: np.ndarray, spaces: Mapping[str, Space]) -> dict[str, np.ndarray]:
    """Flat actions `[n, A]` as the action of each key: choices as whole numbers."""
    apart: dict[str, np.ndarray] = {}
    begin = 0
    for key, space in sorted(spaces.items()):
        part = flat[:, begin : begin + space.flat_dim]
        begin += space.flat_dim
        if space.discrete:
            edges = np.cumsum([0, *space.classes])
            chosen = [part[:, a:b].argmax(1) for a, b in pairwise(edges)]
            part = np.stack(chosen, 1).astype(np.int64).reshape(len(flat), *space.shape)
        apart[key] = part
    return apart
