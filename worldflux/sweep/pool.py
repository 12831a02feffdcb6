"""Jobs in several processes of this machine: what they do is told, and Ctrl-C stops them gently."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from worldflux.run_folder.state import RunState, process_of
from worldflux.sweep.jobs import Job, text_of
from worldflux.sweep.status import SETTLED, JobStatus, look, shared_of
from worldflux.training.progress import duration

SECONDS = 1.0  # between two looks at the jobs


class Pool:
    """Watches jobs that a launcher runs in processes of its own.

    jobs: by their folder. stop: the file by which jobs that have not begun are told not to.
    """

    def __init__(self, jobs: Mapping[Path, Job], stop: Path) -> None:
        self.jobs, self.stop = jobs, stop
        self.states = self._look(list(jobs))
        self.shared = shared_of(list(self.states.values()))
        self.asked: BaseException | None = None  # to stop

    def run(self, launch: Callable[[], Sequence[Any]]) -> None:
        """Launches, and returns when no job runs any more. A first Ctrl-C or SIGTERM stops the jobs
        with a checkpoint each, a second Ctrl-C at once; both are raised in the end."""
        failure: list[BaseException] = []
        # Not Thread.join: after an exception in it, Python takes the thread to have ended.
        ended = threading.Event()

        def work() -> None:
            # Workers inherit it: else Ctrl-C in a terminal would end those that are starting.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                launch()
            except BaseException as error:
                failure.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=work, name="launcher", daemon=True)
        with _sigterm_raises():
            thread.start()
            while not ended.is_set():
                try:
                    ended.wait(SECONDS)
                    self._tell()
                    if self.asked is not None:
                        self._signal(signal.SIGUSR1)
                except (KeyboardInterrupt, SystemExit) as request:
                    self._stop(request)
        self._tell()
        if self.asked is not None:
            raise self.asked
        if failure:
            raise failure[0]

    def _stop(self, request: BaseException) -> None:
        if self.asked is not None:
            self._signal(signal.SIGKILL)
            raise request
        self.asked = request
        self.stop.touch()
        print("stopping: each running job writes its checkpoint; Ctrl-C again ends them at once")

    def _signal(self, number: signal.Signals) -> None:
        """Sends it to the running jobs, again and again: one that is only about to train does not
        hear the first."""
        for folder in self.states:
            process = process_of(folder) if self.states[folder].state == RunState.RUNNING else None
            if process not in (None, os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(process, number)

    def _look(self, folders: Sequence[Path]) -> dict[Path, JobStatus]:
        return {folder: look(folder, self.jobs[folder].identity) for folder in folders}

    def _tell(self) -> None:
        """A line for each job that began or ended since the last look."""
        open_ = [f for f, now in self.states.items() if now.state != RunState.COMPLETED]
        for folder, now in self._look(open_).items():
            before, self.states[folder] = self.states[folder].state, now
            if now.state != before:
                done = sum(s.state == RunState.COMPLETED for s in self.states.values())
                print(f"[{done}/{len(self.states)}] {self._line(now, before)}", flush=True)

    def _line(self, now: JobStatus, before: str) -> str:
        own = {key: value for key, value in now.overrides.items() if key not in self.shared}
        line = f"{text_of(own)}: {now.state}"
        if now.state == RunState.RUNNING and now.updates:
            return f"{line}, from update {now.updates:,} on"
        if now.state == RunState.FAILED:
            return f"{line}: {now.reason}"
        if now.state in SETTLED and now.score is not None:
            line += f", score {now.score:.4g}"
            line += f" after {duration(now.seconds)}" if now.seconds is not None else ""
        return line


@contextmanager
def _sigterm_raises() -> Any:
    """SIGTERM ends the command like Ctrl-C, with exit code 0 as it ends a single run."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
