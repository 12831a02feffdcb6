"""Kills real training processes at random moments and compares what they end with.

    python scripts/crash_test.py --kills 100
    python scripts/crash_test.py --kills 20 --family tdmpc2 --envs 3 --seed 7

For each family and number of environments one run is never interrupted. Others are interrupted
again and again, half of the times by SIGKILL, and resumed by the same call (resume=auto), until they
are complete. Parameters, optimizer state, replay, metrics.jsonl and evaluations must be the same, bit
for bit. Moments are counted in file operations, updates and environment steps, so that a seed
repeats them; SIGKILL comes either at such a moment or some milliseconds after it. The exit code is 1
if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.loggers import LoggerConfig
from worldflux.config.run import RunConfig
from worldflux.config.training import TrainingConfig
from worldflux.envs.vector import VectorEnv
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.run_folder.checkpoints import CheckpointFolder, read_state
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import CHECKPOINTS, METRICS, MODEL, OPTIMIZER, REPLAY, STATE
from worldflux.run_folder.state import RunState, run_state
from worldflux.runner.run import run
from worldflux.training.evaluate import GreedyEvaluator
from worldflux.training.run_writer import RunWriter

FAMILIES = ("dreamerv3", "tdmpc2")
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
MAX_DELAY = 0.008  # seconds after its moment that SIGKILL may come
MINUTES = 10  # a process that is not done by then hangs


@dataclass
class Interruption:
    """One signal. place: count all moments, or only those inside a save. again: SIGKILL follows
    that many moments after a stop signal, as when a scheduler's grace period is over. delay:
    seconds after the moment, None at the very moment."""

    signal: signal.Signals
    place: str
    moment: int
    delay: float | None = None
    again: int | None = None


@dataclass
class Outcome:
    """What the interruptions of one family and number of environments came to."""

    family: str
    envs: int
    runs: int = 0
    signals: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)  # updates done again after each SIGKILL
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


def settings(family: str, envs: int, updates: int) -> RunConfig:
    """A run of the whole algorithm in about two seconds."""
    model: Any
    optimizer: dict[str, Any]
    if family == "dreamerv3":
        env_id, prefill = "CartPole-v1", 60
        model = DreamerV3Config.from_size("ci", imagination_horizon=4, actor_critic=True)
        optimizer = {"optimizer": "laprop", "agc": 0.3, "grad_clip": 0.0}
    else:
        env_id, prefill = "Pendulum-v1", 60
        plan = dict(num_samples=24, num_elites=6, num_pi_trajs=4, iterations=2)
        model = TDMPC2Config.from_size("ci", horizon=3, **plan)
        optimizer = {"optimizer": "adam", "grad_clip": 20.0}
    training: dict[str, Any] = dict(
        total_steps=updates,
        batch_size=3,
        sequence_length=6 if family == "dreamerv3" else 3,
        learning_rate=1e-3,
        scheduler="cosine",
        log_interval=3,
        eval_interval=7,
        eval_episodes=2,
        save_interval=4,
        save_seconds=0.0,
        device="cpu",
        seed=3,
        num_envs=envs,
    )
    return RunConfig(
        model=model,
        env=EnvConfig(id=env_id, time_limit=25),
        data=DataConfig(prefill_steps=prefill, capacity=240, collect_steps_per_update=4.0),
        training=TrainingConfig(**training, **optimizer),
        logger=LoggerConfig(tensorboard=False),
        resume="auto",
    )


class Moments:
    """Counts what a process does and interrupts it; used in the process that is to die."""

    def __init__(self, folder: Path, plan: Interruption | None, pipe: int) -> None:
        self.folder = str(folder)
        self.plan, self.pipe = plan, pipe
        self.all = self.saving = self.updates = 0
        self.where = "start"
        self.signalled_at: int | None = None

    def install(self) -> None:
        """Listens to every file operation in the run folder, fsync, updates, environment steps."""
        sys.addaudithook(self._audit)
        self._around(os, "fsync")
        self._around(VectorEnv, "step")
        for kind in (DreamerV3Agent, TDMPC2Agent):
            self._around(kind, "update", place="training")
        self._around(RunWriter, "save", place="save")
        self._around(RunWriter, "keep_best", place="save of the best")
        self._around(GreedyEvaluator, "__call__", place="evaluation")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(arguments[0]).startswith(self.folder):
            self.count()

    def _around(self, owner: Any, name: str, place: str | None = None) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            before = self.where
            if place is not None:
                self.where = place
            self.updates += name == "update"
            self.count()
            try:
                return inner(*args, **kwargs)
            finally:
                if place != "training":
                    self.where = before

        setattr(owner, name, counted)

    def count(self) -> None:
        """One more moment: is it the one?"""
        self.all += 1
        self.saving += self.where.startswith("save")
        plan = self.plan
        if plan is None:
            return
        if self.signalled_at is not None:
            if plan.again is not None and self.all >= self.signalled_at + plan.again:
                self._say(signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
        elif (self.saving if plan.place == "save" else self.all) >= plan.moment:
            self.signalled_at = self.all
            self._say(plan.signal)
            if plan.delay is None:
                os.kill(os.getpid(), plan.signal)

    def _say(self, number: signal.Signals) -> None:
        ending = {"signal": number.name, "where": self.where, "updates": self.updates}
        os.write(self.pipe, json.dumps(ending).encode() + b"\n")

    def say_counts(self) -> None:
        """For a process that was not interrupted: how many moments there were."""
        os.write(self.pipe, json.dumps({"all": self.all, "saving": self.saving}).encode() + b"\n")


def in_a_process(config: RunConfig, folder: Path, plan: Interruption | None) -> dict[str, Any]:
    """Trains in a fork of this process, which is interrupted as planned; returns what it reported."""
    listen, pipe = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(listen)
            with open(folder.with_suffix(".log"), "ab", buffering=0) as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            moments = Moments(folder.resolve(), plan, pipe)
            moments.install()
            run(config, folder.resolve())
            moments.plan = None
            moments.say_counts()
            code = 0
        except SystemExit:
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(pipe)
    try:
        return _attend(process, listen, plan)
    finally:
        os.close(listen)


def _attend(process: int, listen: int, plan: Interruption | None) -> dict[str, Any]:
    ending: dict[str, Any] = {}
    buffer = b""
    deadline = time.monotonic() + 60 * MINUTES
    while True:
        if not select.select([listen], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.kill(process, signal.SIGKILL)
            ending["hung"] = True
            break
        chunk = os.read(listen, 65536)
        if not chunk:
            break
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            ending.update(json.loads(line))
            if plan is not None and plan.delay is not None and ending.get("signal") == "SIGKILL":
                time.sleep(plan.delay)
                os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    ending["exit"] = os.waitstatus_to_exitcode(status)
    return ending


def draw(rng: random.Random, kill: bool, counts: dict[str, int], kills: int) -> Interruption:
    """A random interruption, such that a run of `counts` moments sees about `kills` of them."""
    place = rng.choice(["save", "anywhere"])
    total = counts["saving"] if place == "save" else counts["all"]
    moment = rng.randint(1, max(2, round(min(1.6 / kills, 0.9) * total)))
    if kill:
        delay = rng.choice([None, rng.uniform(0, MAX_DELAY)])
        return Interruption(signal.SIGKILL, place, moment, delay)
    again = rng.choice([None, None, rng.randint(1, 60)])
    return Interruption(rng.choice(STOPS), place, moment, None, again)


def newest_step(folder: Path) -> int:
    """Updates that the newest checkpoint has, 0 if there is none."""
    store = CheckpointFolder(folder / CHECKPOINTS)
    return max((state["step"] for _, state in store.resumable()), default=0)


def interrupted_run(
    config: RunConfig, folder: Path, plans: Sequence[Interruption], outcome: Outcome
) -> int:
    """Trains to the end through the interruptions; returns how many of them came in time."""
    came = 0
    for plan in [*plans, None]:
        before = newest_step(folder)
        ending = in_a_process(config, folder, plan)
        sent = ending.get("signal")
        if sent is not None:
            came += 1
            outcome.signals[sent] += 1
            outcome.places[f"{sent}: {ending['where']}"] += 1
        expected = {"SIGKILL": (-signal.SIGKILL,), "SIGINT": (130, 0)}.get(str(sent), (0,))
        if sent == "SIGKILL" and plan is not None and plan.delay is not None:
            expected = (*expected, 0)  # it may have been done before the signal came
        if ending.get("where") == "start" and plan is not None:
            expected = (*expected, -plan.signal)  # before the handlers were in place
        if ending["exit"] not in expected:
            outcome.differences.append(f"{folder.name}: exit code {ending['exit']} after {plan}")
            return came
        if sent == "SIGKILL":
            # A stop signal's own save may come later than its moment, hence the 0.
            outcome.lost.append(max(0, before + ending["updates"] - newest_step(folder)))
        if run_state(folder) == RunState.COMPLETED and sent is None:
            return came
    return came


def differences(folder: Path, whole: Path) -> list[str]:
    """Everything in which two finished runs differ, clock times apart; empty if nothing."""
    unequal = []
    for pointer in ("latest", "best"):
        pair = [_pointed(path, pointer) for path in (folder, whole)]
        if pair[0].name != pair[1].name:
            unequal.append(f"checkpoints/{pointer}: {pair[0].name}, not {pair[1].name}")
            continue
        if (pair[0] / MODEL).read_bytes() != (pair[1] / MODEL).read_bytes():
            unequal.append(f"checkpoints/{pointer}: {MODEL}")
        # The best one is the agent at that update: it also has the environments in it where a
        # stop signal saved it, and not yet its score where that came during the evaluation.
        everything = pointer == "latest"
        if _arrays(pair[0], everything) != _arrays(pair[1], everything):
            unequal.append(f"checkpoints/{pointer}: {OPTIMIZER}")
        if everything and _timeless(pair[0]) != _timeless(pair[1]):
            unequal.append(f"checkpoints/{pointer}: {STATE}")
    for name, read in (("replay", _replay), (METRICS, _metrics), ("manifest", _results)):
        if read(folder) != read(whole):
            unequal.append(name)
    return [f"{folder.name}: {text}" for text in unequal]


def _pointed(folder: Path, pointer: str) -> Path:
    return folder / CHECKPOINTS / (folder / CHECKPOINTS / pointer).read_text().split()[0]


def _arrays(checkpoint: Path, everything: bool) -> dict[str, bytes]:
    arrays = load_file(checkpoint / OPTIMIZER)
    return {k: v.tobytes() for k, v in arrays.items() if everything or k.startswith("agent/")}


def _timeless(checkpoint: Path) -> dict[str, Any]:
    state = read_state(checkpoint)["state"]
    for key in ("elapsed", "started"):
        del state["trainer"][key]
    for key in ("metrics_bytes", "metrics_sha256", "loggers"):  # of clock times
        del state[key]
    state.pop("recorded", None)  # with the length that a run is continued to
    # The name of a save, and the checksum of its list of files.
    for key in ("replay", "replay_index"):
        del state["source"][key]
    return state


def _replay(folder: Path) -> Any:
    state = read_state(_pointed(folder, "latest"))["state"]
    index = json.loads((folder / REPLAY / f"replay-{state['source']['replay']}.json").read_text())
    arrays = {}
    for number, files in enumerate(index["segments"]):
        for group, file in files.items():
            with np.load(folder / REPLAY / file["name"]) as stored:
                for key in stored.files:
                    arrays[number, group, key] = stored[key].tobytes()
    return index["sampler"], index["versions"], arrays


def _metrics(folder: Path) -> list[Any]:
    return [
        (r["step"], r["env_steps"], {k: v for k, v in r["metrics"].items() if "fps/" not in k})
        for r in read_metrics(folder)
    ]


def _results(folder: Path) -> Any:
    manifest = read_manifest(folder)
    keys = ("status", "global_step", "env_steps", "episodes", "scores", "best_loss")
    return {key: manifest[key] for key in (*keys, "degraded_modes", "damaged_checkpoints")}


def crash(
    family: str, envs: int, kills: int, per_run: int, updates: int, seed: int, root: Path
) -> Outcome:
    """Interrupts runs of one family and number of environments `kills` times in all."""
    rng = random.Random(f"{seed} {family} {envs}")
    outcome = Outcome(family, envs)
    begun = time.monotonic()
    config = settings(family, envs, updates)
    whole = root / f"{family}-{envs}-whole"
    counts = in_a_process(config, whole, None)
    if counts["exit"] != 0:
        outcome.differences.append(f"{whole.name}: the run that was not interrupted failed")
        return outcome
    left = kills
    while left > 0 and not outcome.differences:
        outcome.runs += 1
        folder = root / f"{family}-{envs}-{outcome.runs}"
        many = min(per_run, left)
        plans = [draw(rng, (left - i) % 2 == 0, counts, many) for i in range(many)]
        left -= interrupted_run(config, folder, plans, outcome)
        outcome.differences += outcome.differences or differences(folder, whole)
        if not outcome.differences:
            shutil.rmtree(folder)
    outcome.seconds = time.monotonic() - begun
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="interruptions in all")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--per-run", type=int, default=6, help="interruptions of one run")
    parser.add_argument("--updates", type=int, default=24, help="length of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # a fork has no other threads
    cases = [(family, envs) for family in options.family for envs in options.envs]
    root = Path(tempfile.mkdtemp(prefix="crash_test_"))
    outcomes = []
    for index, (family, envs) in enumerate(cases):
        kills = (options.kills + index) // len(cases)
        outcomes.append(
            crash(family, envs, kills, options.per_run, options.updates, options.seed, root)
        )
        if not options.json:
            print_outcome(outcomes[-1])
    differ = [text for outcome in outcomes for text in outcome.differences]
    if options.json:
        print(json.dumps([vars(outcome) for outcome in outcomes], indent=2))
    else:
        total = sum(sum(outcome.signals.values()) for outcome in outcomes)
        print(f"{total} interruptions: {'DIFFERENT' if differ else 'all equal, bit for bit'}")
    if differ:
        print(f"kept for a look: {root}", file=sys.stderr)
        return 1
    shutil.rmtree(root)
    return 0


def print_outcome(outcome: Outcome) -> None:
    """One case for a person."""
    sent = ", ".join(f"{count} {name}" for name, count in sorted(outcome.signals.items()))
    lost = outcome.lost or [0]
    print(f"{outcome.family}, {outcome.envs} environments: {sent} in {outcome.runs} runs")
    print(f"  updates lost by SIGKILL: mean {np.mean(lost):.1f}, most {max(lost)}", end="")
    print(f"; {outcome.seconds:.0f} s")
    for place, count in sorted(outcome.places.items()):
        print(f"  {count:4d} {place}")
    for text in outcome.differences:
        print(f"  DIFFERS {text}")


if __name__ == "__main__":
    sys.exit(main())
