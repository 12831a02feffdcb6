"""Jobs in several processes of this machine: their progress is printed, Ctrl-C stops them gently."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hydra.core.utils import JobReturn

from worldflux.run_folder.state import RunState, process_of
from worldflux.sweep.jobs import DEFAULTS, Job, text_of
from worldflux.sweep.status import SETTLED, JobStatus, job_status, shared_overrides
from worldflux.training.progress import duration

SECONDS = 1.0  # between two looks at the jobs


class Pool:
    """Watches jobs that a launcher runs in processes of its own.

    jobs: by their folder. stop: a file that keeps jobs which have not begun from starting.
    """

    def __init__(self, jobs: Mapping[Path, Job], stop: Path) -> None:
        self.stop = stop
        self.statuses = {folder: job_status(folder, job.identity) for folder, job in jobs.items()}
        self.shared = shared_overrides(list(self.statuses.values()))
        self.request: BaseException | None = None  # to stop

    def run(self, launch: Callable[[], Sequence[JobReturn]]) -> Sequence[JobReturn]:
        """Launches, and returns how jobs ended when none runs any more. A first Ctrl-C or SIGTERM
        stops them with a checkpoint each, a second Ctrl-C at once; both are raised in the end."""
        # Not Thread.join: after an exception in it, Python takes the thread to have ended.
        launched: Future[Sequence[JobReturn]] = Future()

        def work() -> None:
            # Workers inherit it: else Ctrl-C in a terminal would end those that are starting.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                launched.set_result(launch())
            except BaseException as error:
                launched.set_exception(error)

        thread = threading.Thread(target=work, name="launcher", daemon=True)
        with _sigterm_raises():
            thread.start()
            while not launched.done():
                try:
                    wait([launched], SECONDS)
                    self._print_changes()
                    if self.request is not None:
                        self._signal(signal.SIGUSR1)
                except (KeyboardInterrupt, SystemExit) as request:
                    self._stop(request)
        self._print_changes()
        if self.request is not None:
            raise self.request
        return launched.result()

    def _stop(self, request: BaseException) -> None:
        if self.request is not None:
            self._signal(signal.SIGKILL)
            raise request
        self.request = request
        self.stop.touch()
        print("stopping: each running job writes its checkpoint; Ctrl-C again ends them at once")

    def _signal(self, number: signal.Signals) -> None:
        """Sends it to the running jobs, again and again: one that is only about to train does not
        get the first."""
        for folder, status in self.statuses.items():
            process = process_of(folder) if status.state == RunState.RUNNING else None
            if process not in (None, os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(process, number)

    def _print_changes(self) -> None:
        """A line for each job that began or ended since the last look."""
        for folder, before in list(self.statuses.items()):
            if before.state == RunState.COMPLETED:
                continue
            now = self.statuses[folder] = job_status(folder, before.overrides)
            if now.state != before.state:
                done = sum(s.state == RunState.COMPLETED for s in self.statuses.values())
                print(f"[{done}/{len(self.statuses)}] {self._line(now)}", flush=True)

    def _line(self, now: JobStatus) -> str:
        line = f"{text_of(now.overrides, self.shared) or DEFAULTS}: {now.state}"
        if now.state == RunState.RUNNING and now.updates:
            return f"{line}, from update {now.updates:,} on"
        if now.state == RunState.FAILED:
            return f"{line}: {now.reason}"
        if now.state in SETTLED and now.score is not None:
            line += f", score {now.score:.4g}"
            line += f" after {duration(now.seconds)}" if now.seconds is not None else ""
        return line


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the command like Ctrl-C, with exit code 0 as it ends a single run."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
