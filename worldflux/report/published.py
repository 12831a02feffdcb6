"""Published learning curves, to which runs are compared at equal environment steps."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldflux.errors import ConfigurationError

FILE = "published_per_seed.csv.gz"


@dataclass(frozen=True)
class PublishedCurve:
    """Scores of one method on one task, each seed by itself.

    seeds: per seed its points `[N, 2]` (simulator steps, score), in the order of steps.
    """

    source: str
    suite: str
    task: str
    method: str
    seeds: tuple[np.ndarray, ...]

    def at(self, steps: float) -> np.ndarray:
        """Score of every seed `[S]` at so many simulator steps, linear between two points; seeds
        that have no point before or none after it are left out."""
        inside = [s for s in self.seeds if s[0, 0] <= steps <= s[-1, 0]]
        return np.array([np.interp(steps, s[:, 0], s[:, 1]) for s in inside])


def read_published(folder: Path, *, suite: str, task: str, method: str) -> PublishedCurve | None:
    """A curve of ``published_per_seed.csv.gz`` in `folder`, None where the file has none.

    Columns: source, suite, task, method, seed, env_steps (simulator steps), score. Raises
    ConfigurationError if the file is missing or reads otherwise.
    """
    path = folder / FILE
    points: dict[str, list[tuple[float, float]]] = {}
    source = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if (row["suite"], row["task"], row["method"]) == (suite, task, method):
                    source = row["source"]
                    point = (float(row["env_steps"]), float(row["score"]))
                    points.setdefault(row["seed"], []).append(point)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"cannot read the published scores {path}: {error}") from error
    if not points:
        return None
    seeds = tuple(np.array(sorted(values)) for _, values in sorted(points.items()))
    return PublishedCurve(source, suite, task, method, seeds)
