"""One trial: a run of `worldflux-run` in a process of its own, watched by its evaluations."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldflux.errors import CheckpointError
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import MANIFEST, METRICS
from worldflux.run_folder.state import RunState, run_state

if TYPE_CHECKING:
    from optuna import Trial

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


class Watched:
    """Runs and watches one trial.

    words: the overrides that its run is started with. asked: whether the searcher was told to stop,
    which stops the run with a checkpoint.
    """

    def __init__(
        self, trial: Trial, folder: Path, words: Sequence[str], asked: Callable[[], int | None]
    ) -> None:
        self.trial, self.folder, self.words, self.asked = trial, folder, list(words), asked
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        self._told = set(frozen.intermediate_values)
        self._position = 0

    def run(self) -> Result:
        """Starts the run, or continues it, until it has a result or the searcher is stopped."""
        for _ in range(ATTEMPTS):
            if self._alive():
                return Result(left=True)
            ended = self._ended()
            if ended is not None:
                return ended
            if self.asked():
                return Result(left=True)
            result, code = self._start()
            if result is not None:
                return result
        if code < 0:
            return Result(
                reason=f"killed {ATTEMPTS} times, by {signal.Signals(-code).name} at last"
            )
        return Result(reason=self._message() or f"ended with exit code {code}")

    def _alive(self) -> bool:
        """Whether the run is still being written, by the process of a searcher that died; that one
        has been told to stop."""
        while run_state(self.folder) == RunState.RUNNING:
            if self.asked():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _start(self) -> tuple[Result | None, int]:
        """Runs the process once. None: it was killed, and may be started again."""
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
        code = process.returncode
        ended = self._ended()
        if ended is not None and ended.score is not None:
            return ended, code
        if pruned:
            return Result(), code
        if ended is not None:
            return ended, code
        if code < 0 and not self.asked():
            return None, code
        if code in (0, 130) or self.asked():
            return Result(left=True), code  # somebody stopped it; it has its checkpoint
        return Result(reason=self._message() or f"ended with exit code {code}"), code

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
            stop = self.asked()
            if stop != sent and stop is not None:
                process.send_signal(stop)
                sent = stop
            if not pruned and sent is None and self._report():
                process.send_signal(signal.SIGUSR1)
                pruned = True

    def _report(self) -> bool:
        """Tells Optuna of new evaluations; whether the trial is to be pruned."""
        new = False
        for step, score in self._evaluations():
            if step not in self._told:
                self.trial.report(score, step)
                self._told.add(step)
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
                    record: dict[str, Any] = json.loads(line)
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

    def _message(self) -> str | None:
        try:
            lines = (self.folder / MESSAGES).read_text(encoding="utf-8").split("\n")
        except OSError:
            return None
        told = [line.strip() for line in lines if line.strip()]
        return told[-1].removeprefix("worldflux-run: error: ") if told else None


def _die_with_the_searcher() -> None:
    """The run stops with a checkpoint when its searcher is killed, and not only when it is asked."""
    os.setpgid(0, 0)  # Ctrl-C reaches the searcher alone, which passes it on
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
