"""One trial of the campaign: a fork of a process that has imported everything, within limits."""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RIGHT, REFUSED = "right", "refused"
TRACEBACK, HANG, WRONG, EXECUTED = "traceback", "hang", "silently wrong", "executed"
VERDICTS = (RIGHT, REFUSED, TRACEBACK, HANG, WRONG, EXECUTED)
BAD = VERDICTS[2:]
SECONDS = 120.0
MEMORY = 3 * 2**30  # bytes a trial may take beyond what it begins with
SAID = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Verdict:
    """What a trial came to. detail: why, for what is not right."""

    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Trial:
    """act: runs in a fork, in an empty folder of its own, whose path it is given."""

    number: int
    name: str
    act: Callable[[Path], Verdict]


@dataclass(frozen=True)
class Part:
    """A part of the campaign. make: draws one trial; prepare: what all of them need, made once in
    a folder that stays; short, long: how many trials the forms of the campaign draw; group: how
    many trials with numbers in a row draw the same."""

    name: str
    make: Callable[[random.Random, int, Path], Trial]
    prepare: Callable[[Path], None] = lambda base: None
    short: int = 10
    long: int = 500
    seconds: float = SECONDS
    group: int = 1


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def canary() -> Path:
    """The file that whatever executes writes."""
    return Path(os.environ["WORLDFLUX_CANARY"])


def command(program: str, *words: str) -> Ended:
    """Runs `worldflux-run` or `worldflux` in this process, with its output caught as bytes are,
    also those of processes that it starts."""
    from worldflux.cli import verbs
    from worldflux.cli.main import main

    entry = main if program == "worldflux-run" else verbs.main
    before, sys.argv = sys.argv, [program, *words]
    paths = [canary().with_name(name) for name in ("out", "err")]
    kept = [os.dup(number) for number in (1, 2)]
    for number, path in zip((1, 2), paths, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    try:
        code = entry(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError):  # an environment may have closed it
                stream.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
    return Ended(code or 0, *(path.read_text(errors="replace") for path in paths))


def judged(ended: Ended) -> Verdict | None:
    """The verdict on a command that did not come to its end; None: it did, whatever it says."""
    if SAID in ended.text:
        return Verdict(TRACEBACK, ended.text.strip().splitlines()[-1])
    if ended.code in (0, 1):
        return None
    lines = [line for line in ended.err.splitlines() if line.strip()]
    errors = [line for line in lines if ": error: " in line]
    if ended.code not in (2, 3) or len(errors) != 1 or lines[-1] != errors[0]:
        text = f"exit {ended.code}, not one line: {' | '.join(lines[-3:])}"
        return Verdict(WRONG, text)
    return Verdict(REFUSED, errors[0])


def fork(trial: Trial, root: Path, seconds: float) -> Running:
    """Starts a trial."""
    scratch = root / f"trial_{trial.number}"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "work").mkdir(parents=True)
    listen, pipe = os.pipe()
    process = os.fork()
    if process:
        os.close(pipe)
        return Running(trial, process, listen, scratch, time.monotonic() + seconds)
    try:
        os.close(listen)
        verdict = _in_child(trial, scratch)
        os.write(pipe, json.dumps([verdict.kind, verdict.detail]).encode() + b"\n")
    finally:
        os._exit(0)


def _in_child(trial: Trial, scratch: Path) -> Verdict:
    os.setsid()
    os.chdir(scratch / "work")
    os.environ["WORLDFLUX_CANARY"] = str(scratch / "canary")
    log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        verdict = trial.act(scratch / "work")
    except BaseException as error:
        traceback.print_exc()
        verdict = Verdict(TRACEBACK, f"{type(error).__name__}: {error}")
    if (scratch / "canary").exists():
        verdict = Verdict(EXECUTED, verdict.detail)
    return Verdict(verdict.kind, verdict.detail[:400])


@dataclass
class Running:
    """A trial that goes on."""

    trial: Trial
    process: int
    pipe: int
    scratch: Path
    deadline: float
    heard: bytes = b""
    verdict: Verdict | None = field(default=None)

    def look(self) -> bool:
        """Whether it is over; its verdict is known then."""
        if select.select([self.pipe], [], [], 0)[0]:
            chunk = os.read(self.pipe, 65536)
            self.heard += chunk
            if self.heard.endswith(b"\n"):
                self._over(Verdict(*json.loads(self.heard)))
            elif not chunk:
                self._over(Verdict(TRACEBACK, "the process died"))
        elif time.monotonic() > self.deadline:
            self._over(Verdict(HANG, "not done in time"))
        return self.verdict is not None

    def _over(self, verdict: Verdict) -> None:
        self.verdict = verdict
        for kill in (os.killpg, os.kill):
            try:
                kill(self.process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        os.waitpid(self.process, 0)
        os.close(self.pipe)
        if verdict.kind not in BAD:
            _remove(self.scratch)


def _remove(folder: Path) -> None:
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def run_all(
    trials: Iterable[Trial], root: Path, jobs: int, seconds: float
) -> Iterator[tuple[Trial, Verdict]]:
    """The verdicts of the trials, `jobs` of which go on at a time."""
    running: list[Running] = []
    waiting = iter(trials)
    more = True
    while more or running:
        while more and len(running) < jobs:
            trial = next(waiting, None)
            if trial is None:
                more = False
            else:
                running.append(fork(trial, root, seconds))
        if not running:
            return
        select.select([one.pipe for one in running], [], [], 0.1)
        for one in [one for one in running if one.look()]:
            running.remove(one)
            assert one.verdict is not None
            yield one.trial, one.verdict
