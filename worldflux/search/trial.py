"""One trial: a run of `worldflux-run` in another process, watched by its evaluations."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import Trial

from worldflux.config.overrides import override
from worldflux.errors import CheckpointError
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import record_of
from worldflux.run_folder.names import MANIFEST, METRICS
from worldflux.run_folder.state import RunState, run_state
from worldflux.search.report import write_table
from worldflux.search.space import Value
from worldflux.search.study import Search

SCORE = "eval/return"
MESSAGES = "search.err"
ATTEMPTS = 3  # starts of a trial whose process is killed
POLL_SECONDS = 0.5
RUN = [sys.executable, "-m", "worldflux.cli.main"]
PR_SET_PDEATHSIG = 1


@dataclass
class Result:
    """How a trial ended. score: its last evaluation; else reason: why it failed; with neither it
    was pruned. left: it did not end, and can go on where it is."""

    score: float | None = None
    reason: str | None = None
    left: bool = False


def run_trials(
    search: Search, total: int, flags: Sequence[str], stop: Callable[[], int | None]
) -> Iterator[tuple[int, dict[str, Value], Result]]:
    """Runs trials until `total` have been begun and none is left over; yields number, parameters and
    result of each that ended.

    flags: of `worldflux-run`. stop: the signal by which the searcher was stopped, or None.
    """
    while stop() is None:
        with search.next_trial(total) as trial:
            if trial is None:
                return
            values, folder = search.values(trial), search.folder(trial.number)
            words = [*search.settings.words, *(override(k, v) for k, v in values.items())]
            words += [override("hydra.run.dir", str(folder)), "resume=auto"]
            result = Watched(trial, folder, [*flags, *words], stop).run()
            if result.left:
                return
            search.record(trial, result.score, result.reason)
            write_table(search)
            yield trial.number, values, result


class Watched:
    """Runs and watches one trial.

    words: the command line of its run. stop: the signal by which the searcher was stopped, or None;
    it stops the run with a checkpoint.
    """

    def __init__(
        self, trial: Trial, folder: Path, words: Sequence[str], stop: Callable[[], int | None]
    ) -> None:
        self.trial, self.folder, self.words, self.stop = trial, folder, list(words), stop
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        self._reported = set(frozen.intermediate_values)
        self._position = 0

    def run(self) -> Result:
        """Starts the run, or continues it, until it has a result or the searcher is stopped."""
        for _ in range(ATTEMPTS):
            if self._alive():
                return Result(left=True)
            ended = self._ended()
            if ended is not None:
                return ended
            if self.stop():
                return Result(left=True)
            code, pruned = self._start()
            result = self._outcome(code, pruned)
            if result is not None:
                return result
        name = signal.Signals(-code).name
        return Result(reason=f"killed {ATTEMPTS} times, by {name} at last")

    def _alive(self) -> bool:
        """Whether the run is still being written, by the process of a searcher that died; that one
        has been stopped."""
        while run_state(self.folder) == RunState.RUNNING:
            if self.stop():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _start(self) -> tuple[int, bool]:
        """Runs the process once: its exit code, and whether its evaluations ended it."""
        with open(self.folder / MESSAGES, "a", encoding="utf-8") as messages:
            process = subprocess.Popen(
                [*RUN, *self.words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                preexec_fn=_die_with_the_searcher,
            )
            pruned = self._watch(process)
        return process.returncode, pruned

    def _outcome(self, code: int, pruned: bool) -> Result | None:
        """What a process that ended leaves. None: it was killed, and may be started again."""
        ended = self._ended()
        if pruned and (ended is None or ended.score is None):
            return Result()
        if ended is not None:
            return ended
        if code in (0, 130) or self.stop():
            return Result(left=True)  # somebody stopped it; it has its checkpoint
        return None if code < 0 else Result(reason=self._message(code))

    def _watch(self, process: subprocess.Popen[bytes]) -> bool:
        """Waits for the end; returns whether the evaluations so far ended it."""
        pruned = False
        sent: int | None = None
        while True:
            try:
                process.wait(POLL_SECONDS)
                return pruned
            except subprocess.TimeoutExpired:
                pass
            stop = self.stop()
            if stop != sent and stop is not None:
                process.send_signal(stop)
                sent = stop
            if not pruned and sent is None and self._report():
                process.send_signal(signal.SIGUSR1)
                pruned = True

    def _report(self) -> bool:
        """Reports new evaluations to Optuna; whether the trial is to be pruned."""
        new = False
        for step, score in self._evaluations():
            if step not in self._reported:
                self.trial.report(score, step)
                self._reported.add(step)
                new = True
        return new and self.trial.should_prune()

    def _evaluations(self) -> Iterator[tuple[int, float]]:
        """(update, mean return) of the evaluations since the last call."""
        path = self.folder / METRICS
        if not path.exists():
            return
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self._position:
                self._position = 0  # cut back to a checkpoint
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written
                self._position += len(line)
                if SCORE.encode() in line:
                    record = record_of(line) or {"metrics": {}}
                    score = record["metrics"].get(SCORE)
                    if score is not None:
                        yield int(record["step"]), float(score)

    def _ended(self) -> Result | None:
        """The result of a run that came to its end, or failed; None: it can go on."""
        try:
            manifest = read_manifest(self.folder) if (self.folder / MANIFEST).exists() else {}
        except CheckpointError:
            return None
        if manifest.get("status") == RunState.FAILED:
            return Result(reason=" ".join(str(manifest.get("error")).split()))
        if manifest.get("status") != RunState.COMPLETED:
            return None
        score = manifest["scores"]["last"]
        if score is None:
            return Result(reason="nothing was evaluated")
        return Result(score=float(score))

    def _message(self, code: int) -> str:
        """The last line that the process printed."""
        with suppress(OSError):
            lines = (self.folder / MESSAGES).read_text("utf-8", errors="replace").split("\n")
            for line in filter(None, map(str.strip, reversed(lines))):
                return line.removeprefix("worldflux-run: error: ")
        return f"ended with exit code {code}"


def _die_with_the_searcher() -> None:
    """The run stops with a checkpoint when its searcher is killed, and not only when it is stopped."""
    os.setpgid(0, 0)  # Ctrl-C reaches the searcher alone, which passes it on
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
