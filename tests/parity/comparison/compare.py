"""Recorded arrays, what became of each of them, and the table of the comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldflux.errors import ConfigurationError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tolerances:
    """Errors that are rounding, relative to an array's largest magnitude.

    forward: activations, losses and statistics of given weights. gradient: gradients of given
    weights. later: both after an update. change: of parameters, moments and their norms after
    updates, relative to the norm of the change itself: the optimizer divides each gradient by its
    own size, so that single elements show the rounding of the smallest gradients.
    """

    forward: float = 2e-5
    gradient: float = 1e-4
    later: float = 1e-4
    later_gradient: float = 1e-3
    change: float = 1e-3


@dataclass(frozen=True)
class Row:
    """The verdict on one array. Errors are None where no numbers could be compared."""

    name: str
    absolute: float | None
    relative: float | None
    tolerance: float
    ok: bool
    note: str = ""


class Recorded:
    """Named recorded arrays; every one must be used as an input or compared."""

    def __init__(self, arrays: Mapping[str, np.ndarray], prefix: str = ""):
        self.arrays, self.prefix = dict(arrays), prefix
        self.untouched = set(self.arrays)

    @classmethod
    def load(cls, path: Path, prefix: str = "") -> Recorded:
        """The arrays of an npz file; ConfigurationError if it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls({key: file[key] for key in file.files}, prefix)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """An array that is an input; ConfigurationError if it is missing."""
        if name not in self.arrays:
            raise ConfigurationError(f"the recorded array {self.prefix}{name} is missing")
        self.untouched.discard(name)
        return self.arrays[name]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Input arrays whose names begin with the prefix, by the rest of their names."""
        names = [name for name in self.arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def names(self, prefix: str = "") -> list[str]:
        """Names that begin with the prefix, without it. Uses none of them up."""
        return [name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)]


class Comparison:
    """Collects one row for each compared array."""

    def __init__(self, tolerances: Tolerances | None = None):
        self.rows: list[Row] = []
        self.tolerances = tolerances or Tolerances()

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    def failures(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]

    def check(
        self,
        recorded: Recorded,
        name: str,
        ours: Tensor | np.ndarray | float,
        *,
        tolerance: float | None = None,
        scale: float | None = None,
    ) -> None:
        """Compares ours with the recorded array.

        tolerance: of the error relative to scale; 0 asks for equality. scale: by default the
        recorded array's largest magnitude.
        """
        tolerance = self.tolerances.forward if tolerance is None else tolerance
        label = recorded.prefix + name
        if name not in recorded:
            self.rows.append(Row(label, None, None, tolerance, False, "not in the folder"))
            return
        self.rows.append(compare(label, recorded[name], ours, tolerance, scale))

    def check_change(
        self, recorded: Recorded, name: str, ours: Tensor | np.ndarray, start: np.ndarray
    ) -> None:
        """Compares what became of `start`; the relative error is that of the change's L2 norm."""
        self.check(recorded, name, ours, tolerance=self.tolerances.change)
        row = self.rows.pop()
        if row.absolute is not None:
            expected = recorded[name].astype(np.float64)
            change = float(np.linalg.norm(expected - start))
            error = float(np.linalg.norm(expected - as_array(ours)))
            relative = error / change if change else (np.inf if error else 0.0)
            row = replace(row, relative=relative, ok=bool(relative <= row.tolerance))
        self.rows.append(row)

    def fail(self, name: str, note: str) -> None:
        self.rows.append(Row(name, None, None, 0.0, False, note))

    def finish(self, recorded: Recorded) -> None:
        """Adds a failure for every array that was neither an input nor compared."""
        for name in sorted(recorded.untouched):
            self.fail(recorded.prefix + name, "no such array is known")


def compare(
    name: str,
    expected: np.ndarray,
    ours: Tensor | np.ndarray | float,
    tolerance: float,
    scale: float | None = None,
) -> Row:
    """The row of one array: shapes must be equal, and numbers finite where they should be."""
    expected, actual = np.asarray(expected, np.float64), as_array(ours)
    if expected.shape != actual.shape:
        note = f"shape {actual.shape}, expected {expected.shape}"
        return Row(name, None, None, tolerance, False, note)
    if not expected.size:
        return Row(name, 0.0, 0.0, tolerance, True, "empty")
    equal = expected == actual
    if not (np.isfinite(expected) & np.isfinite(actual) | equal).all():
        return Row(name, None, None, tolerance, False, "not finite")
    absolute = float(np.abs(np.where(equal, 0.0, actual - np.where(equal, 0.0, expected))).max())
    if scale is None:
        scale = float(np.abs(expected).max())
    relative = absolute / scale if scale else (np.inf if absolute else 0.0)
    return Row(name, absolute, relative, tolerance, bool(relative <= tolerance))


def as_array(value: Tensor | np.ndarray | float) -> np.ndarray:
    """Any number as a float64 array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, np.float64)


def flatten_json(path: Path) -> dict[str, np.ndarray]:
    """Leaves of a JSON file as arrays, by their keys joined with `/` and list positions from 0."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    return {name: np.asarray(value) for name, value in _leaves(data, "")}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}/{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}/{i}" if name else str(i))
    else:
        yield name, value


@dataclass(frozen=True)
class Computation:
    """How our side computes. compile: what training compiles is compiled."""

    dtype: torch.dtype = torch.float32
    compile: bool = False
    device: torch.device = CPU

    def eager(self) -> Computation:
        return replace(self, compile=False)

    def tensor(self, array: np.ndarray) -> Tensor:
        """A tensor of the array on the device; floats get the type of the computation."""
        value = torch.from_numpy(np.array(array)).to(self.device)
        return value.to(self.dtype) if value.is_floating_point() else value
