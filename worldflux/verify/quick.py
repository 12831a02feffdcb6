"""Quick verification: is a run what its files say, and did it learn anything at all?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from worldflux.config.spaces import Space
from worldflux.core.agent import Agent, Carry, Entries
from worldflux.core.statistics import mean, stratified_interval
from worldflux.data.collect import random_actions
from worldflux.errors import CheckpointError, WorldFluxError
from worldflux.run_folder.checkpoint import CheckpointStore, read_checkpoint
from worldflux.run_folder.manifest import classification, degrading, read_manifest
from worldflux.run_folder.names import CHECKPOINTS, METRICS
from worldflux.run_folder.state import RunState, run_state
from worldflux.runner.trained import TrainedRun, open_run
from worldflux.training.evaluate import Evaluation, GreedyEvaluator
from worldflux.verify.welch import difference_interval

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# A right run fails the comparison with its own record in one of a hundred verifications.
REPRODUCED = 0.99


@dataclass
class Check:
    """One finding. proves: what it shows and what it does not, in words."""

    name: str
    status: str
    finding: str
    proves: str


@dataclass
class Quick:
    """All findings about one run."""

    run: Path
    manifest: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    episodes: Evaluation | None = None
    random_episodes: Evaluation | None = None
    checkpoint: str | None = None

    @property
    def passed(self) -> bool:
        return all(check.status != FAILED for check in self.checks)


class RandomPolicy:
    """An agent that draws uniform actions: what any learning must beat."""

    model = nn.Module()
    entry_spaces: Mapping[str, Space] = {}
    replay_context = 0

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
    folder: Path, *, episodes: int, device: str, seed: int, say: Callable[[str], None]
) -> Quick:
    """Checks one run folder. CheckpointError if it has no readable manifest.

    episodes: greedy ones to play, and as many random ones. say: told what takes long.
    """
    quick = Quick(folder, read_manifest(folder))
    quick.checks.append(check_status(folder, quick.manifest))
    quick.checks.append(check_metrics(folder, quick.manifest))
    quick.checks.append(check_files(folder, quick.manifest))
    quick.checks.append(check_honesty(folder, quick.manifest))
    run, agent, check = load(folder, device)
    quick.checks.append(check)
    if run is None or agent is None:
        return quick
    quick.checkpoint = run.checkpoint.name
    say(f"playing {episodes} episodes of {run.env.id} with the policy, then with random actions")
    try:
        quick.episodes = GreedyEvaluator(run.env, episodes)(agent, seed)
        policy: Any = RandomPolicy(agent_spaces(agent), seed)
        quick.random_episodes = GreedyEvaluator(run.env, episodes)(policy, seed + 1)
    except WorldFluxError as error:
        text = f"the environment could not be played: {error}"
        quick.checks.append(Check("return", FAILED, text, "Nothing about the return is shown."))
        return quick
    quick.checks.append(check_reproduced(folder, run, quick))
    quick.checks.append(check_beats_random(quick))
    return quick


def agent_spaces(agent: Agent) -> dict[str, Space]:
    config: Any = agent.model.config
    return config.action_spaces()


def check_status(folder: Path, manifest: Mapping[str, Any]) -> Check:
    state, proves = run_state(folder), "That training came to its own end."
    updates, steps = manifest.get("global_step"), manifest.get("env_steps")
    text = f"{state}, {updates:,} updates, {steps:,} environment steps"
    return Check("complete", PASSED if state == RunState.COMPLETED else FAILED, text, proves)


def check_metrics(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """``metrics.jsonl`` reads, counts upwards and ends where the manifest does."""
    proves = "That the curve has no gap or repetition; not that the numbers in it are true."
    try:
        count = 0
        last = {"step": 0, "env_steps": 0}
        for record in metric_lines(folder / METRICS):
            for key in last:
                if record[key] < last[key]:
                    text = f"{METRICS} line {count + 1}: {key} falls from {last[key]}"
                    return Check("metrics", FAILED, f"{text} to {record[key]}", proves)
            last = {key: record[key] for key in last}
            count += 1
    except CheckpointError as error:
        return Check("metrics", FAILED, str(error), proves)
    for key, counter in (("step", "global_step"), ("env_steps", "env_steps")):
        if last[key] > manifest[counter] or (manifest["status"] == "completed" and not count):
            text = f"{METRICS} ends at {key} {last[key]}, the manifest at {manifest[counter]}"
            return Check("metrics", FAILED, text, proves)
    return Check("metrics", PASSED, f"{count:,} records in order", proves)


def metric_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics file; CheckpointError names the first line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            good = all(isinstance(record[key], int) for key in ("step", "env_steps"))
            good = good and isinstance(record["metrics"], dict)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise CheckpointError(f"{path.name} line {number} is not a metrics record")
        yield record


def check_files(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """Every checkpoint has the contents its checksums were made of."""
    proves = "That no byte of a checkpoint changed since it was written."
    store = CheckpointStore(folder / CHECKPOINTS)
    try:
        saved = [read_checkpoint(path).state for path in store.folders()]
    except CheckpointError as error:
        return Check("checkpoints", FAILED, str(error), proves)
    if not saved:
        return Check("checkpoints", FAILED, "there is no checkpoint", proves)
    newest = max(state["step"] for state in saved)
    if manifest["status"] == "completed" and newest != manifest["global_step"]:
        text = f"the newest checkpoint is of update {newest:,}, the run of "
        return Check("checkpoints", FAILED, f"{text}{manifest['global_step']:,}", proves)
    return Check("checkpoints", PASSED, f"{len(saved)} whole, newest of update {newest:,}", proves)


def check_honesty(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """What the manifest says of the data is what the checkpoints and counters say."""
    proves = "That the data was what the manifest says, as far as the run's own files can tell."
    mode, degraded = manifest["data_mode"], list(manifest["degraded_modes"])
    hidden = contradictions(folder, manifest)
    if hidden:
        return Check("data", FAILED, "; ".join(hidden), proves)
    if degrading(degraded):
        text = f"degraded: {', '.join(degraded)} (data mode {mode})"
        return Check("data", FAILED, text, proves)
    what = f"nothing degraded but what was shown ({', '.join(degraded)})"
    what = what if degraded else "nothing degraded"
    text = f"data mode {mode}, {what}, {manifest['run_classification']}"
    return Check("data", PASSED, text, proves)


def contradictions(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Statements of the manifest about the data that its other files deny."""
    mode, degraded = manifest["data_mode"], set(manifest["degraded_modes"])
    found = []
    expected = classification(mode, sorted(degraded), manifest["global_step"])
    if manifest["run_classification"] != expected:
        found.append(f"classified {manifest['run_classification']}, but it is {expected}")
    if mode == "online" and not manifest["env_steps"]:
        found.append("data mode online, but no environment step was taken")
    asked = manifest["config"]["data"]["source"] if "config" in manifest else None
    if asked == "gym" and mode == "random" and not degraded:
        found.append("random data in the place of data.source=gym, and no degraded mode names it")
    if manifest["damaged_checkpoints"] and "damaged_checkpoint_skipped" not in degraded:
        found.append("damaged_checkpoint_skipped is not among the degraded modes")
    for path in CheckpointStore(folder / CHECKPOINTS).folders():
        try:
            source = read_checkpoint(path).state.get("source", {})
        except CheckpointError:
            continue  # told by check_files
        if missing := set(source.get("degraded_modes", ())) - degraded:
            found.append(f"{path.name} was degraded: {', '.join(sorted(missing))}")
        if mode == "online" and source and ("collector" not in source or source.get("noise")):
            found.append(f"data mode online, but {path.name} was trained on noise")
    return found


