"""What reading official checkpoints is for every family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from worldflux.errors import ConfigurationError

Shapes = Mapping[str, Sequence[int]]


def new_folder(out: str | Path) -> Path:
    """The folder that an import writes; ConfigurationError where something is there already."""
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"--out {target} exists already; name a new folder")
    return target


def faults(
    shapes: Shapes, expected: Shapes, others: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Every missing, extra and misshapen entry in one text, empty if there is none.

    others: names of entries with another fault, by what it is.
    """
    misshapen = [
        f"{name} {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    lists = {
        "missing": [name for name in expected if name not in shapes],
        "not known": [name for name in shapes if name not in expected],
        "of another shape": misshapen,
        **(others or {}),
    }
    return "; ".join(f"{fault}: {', '.join(names)}" for fault, names in lists.items() if names)
