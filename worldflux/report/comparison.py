"""Runs beside each other: groups, their curves, and the numbers that a table has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldflux.core.statistics import (
    bootstrap_interval,
    improvement,
    improvement_interval,
    iqm,
    stratified_iqm,
)
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.report.configurations import (
    group_keys,
    labels,
    settings_of,
    signature,
    task_of,
)
from worldflux.report.published import (
    EPISODES,
    EVALUATIONS,
    PublishedTask,
    published_scores,
    published_task,
)
from worldflux.report.returns import (
    ENV_STEPS,
    NEWEST,
    UPDATES,
    MetricRecord,
    band,
    common_range,
    curve,
    is_online,
)
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.state import run_state

SIMULATOR = "simulator steps (environment steps × action repeat)"
X_NAMES = {ENV_STEPS: "environment steps", UPDATES: "gradient updates"}
UNEVEN = 1.1  # from this ratio on it is said that runs end at different steps


@dataclass(frozen=True)
class ComparedRun:
    """A run that was read. settings: its configuration by key. words: the overrides of its command
    line, as far as they are known. label, stratum: its group, and among it those of one
    configuration."""

    folder: Path
    state: str
    manifest: Mapping[str, Any]
    records: Sequence[MetricRecord] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    words: Sequence[str] = ()
    label: str = ""
    stratum: Any = None

    @classmethod
    def read(cls, folder: Path, words: Sequence[str] = ()) -> ComparedRun:
        """The run in a folder. CheckpointError: it cannot be read."""
        check_links(folder)
        manifest = read_manifest(folder)
        settings = settings_of(manifest)
        return cls(folder, run_state(folder), manifest, read_metrics(folder), settings, words)

    @property
    def name(self) -> str:
        """What it is called: its `run.name`, or its folder."""
        title = self.settings.get("run.name")
        folder = self.folder.name
        if not title and folder.count("-") == 2 and folder.replace("-", "").isdigit():
            folder = f"{self.folder.parent.name}/{folder}"  # date and time
        return str(title or folder)

    @property
    def task(self) -> str:
        return task_of(self.settings, self.manifest)

    @property
    def repeat(self) -> int:
        """Simulator steps of an environment step."""
        return (self.manifest.get("env") or {}).get("action_repeat") or 1

    def points(self, kind: str, x: str) -> np.ndarray:
        """Its curve `[N, 2]`. x: ENV_STEPS, UPDATES, or SIMULATOR."""
        window = max(NEWEST, (self.manifest.get("env") or {}).get("num_envs") or 0)
        of = ENV_STEPS if x == SIMULATOR else x
        return curve(self.records, kind, x=of, window=window) * (
            [self.repeat, 1] if x == SIMULATOR else [1, 1]
        )


class Estimate(NamedTuple):
    """A number with its 95 % bootstrap interval, None where it cannot be said."""

    score: float
    interval: tuple[float, float] | None

    def mirrored(self) -> Estimate:
        """Of a probability, that of the contrary."""
        turned = None if self.interval is None else (1 - self.interval[1], 1 - self.interval[0])
        return Estimate(1 - self.score, turned)


@dataclass
class Member:
    """A run of a group, with its curve `[N, 2]` and its numbers."""

    run: ComparedRun
    points: np.ndarray
    final: float
    best: float
    area: float | None
    reached: float | None = None


@dataclass
class Group:
    """Runs of one task that count as one. curve: `band` of theirs. final, best: of each run's own
    curve. area: mean height of the curves over the steps that all runs of the task have. reached:
    steps to the threshold, None where more than a quarter of the runs never come to it."""

    label: str
    members: list[Member]
    curve: np.ndarray
    final: Estimate
    best: Estimate
    area: Estimate | None
    reached: Estimate | None
    arrived: int


@dataclass
class Published:
    """Published scores `[N, 4]` (steps, interquartile mean, low, high) of a method on a task."""

    label: str
    kind: str
    source: str
    curve: np.ndarray

    def until(self, steps: float) -> np.ndarray:
        """The scores until so many steps `[N, 4]`, linear to them where they go on."""
        x = self.curve[:, 0]
        kept = self.curve[x < steps]
        if not len(kept) or x[-1] < steps:
            return kept
        end = [steps, *(np.interp(steps, x, column) for column in self.curve.T[1:])]
        return np.concatenate([kept, [end]])


@dataclass
class Task:
    """The groups of one task. kind: which returns. x: over which steps. covered: the steps that all
    runs have. improvement: for pairs of groups, by their labels, the probability that a run of the
    first ends higher than one of the second."""

    name: str
    kind: str
    x: str
    groups: list[Group]
    threshold: float | None
    covered: tuple[float, float] | None
    improvement: dict[tuple[str, str], Estimate]
    published: list[Published] = field(default_factory=list)

    @property
    def x_name(self) -> str:
        return X_NAMES.get(self.x, self.x)

    @property
    def unit(self) -> str:
        """`x_name` in short."""
        return self.x_name.partition(" (")[0]

    @property
    def end(self) -> float:
        """The last step of any run."""
        return max(member.points[-1, 0] for group in self.groups for member in group.members)

    @property
    def uneven(self) -> tuple[float, float] | None:
        """Where the first and the last run end, if that is far apart."""
        ends = [member.points[-1, 0] for group in self.groups for member in group.members]
        return (min(ends), max(ends)) if max(ends) > UNEVEN * min(ends) else None


@dataclass
class Comparison:
    """All tasks. improvement: as of a task, over the tasks that both groups have; empty where there
    is one task. left_out: what was named but is not here, with the reason."""

    runs: list[ComparedRun]
    tasks: list[Task]
    improvement: dict[tuple[str, str], Estimate]
    left_out: list[tuple[str, str]]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))

    @property
    def overall(self) -> dict[tuple[str, str], Estimate]:
        """The probabilities of improvement over everything that is there."""
        return self.improvement if len(self.tasks) > 1 else self.tasks[0].improvement


@dataclass(frozen=True)
class Choices:
    """What is compared. kind: EVALUATIONS or EPISODES; None: evaluations where all runs of the task
    have them. steps: the curves end there. threshold: of the returns; None: the configured
    ``env.solved_return``. published: published scores stand behind the curves."""

    kind: str | None = None
    steps: float | None = None
    threshold: float | None = None
    published: bool = False


def read_runs(
    folders: Sequence[Path], words_of: Callable[[Path], Sequence[str]]
) -> tuple[list[ComparedRun], list[tuple[str, str]]]:
    """The runs in folders, and those that cannot be read, with the reason."""
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(ComparedRun.read(folder, words_of(folder)))
        except CheckpointError as error:
            left_out.append((str(folder), str(error)))
    return runs, left_out


def grouped(runs: Sequence[ComparedRun], by: Sequence[str] = ()) -> list[ComparedRun]:
    """The runs with their groups; by: see `group_keys`."""
    keys = group_keys(runs, by)
    strata = group_keys(runs) if by else keys
    names = labels(runs, keys, bool(by))
    return [
        replace(run, label=name, stratum=signature(run, strata))
        for run, name in zip(runs, names, strict=True)
    ]


def compare(
    runs: Sequence[ComparedRun],
    choices: Choices,
    left_out: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Compares runs that have their groups; without tasks where none of them has a return yet."""
    missing = list(left_out)
    by_task: dict[str, list[ComparedRun]] = {}
    for run in runs:
        by_task.setdefault(run.task, []).append(run)
    tasks = []
    for name, members in by_task.items():
        task = _task(name, members, choices, missing)
        if task is not None:
            tasks.append(task)
    overall = _improvements([task.groups for task in tasks]) if len(tasks) > 1 else {}
    return Comparison(list(runs), tasks, overall, missing)


