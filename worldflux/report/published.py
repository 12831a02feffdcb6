"""Published scores, to which runs are compared at equal simulator steps.

Simulator steps are environment steps times the action repeat. The sources are the authors' own
repositories, named in each family's table of published returns.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from worldflux.models.families import OURS, family_of_type

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