def load(folder: Path, device: str) -> tuple[TrainedRun | None, Agent | None, Check]:
    """The final checkpoint in a model built from the manifest."""
    proves = "That the model can be used again; not that it is good."
    try:
        run = open_run(folder, "latest")
        agent = run.agent(device)
    except WorldFluxError as error:
        return None, None, Check("loads", FAILED, str(error), proves)
    except (RuntimeError, KeyError, ValueError) as error:
        text = f"the checkpoint does not fit its model: {' '.join(str(error).split())[:200]}"
        return None, None, Check("loads", FAILED, text, proves)
    return run, agent, Check("loads", PASSED, f"{run.checkpoint.name} on {device}", proves)


def check_reproduced(folder: Path, run: TrainedRun, quick: Quick) -> Check:
    """New episodes of the final policy against its recorded evaluation."""
    assert quick.episodes is not None
    proves = (
        "That the recorded return is the one of this checkpoint in this environment: episodes with "
        "other seeds give it again. Not how another training seed would do."
    )
    step = read_checkpoint(run.checkpoint).state["step"]
    recorded = [
        record["metrics"]
        for record in metric_lines(folder / METRICS)
        if record["step"] == step and "eval/return" in record["metrics"]
    ]
    if not recorded:
        text = f"no evaluation was recorded at update {step:,}"
        return Check("reproduced", SKIPPED, text, proves)
    then, now = recorded[-1], quick.episodes
    count = int(then["eval/episodes"])
    if min(count, len(now.returns)) < 2:
        text = f"{count} episodes recorded, {len(now.returns)} played now: each needs at least two"
        return Check("reproduced", SKIPPED, text, proves)
    spread = then["eval/return_std"] * math.sqrt(count / (count - 1))
    low, high = difference_interval(
        (now.mean, float(np.std(now.returns, ddof=1))),
        len(now.returns),
        (then["eval/return"], spread),
        count,
        REPRODUCED,
    )
    text = (
        f"recorded {then['eval/return']:.4g} ({count} episodes), now "
        f"{now.mean:.4g} ({len(now.returns)}); difference in [{low:.4g}, {high:.4g}] at "
        f"{REPRODUCED:.0%}"
    )
    return Check("reproduced", PASSED if low <= 0 <= high else FAILED, text, proves)


def check_beats_random(quick: Quick) -> Check:
    assert quick.episodes is not None and quick.random_episodes is not None
    proves = (
        "That the policy does something useful; not that it is as good as it could be "
        "(--mode proof compares with published scores)."
    )
    ours, random = quick.episodes.returns, quick.random_episodes.returns
    low, high = stratified_interval([ours, random], lambda s: s[0] - s[1], statistic=mean)
    text = (
        f"policy {np.mean(ours):.4g}, random {np.mean(random):.4g}; better by {low:.4g} to "
        f"{high:.4g} (95 % interval)"
    )
    return Check("better than random", PASSED if low > 0 else FAILED, text, proves)