def _task(
    name: str,
    runs: Sequence[ComparedRun],
    choices: Choices,
    missing: list[tuple[str, str]],
) -> Task | None:
    published = _published(runs) if choices.published else []
    x = _axis(runs, bool(published))
    kind = choices.kind or _kind(runs, x, published)
    curves = []
    for run in runs:
        points = _cut(run.points(kind, x), choices.steps)
        if len(points) and (choices.steps is None or points[-1, 0] >= choices.steps):
            curves.append((run, points))
        else:
            ends = f"it ended before {choices.steps:,.0f} steps" if len(points) else ""
            missing.append((run.name, ends or f"it has no return of {kind}"))
    if not curves:
        return None
    covered = common_range([points for _, points in curves])
    threshold = choices.threshold
    if threshold is None:
        threshold = _goal([run for run, _ in curves])
    of: dict[str, list[Member]] = {}
    for run, points in curves:
        of.setdefault(run.label, []).append(_member(run, points, covered, threshold))
    groups = [_group(label, members) for label, members in of.items()]
    last = max(points[-1, 0] for _, points in curves)
    published = [one for one in published if len(one.until(last))]
    return Task(name, kind, x, groups, threshold, covered, _improvements([groups]), published)


def _goal(runs: Sequence[ComparedRun]) -> float | None:
    """The return that solves the task, where all runs have the same one."""
    goals = [run.settings.get("env.solved_return") for run in runs]
    first = goals[0]
    same = isinstance(first, int | float) and all(goal == first for goal in goals)
    return first if same else None


def _axis(runs: Sequence[ComparedRun], published: bool) -> str:
    if not any(is_online(run.records) for run in runs):
        return UPDATES
    return SIMULATOR if published or len({run.repeat for run in runs}) > 1 else ENV_STEPS


def _kind(runs: Sequence[ComparedRun], x: str, published: Sequence[Published]) -> str:
    """Evaluations where all runs have them, unless all that is published is of training episodes."""
    if published and all(one.kind == EPISODES for one in published):
        return EPISODES
    evaluated = [len(run.points(EVALUATIONS, x)) > 0 for run in runs]
    played = [len(run.points(EPISODES, x)) > 0 for run in runs]
    return EVALUATIONS if all(evaluated) or sum(evaluated) >= sum(played) else EPISODES


