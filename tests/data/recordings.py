"""Recorded episodes with known content, in several layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.spaces import FLAGS, Space

Steps = dict[str, np.ndarray]
OBS = {"picture": Space((3, 16, 16), "uint8"), "state": Space((3,))}
CHOICES = {"action": Space((), "int64", (4,))}
VALUES = {"action": Space((2,))}


def episode(length: int, seed: int, terminal: bool, discrete: bool = True) -> Steps:
    """`length` actions as rows of the step dict; the state says which row it is."""
    rng = np.random.default_rng(seed)
    rows = length + 1
    state = np.stack([np.full(rows, seed), np.arange(rows), rng.normal(size=rows)], 1)
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    if discrete:
        action = np.eye(4, dtype=np.float32)[rng.integers(4, size=rows)]
    action[-1] = 0
    reward = rng.normal(size=rows).astype(np.float32)
    reward[0] = 0
    place = np.arange(rows)
    return {
        "picture": rng.integers(256, size=(rows, 3, 16, 16), dtype=np.uint8),
        "state": state.astype(np.float32),
        "action": action,
        "reward": reward,
        "is_first": place == 0,
        "is_last": place == length,
        "is_terminal": (place == length) & terminal,
    }


def episodes(discrete: bool = True) -> list[Steps]:
    return [episode(n, n, n % 2 == 0, discrete) for n in (5, 8, 3)]


def joined(parts: list[Steps]) -> Steps:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def same(ours: Steps, theirs: Steps) -> None:
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        np.testing.assert_array_equal(ours[key], value, err_msg=key)


def write_d4rl(path: Path, parts: list[Steps], following: bool, **more: Any) -> None:
    """Actions as whole numbers where they are choices."""
    import h5py

    taken = [part["action"][:-1] for part in parts]
    if taken[0].shape[1] == 4:
        taken = [one.argmax(1) for one in taken]
    with h5py.File(path, "w") as file:
        file["observations"] = np.concatenate([part["state"][:-1] for part in parts])
        file["actions"] = np.concatenate(taken)
        file["rewards"] = np.concatenate([part["reward"][1:] for part in parts])
        file["terminals"] = np.concatenate([part["is_terminal"][1:] for part in parts])
        file["timeouts"] = np.concatenate(
            [(part["is_last"] & ~part["is_terminal"])[1:] for part in parts]
        )
        if following:
            file["next_observations"] = np.concatenate([part["state"][1:] for part in parts])
        for key, value in more.items():
            if key in file:
                del file[key]
            file[key] = value


__all__ = ["CHOICES", "FLAGS", "OBS", "VALUES", "episode", "episodes", "joined", "same"]
