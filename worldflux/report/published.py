"""Published scores, to which runs are compared at equal simulator steps.

Simulator steps are environment steps times the action repeat. The sources are the authors' own
repositories, named in each family's table of published returns.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from worldflux.errors import ConfigurationError
from worldflux.models.families import OURS, family_of_type

PER_SEED = "published_per_seed.csv.gz"
TABLE = Path(__file__).with_name("published.csv")
# What a source's scores are returns of, and where it is found.
EPISODES, EVALUATIONS = "training episodes", "evaluation episodes"
_PUBLISHED = [module for one in OURS if (module := one.published_module()) is not None]
SCORE_OF = {module.SOURCE: module.SCORE_OF for module in _PUBLISHED}
ADDRESS_OF = {module.SOURCE: module.ADDRESS for module in _PUBLISHED}


@dataclass(frozen=True)
class PublishedTask:
    """A task and method as the published files name them."""

    suite: str
    name: str
    method: str


def published_task(manifest: Mapping[str, Any]) -> PublishedTask | None:
    """What the published files call a run's task and family; None for a task that none has.

    manifest: the run's ``run_manifest.json``.
    """
    family = family_of_type(manifest["model_config"]["model_type"])
    module = family.published_module()
    task: tuple[str, str] | None = None if module is None else module.task_of(manifest)
    return None if task is None else PublishedTask(*task, method=family.name)


def rows_of(file: TextIO, task: PublishedTask) -> Iterator[dict[str, str]]:
    """The rows of a task in a CSV file of scores."""
    for row in csv.DictReader(file):
        if PublishedTask(row["suite"], row["task"], row["method"]) == task:
            yield row


@dataclass(frozen=True)
class PublishedScores:
    """Scores of all seeds of one method on one task after so many simulator steps."""

    source: str
    task: PublishedTask
    steps: int
    scores: tuple[float, ...]

    @property
    def score_of(self) -> str:
        """What they are returns of: training or evaluation episodes."""
        return SCORE_OF[self.source]


def published_scores(task: PublishedTask) -> list[PublishedScores]:
    """The shipped figures of a task, in the order of steps; empty where there are none."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        figures = [
            PublishedScores(
                row["source"],
                task,
                int(row["simulator_steps"]),
                tuple(map(float, row["scores"].split())),
            )
            for row in rows_of(file, task)
        ]
    return sorted(figures, key=lambda at: at.steps)


@dataclass(frozen=True)
class PublishedCurve:
    """Scores of one method on one task, each seed by itself.

    seeds: per seed its points `[N, 2]` (simulator steps, score), in the order of steps.
    """

    source: str
    task: PublishedTask
    seeds: tuple[np.ndarray, ...]

    def at(self, steps: float) -> np.ndarray:
        """Score of every seed `[S]` at so many simulator steps, linear between two points; seeds
        that have no point before or none after it are left out."""
        inside = [s for s in self.seeds if s[0, 0] <= steps <= s[-1, 0]]
        return np.array([np.interp(steps, s[:, 0], s[:, 1]) for s in inside])


def read_published(folder: Path, task: PublishedTask) -> PublishedCurve | None:
    """A curve of ``published_per_seed.csv.gz`` in `folder`, None where the file has none.

    Columns: source, suite, task, method, seed, env_steps (simulator steps), score. Raises
    ConfigurationError if the file is missing or reads otherwise.
    """
    path = folder / PER_SEED
    points: dict[str, list[tuple[float, float]]] = {}
    source = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in rows_of(file, task):
                source = row["source"]
                point = (float(row["env_steps"]), float(row["score"]))
                points.setdefault(row["seed"], []).append(point)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"cannot read the published scores {path}: {error}") from error
    if not points:
        return None
    seeds = tuple(np.array(sorted(values)) for _, values in sorted(points.items()))
    return PublishedCurve(source, task, seeds)