def _cut(points: np.ndarray, steps: float | None) -> np.ndarray:
    """The curve until so many steps, linear to them where it goes on."""
    if steps is None or not len(points) or points[-1, 0] <= steps:
        return points
    if points[0, 0] > steps:
        return points[:0]
    last = [[steps, np.interp(steps, points[:, 0], points[:, 1])]]
    return np.concatenate([points[points[:, 0] < steps], last])


def _member(
    run: ComparedRun,
    points: np.ndarray,
    covered: tuple[float, float] | None,
    threshold: float | None,
) -> Member:
    area = None if covered is None else mean_height(points, *covered)
    member = Member(run, points, float(points[-1, 1]), float(points[:, 1].max()), area)
    if threshold is not None:
        above = points[points[:, 1] >= threshold, 0]
        member.reached = float(above[0]) if len(above) else math.inf
    return member


def mean_height(points: np.ndarray, first: float, last: float) -> float:
    """The area under a curve between two steps, by their distance; points: `[N, 2]`."""
    inside = (points[:, 0] > first) & (points[:, 0] < last)
    x = np.concatenate([[first], points[inside, 0], [last]])
    y = np.interp(x, points[:, 0], points[:, 1])
    return float(np.trapezoid(y, x) / (last - first)) if last > first else float(y[0])


def _group(label: str, members: list[Member]) -> Group:
    strata = [member.run.stratum for member in members]
    areas = [member.area for member in members if member.area is not None]
    reached = [member.reached for member in members if member.reached is not None]
    return Group(
        label,
        members,
        band([member.points for member in members], strata),
        Estimate(*stratified_iqm(_by_stratum([m.final for m in members], strata))),
        Estimate(*stratified_iqm(_by_stratum([m.best for m in members], strata))),
        Estimate(*stratified_iqm(_by_stratum(areas, strata))) if areas else None,
        _steps_to(_by_stratum(reached, strata)) if reached else None,
        sum(map(math.isfinite, reached)),
    )


def _by_stratum(values: Sequence[float], strata: Sequence[Any]) -> list[list[float]]:
    of: dict[Any, list[float]] = {}
    for value, stratum in zip(values, strata, strict=True):
        of.setdefault(stratum, []).append(value)
    return list(of.values())


def _steps_to(strata: Sequence[Sequence[float]]) -> Estimate | None:
    """Runs that never arrive count as later than all others: the interquartile mean leaves a quarter
    of them out; an interval is not said then."""
    never = [sum(map(math.isinf, values)) for values in strata]
    if any(4 * n > len(values) for n, values in zip(never, strata, strict=True)):
        return None
    highest = max(value for values in strata for value in values if math.isfinite(value))
    score, interval = stratified_iqm([[min(v, highest) for v in values] for values in strata])
    return Estimate(score, None if any(never) else interval)


def _improvements(tasks: Sequence[Sequence[Group]]) -> dict[tuple[str, str], Estimate]:
    """For every pair of groups: the mean over the tasks that both have."""
    finals: list[dict[str, list[float]]] = [
        {group.label: [member.final for member in group.members] for group in groups}
        for groups in tasks
    ]
    known = list(dict.fromkeys(label for one in finals for label in one))
    result = {}
    for first, second in combinations(known, 2):
        pairs = [(one[first], one[second]) for one in finals if first in one and second in one]
        if pairs:
            result[first, second] = _improvement(pairs)
    return result


def _improvement(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Estimate:
    score = float(np.mean([improvement(np.array(a), np.array(b)) for a, b in pairs]))
    several = any(len(a) > 1 and len(b) > 1 for a, b in pairs)
    return Estimate(score, improvement_interval(pairs) if several else None)


def _published(runs: Sequence[ComparedRun]) -> list[Published]:
    return [one for task in _published_tasks(runs) for one in _published_curves(task)]


def _published_tasks(runs: Sequence[ComparedRun]) -> list[PublishedTask]:
    tasks: dict[PublishedTask | None, None] = {}
    for run in runs:
        with suppress(
            KeyError, TypeError, AttributeError, ConfigurationError
        ):  # a manifest that lacks what names its task
            tasks[published_task(run.manifest)] = None
    return [task for task in tasks if task is not None]


def _published_curves(task: PublishedTask) -> Iterator[Published]:
    scores = published_scores(task)
    for source in dict.fromkeys(at.source for at in scores):
        of = [at for at in scores if at.source == source]
        rows = []
        for at in of:
            values = np.array(at.scores)
            low, high = bootstrap_interval(values, statistic=iqm)
            rows.append([at.steps, float(iqm(values)), low, high])
        label = f"published {task.method} ({len(of[0].scores)} seeds)"
        yield Published(label, of[0].score_of, source, np.array(rows))
