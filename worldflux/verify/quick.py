"""Quick verification: is a run what its files say, and did it learn anything at all?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import parsed, read_text
from worldflux.config.spaces import Space
from worldflux.core.agent import Agent, Carry, Entries
from worldflux.core.statistics import difference_interval, mean, stratified_interval
from worldflux.data.collect import random_actions
from worldflux.errors import CheckpointError, WorldFluxError
from worldflux.report.imagination import layout_of_env, tasks_of
from worldflux.report.measurement import Measurement
from worldflux.run_folder.checkpoint import CheckpointStore, read_checkpoint
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import classification, degrading, is_as_written, read_manifest
from worldflux.run_folder.names import CHECKPOINTS, MANIFEST, METRICS
from worldflux.run_folder.state import RunState, run_state
from worldflux.runner.measured import GREEDY, HORIZON, measured
from worldflux.runner.trained import TrainedRun, open_run
from worldflux.training.evaluate import Evaluation, GreedyEvaluator

MODEL_EPISODES = 5  # on which the model is measured, at most
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# A right run fails the comparison with its own record in one of a hundred verifications.
REPRODUCED = 0.99
# What each check shows and what it does not.
PROVES = {
    "complete": "That training came to its own end.",
    "metrics": "That the curve has no gap or repetition; not that the numbers in it are true.",
    "checkpoints": "That no byte of a checkpoint changed since it was written.",
    "data": "That the data was what the manifest says, as far as the run's own files can tell.",
    "loads": "That the model can be used again; not that it is good.",
    "return": "Nothing about the return is shown.",
    "reproduced": "That the recorded return is the one of this checkpoint in this environment: "
    "episodes with other seeds give it again. Not how another training seed would do.",
    "better than random": "That the policy does something useful; not that it is as good as it "
    "could be (--mode proof compares with published scores).",
}


@dataclass
class Check:
    """One finding. proves: what it shows and what it does not, in words."""

    name: str
    status: str
    finding: str
    proves: str


def check(name: str, passed: bool | None, finding: str) -> Check:
    """passed: None where it could not be made."""
    status = {True: PASSED, False: FAILED, None: SKIPPED}[passed]
    return Check(name, status, finding, PROVES[name])


@dataclass
class Quick:
    """All findings about one run. model: how good its world model is, by task; it is no check."""

    run: Path
    manifest: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    episodes: Evaluation | None = None
    random_episodes: Evaluation | None = None
    checkpoint: str | None = None
    model: dict[str, Measurement] = field(default_factory=dict)


class RandomPolicy:
    """A policy that draws uniform actions: what any learning must beat."""

    def __init__(self, action_spaces: Mapping[str, Space], seed: int) -> None:
        self._spaces = dict(action_spaces)
        self._rng = np.random.default_rng(seed)

    def initial_carry(self, n: int) -> Carry:
        return {}

    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        """Uniform flat actions `[N, A]`, whatever is observed."""
        return carry, random_actions(self._spaces, len(obs["is_first"]), self._rng), {}


def verify_quick(
    folder: Path,
    *,
    episodes: int,
    device: str,
    seed: int,
    progress: Callable[[str], None],
    trust: bool = False,
) -> Quick:
    """Checks one run folder. CheckpointError if it has no readable manifest.

    episodes: greedy ones to play, and as many random ones. progress: gets a line before what takes
    long. trust: see `open_run`.
    """
    check_links(folder)
    quick = Quick(folder, read_manifest(folder))
    for check_of in (check_status, check_metrics, check_files, check_data):
        quick.checks.append(check_of(folder, quick.manifest))
    run, agent, loads = load(folder, device, trust)
    quick.checks.append(loads)
    if run is None or agent is None:
        return quick
    quick.checkpoint = run.checkpoint.name
    progress(
        f"playing {episodes} episodes of {run.env.id} with the policy, then with random actions"
    )
    policy = RandomPolicy(run.model.action_spaces(), seed)
    evaluate = GreedyEvaluator(run.env, episodes)
    try:
        quick.episodes = evaluate(agent, seed)
        quick.random_episodes = evaluate(policy, seed + 1)
    except WorldFluxError as error:
        text = f"the environment could not be played: {error}"
        quick.checks.append(check("return", False, text))
        return quick
    assert quick.episodes is not None and quick.random_episodes is not None  # nothing stops them
    quick.checks.append(check_reproduced(folder, run.checkpoint, quick.episodes))
    quick.checks.append(check_beats_random(quick.episodes, quick.random_episodes))
    few = min(episodes, MODEL_EPISODES)
    progress(f"measuring the world model on {few} more episodes")
    quick.model = measured_model(run, agent, few, seed + episodes)
    return quick


def measured_model(
    run: TrainedRun, agent: Agent, episodes: int, seed: int
) -> dict[str, Measurement]:
    """The world model on episodes of the policy, by task."""
    layout = layout_of_env(run.env)
    made = {}
    for env, discount in tasks_of(run.env, agent):
        (made[env.id],) = measured(
            agent,
            env,
            episodes=episodes,
            horizon=HORIZON,
            seed=seed,
            discount=discount,
            layout=layout,
            policies=(GREEDY,),
        )
    return made


def check_status(folder: Path, manifest: Mapping[str, Any]) -> Check:
    state = run_state(folder)
    updates, steps = manifest.get("global_step"), manifest.get("env_steps")
    text = f"{state}, {updates:,} updates, {steps:,} environment steps"
    return check("complete", state == RunState.COMPLETED, text)


def check_metrics(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """``metrics.jsonl`` reads, counts upwards and ends where the manifest does."""
    count, last = 0, {"step": 0, "env_steps": 0}
    try:
        for count, record in enumerate(metric_lines(folder / METRICS), 1):
            for key in last:
                if record[key] < last[key]:
                    text = f"{METRICS} line {count}: {key} falls from {last[key]} to {record[key]}"
                    return check("metrics", False, text)
            last = {key: record[key] for key in last}
    except CheckpointError as error:
        return check("metrics", False, str(error))
    for key, counter in (("step", "global_step"), ("env_steps", "env_steps")):
        if last[key] > manifest[counter] or (manifest["status"] == "completed" and not count):
            text = f"{METRICS} ends at {key} {last[key]}, the manifest at {manifest[counter]}"
            return check("metrics", False, text)
    return check("metrics", True, f"{count:,} records in order")


LARGEST = 2**30  # bytes of a metrics file


def metric_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics file; CheckpointError names the first line that is none."""
    try:
        lines = read_text(path, LARGEST).splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            record = parsed(line)
            good = all(isinstance(record[key], int) for key in ("step", "env_steps"))
            good = good and isinstance(record["metrics"], dict)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise CheckpointError(f"{path.name} line {number} is not a metrics record")
        yield record


