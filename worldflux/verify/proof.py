"""Proof: the returns of one or more seeds against published ones, at equal simulator steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.core.statistics import iqm, stratified_interval
from worldflux.errors import ConfigurationError
from worldflux.report.published import (
    EVALUATIONS,
    PublishedScores,
    PublishedTask,
    published_scores,
    published_task,
)
from worldflux.report.returns import NEWEST, curve
from worldflux.run_folder.manifest import degrading, read_manifest
from worldflux.run_folder.metrics import read_metrics

BETTER, AT_PAR, WORSE, UNKNOWN = "better", "at par", "worse", "not enough evidence"
# Below three seeds a resampled interval is about the seeds, not about the method.
FEWEST_SEEDS = 3
MARGIN = 0.05  # of the published interquartile mean: as good as equal


@dataclass
class SeedScore:
    """One run: its score at the simulator steps of the comparison."""

    run: Path
    seed: int
    steps: int
    score: float | None


@dataclass
class Proof:
    """The comparison; without figures to compare with, `published` is None."""

    task: PublishedTask | None
    seeds: list[SeedScore]
    verdict: str
    reason: str
    published: PublishedScores | None = None
    ours: float | None = None
    theirs: float | None = None
    interval: tuple[float, float] | None = None  # of ours minus theirs


def prove(runs: list[Path], margin: float = MARGIN) -> Proof:
    """Compares runs of one task and one family, each a seed, with the published seeds.

    The comparison is made at the largest published number of simulator steps that every run has
    reached. Ours and theirs are interquartile means over seeds; the stratified bootstrap resamples
    the two groups of seeds separately.
    """
    manifests = {run: read_manifest(run) for run in runs}
    task = common_task(manifests)
    reached = {run: simulator_steps(m) for run, m in manifests.items()}
    seeds = [SeedScore(run, m["seed"], reached[run], None) for run, m in manifests.items()]
    degraded = [str(run) for run, m in manifests.items() if degrading(m["degraded_modes"])]
    if degraded:
        return Proof(task, seeds, UNKNOWN, f"degraded runs prove nothing: {', '.join(degraded)}")
    if task is None:
        env = next(iter(manifests.values()))["env"]["id"]
        return Proof(task, seeds, UNKNOWN, f"no published scores of {env} with this family")
    figures = [at for at in published_scores(task) if at.steps > 0]
    within = [at for at in figures if at.steps <= min(reached.values())]
    if not within:
        first = f"begin at {figures[0].steps:,} simulator steps" if figures else "are not known"
        text = f"published scores of {task.name} {first}; a run ended at {min(reached.values()):,}"
        return Proof(task, seeds, UNKNOWN, text)
    published = within[-1]
    for item in seeds:
        item.score = score_at(item.run, manifests[item.run], published)
    return judge(Proof(task, seeds, UNKNOWN, "", published), margin)


def common_task(manifests: dict[Path, dict[str, Any]]) -> PublishedTask | None:
    """The one published task of all runs. ConfigurationError if they differ or a seed is twice."""
    kinds = {(m["env"]["id"], m["model_config"]["model_type"]) for m in manifests.values()}
    if len(kinds) > 1:
        runs = ", ".join(sorted(f"{env} with {family}" for env, family in kinds))
        raise ConfigurationError(f"--mode proof compares one task and family at a time, got {runs}")
    seeds = [m["seed"] for m in manifests.values()]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        named = [str(run) for run, m in manifests.items() if m["seed"] == twice[0]]
        raise ConfigurationError(
            f"seed {twice[0]} is there more than once: {', '.join(named)}; name the runs to count"
        )
    return published_task(next(iter(manifests.values())))


def simulator_steps(manifest: dict[str, Any]) -> int:
    return manifest["env_steps"] * manifest["env"]["action_repeat"]


def score_at(run: Path, manifest: dict[str, Any], published: PublishedScores) -> float | None:
    """A run's score after so many simulator steps, of the kind that was published.

    Training episodes: the mean of the newest ones until then, at least NEWEST and at least one of
    each environment. Evaluations: linear between the two around it. None where there are none.
    """
    window = max(NEWEST, manifest["env"]["num_envs"])
    points = curve(read_metrics(run), published.score_of, window=window)
    steps, values = (points * [manifest["env"]["action_repeat"], 1]).T
    if published.score_of == EVALUATIONS:
        inside = len(steps) > 0 and steps[0] <= published.steps <= steps[-1]
        return float(np.interp(published.steps, steps, values)) if inside else None
    before = values[steps <= published.steps]
    return float(before[-1]) if len(before) else None


def judge(proof: Proof, margin: float) -> Proof:
    """Fills in both interquartile means, the interval of their difference and the verdict."""
    assert proof.published is not None
    theirs = np.array(proof.published.scores)
    ours = np.array([item.score for item in proof.seeds if item.score is not None])
    proof.theirs = float(iqm(theirs))
    if len(ours) < len(proof.seeds):
        kind = proof.published.score_of
        proof.reason = f"not every run has {kind} up to {proof.published.steps:,} simulator steps"
        return proof
    proof.ours = float(iqm(ours))
    low, high = proof.interval = stratified_interval([ours, theirs], lambda s: s[0] - s[1])
    equal = margin * abs(proof.theirs)
    if (few := min(len(ours), len(theirs))) < FEWEST_SEEDS:
        place = f"{int((theirs < proof.ours).sum())} of {len(theirs)} published seeds are below"
        proof.reason = f"{few} seeds are fewer than {FEWEST_SEEDS}; {place}"
    elif -equal <= low and high <= equal:
        proof.verdict, proof.reason = AT_PAR, f"the difference is within {margin:.0%} of theirs"
    elif low > 0:
        proof.verdict, proof.reason = BETTER, "the whole interval of the difference is above zero"
    elif high < 0:
        proof.verdict, proof.reason = WORSE, "the whole interval of the difference is below zero"
    else:
        proof.reason = "the interval of the difference holds zero and more than the margin"
    return proof