def check_files(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """Every checkpoint has the contents its checksums were made of."""
    try:
        folders = CheckpointStore(folder / CHECKPOINTS).folders()
        steps = [read_checkpoint(path).state["step"] for path in folders]
    except CheckpointError as error:
        return check("checkpoints", False, str(error))
    if not steps:
        return check("checkpoints", False, "there is no checkpoint")
    newest = max(steps)
    if manifest["status"] == "completed" and newest != manifest["global_step"]:
        text = f"the newest checkpoint is of update {newest:,}, the run of "
        return check("checkpoints", False, f"{text}{manifest['global_step']:,}")
    return check("checkpoints", True, f"{len(steps)} whole, newest of update {newest:,}")


def check_data(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """What the manifest says of the data is what the checkpoints and counters say."""
    mode, degraded = manifest["data_mode"], ", ".join(manifest["degraded_modes"])
    if denied := contradictions(folder, manifest):
        return check("data", False, "; ".join(denied))
    if degrading(manifest["degraded_modes"]):
        return check("data", False, f"degraded: {degraded} (data mode {mode})")
    shown = f" but what was shown ({degraded})" if degraded else ""
    text = f"data mode {mode}, nothing degraded{shown}, {manifest['run_classification']}"
    return check("data", True, text)


def contradictions(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Statements of the manifest about the data that its other files deny."""
    mode, degraded = manifest["data_mode"], set(manifest["degraded_modes"])
    denied = []
    if not is_as_written(manifest):
        denied.append(f"the configuration in {MANIFEST} was changed after the run wrote it")
    expected = classification(mode, sorted(degraded), manifest["global_step"])
    if manifest["run_classification"] != expected:
        denied.append(f"classified {manifest['run_classification']}, but it is {expected}")
    if mode == "online" and not manifest["env_steps"]:
        denied.append("data mode online, but no environment step was taken")
    source = manifest["config"]["data"]["source"] if "config" in manifest else None
    if source == "gym" and mode == "random" and not degraded:
        denied.append("random data in the place of data.source=gym, and no degraded mode names it")
    if manifest["damaged_checkpoints"] and "damaged_checkpoint_skipped" not in degraded:
        denied.append("damaged_checkpoint_skipped is not among the degraded modes")
    for path in CheckpointStore(folder / CHECKPOINTS).folders():
        try:
            saved = read_checkpoint(path).state.get("source", {})
        except CheckpointError:
            continue  # reported by check_files
        if missing := set(saved.get("degraded_modes", ())) - degraded:
            denied.append(f"{path.name} was degraded: {', '.join(sorted(missing))}")
        if mode == "online" and saved and ("collector" not in saved or saved.get("noise")):
            denied.append(f"data mode online, but {path.name} was trained on noise")
    return denied


def load(folder: Path, device: str, trust: bool) -> tuple[TrainedRun | None, Agent | None, Check]:
    """The final checkpoint in a model built from the manifest."""
    try:
        run = open_run(folder, "latest", trust)
        agent = run.agent(device)
    except WorldFluxError as error:
        return None, None, check("loads", False, str(error))
    except (RuntimeError, KeyError, ValueError) as error:
        text = f"the checkpoint does not fit its model: {' '.join(str(error).split())[:200]}"
        return None, None, check("loads", False, text)
    return run, agent, check("loads", True, f"{run.checkpoint.name} on {device}")


def check_reproduced(folder: Path, checkpoint: Path, now: Evaluation) -> Check:
    """New episodes of the final policy against its recorded evaluation."""
    step = read_checkpoint(checkpoint).state["step"]
    recorded = [
        record["metrics"]
        for record in metric_lines(folder / METRICS)
        if record["step"] == step and "eval/return" in record["metrics"]
    ]
    if not recorded:
        return check("reproduced", None, f"no evaluation was recorded at update {step:,}")
    then, played = recorded[-1], len(now.returns)
    count = int(then["eval/episodes"])
    if min(count, played) < 2:
        text = f"{count} episodes recorded, {played} played now: each needs at least two"
        return check("reproduced", None, text)
    spread = then["eval/return_std"] * math.sqrt(count / (count - 1))
    low, high = difference_interval(
        (now.mean, float(np.std(now.returns, ddof=1))),
        played,
        (then["eval/return"], spread),
        count,
        REPRODUCED,
    )
    text = (
        f"recorded {then['eval/return']:.4g} ({count} episodes), now {now.mean:.4g} ({played}); "
        f"difference in [{low:.4g}, {high:.4g}] at {REPRODUCED:.0%}"
    )
    return check("reproduced", low <= 0 <= high, text)


def check_beats_random(policy: Evaluation, random: Evaluation) -> Check:
    returns = [policy.returns, random.returns]
    low, high = stratified_interval(returns, lambda s: s[0] - s[1], statistic=mean)
    text = (
        f"policy {np.mean(policy.returns):.4g}, random {np.mean(random.returns):.4g}; better by "
        f"{low:.4g} to {high:.4g} (95 % interval)"
    )
    return check("better than random", low > 0, text)
