"""What a run folder's run is doing now, and the claim that lets one process at a time write it.

A process that writes a run holds a lock on ``run.lock`` in its folder. The kernel (on a network file
system its server) lets go of it however the process ends, so a manifest that says running without
anybody holding the lock is that of a process that died. Nothing here needs torch: the states of a
thousand runs are read in a moment.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from worldflux.errors import CheckpointError, DiskError, RunBusyError
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import LOCK, MANIFEST

# A look at the state holds the lock for an instant, in which a claim must not fail.
ATTEMPTS, PAUSE = 20, 0.05


class RunState(StrEnum):
    """missing: there is no run in the folder. broken-off: its process died (kill -9, power) and left
    it unfinished. The other four are what the manifest's status says."""

    MISSING = "missing"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    COMPLETED = "completed"
    BROKEN_OFF = "broken-off"


class Ending(NamedTuple):
    """How the process of a run ended that says nothing itself. cancelled: a person ended it."""

    reason: str
    cancelled: bool = False


@dataclass
class Claim:
    """A run folder that this process alone writes."""

    folder: Path
    descriptor: int
    process: int
    depth: int = 1

    def check(self) -> None:
        """DiskError if the folder was deleted, or another one put in its place, meanwhile."""
        try:
            there = os.path.samestat(os.stat(self.folder / LOCK), os.fstat(self.descriptor))
        except OSError:
            there = False
        if not there:
            text = f"the run folder {self.folder} was deleted while the run was writing it"
            raise DiskError(text)


@dataclass
class Inherited(Claim):
    """The claim of the process that started this one, and takes its lock over if that one dies."""

    parent: int = 0

    def check(self) -> None:
        super().check()
        if self.parent and os.getppid() != self.parent:
            _take(self.descriptor, self.folder)
            self.parent = 0


_claims: dict[Path, Claim] = {}  # of this process


def run_state(folder: Path) -> RunState:
    """The true state of the run in a folder, also when its process was killed.

    A folder that is claimed is running, even before it has a manifest. CheckpointError: the
    manifest cannot be read.
    """
    if _is_claimed(folder):
        return RunState.RUNNING
    if not (folder / MANIFEST).exists():
        return RunState.MISSING
    status = RunState(read_manifest(folder, warn=False)["status"])
    if status != RunState.RUNNING:
        return status
    # It may have been claimed since the first look.
    return RunState.RUNNING if _is_claimed(folder) else RunState.BROKEN_OFF


def _is_claimed(folder: Path) -> bool:
    """Whether somebody writes the folder, as far as this user may know."""
    try:
        return claimed_by(folder) is not None
    except PermissionError:
        return False


def claimed_by(folder: Path) -> str | None:
    """Who writes the folder now, for a message; None: nobody."""
    holder = _holder(folder)
    return None if holder is None else _text(holder)


def process_of(folder: Path) -> int | None:
    """The process of this machine that writes the folder now; None: none, or one elsewhere."""
    holder = _holder(folder) or {}
    here = holder.get("host") == socket.gethostname() and holder["boot"] == _boot()
    return int(holder["process"]) if here else None


def _holder(folder: Path) -> dict[str, Any] | None:
    """What the process that writes the folder now wrote into its lock; None: nobody writes it."""
    if _claim_on(folder) is not None:
        return _myself()
    try:
        # To close any file of the lock would give up a claim of this process: hence the look above.
        check_links(folder, (LOCK,))
        with open(folder / LOCK, "rb") as file:
            return _read(file.fileno()) if _held(file.fileno(), fcntl.LOCK_SH) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def claim(folder: Path) -> Iterator[Claim]:
    """Nobody else writes the run folder while this is entered; the folder is made where missing.

    Claims of one process nest. RunBusyError: another process has claimed it, on this machine or
    another one that shares the disk. CheckpointError: the folder cannot be written. On a file
    system without locks a claim left behind by a process of this machine that died is recognised;
    that of another machine counts as held until its ``run.lock`` is deleted.
    """
    path = folder.resolve()
    claimed = _claim_on(folder)
    if claimed is None:
        claimed = _claims[path] = Claim(folder, _lock(folder), os.getpid())
    else:
        claimed.depth += 1
    try:
        yield claimed
    finally:
        _let_go(path)


def inherit(folder: Path) -> None:
    """From now on this process writes the run folder that the one that started it has claimed."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    _claims[folder.resolve()] = Inherited(folder, descriptor, os.getpid(), parent=os.getppid())


def _claim_on(folder: Path) -> Claim | None:
    claimed = _claims.get(folder.resolve())
    return claimed if claimed and claimed.process == os.getpid() else None  # a fork has none


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_links(folder)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _take(descriptor, folder)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        reason = f"cannot write in the run folder {folder}: {error.strerror}"
        raise CheckpointError(reason) from error
    return descriptor


def _take(descriptor: int, folder: Path) -> None:
    for _ in range(ATTEMPTS):
        if not _held(descriptor, fcntl.LOCK_EX):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)
            return
        time.sleep(PAUSE)
    raise RunBusyError(
        f"{folder} is being written by {_text(_read(descriptor))}; "
        "a run folder takes one process at a time"
    )


def _let_go(path: Path) -> None:
    claimed = _claims[path]
    claimed.depth -= 1
    if claimed.depth or claimed.process != os.getpid():
        return
    del _claims[path]
    with suppress(OSError):  # the lock ends with the descriptor; its content is only a message
        os.ftruncate(claimed.descriptor, 0)
    os.close(claimed.descriptor)


def _held(descriptor: int, kind: int) -> bool:
    """Whether another process holds the lock; if not, it is taken with LOCK_EX until the file is
    closed."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
        return False
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return True
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    # No locks on this file system: what the last holder wrote decides.
    return _alive(_read(descriptor))


def _myself() -> dict[str, Any]:
    process = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "process": process,
        "born": _born(process),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _read(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, RecursionError):  # its holder is about to write it, or has let go
        return {}
    whole = isinstance(holder, dict) and holder.keys() >= {"host", "boot", "process", "born"}
    return holder if whole and isinstance(holder["process"], int) else {}


def _text(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    job = f" (job {holder['job']})" if holder.get("job") else ""
    return f"process {holder.get('process')} on {holder.get('host')}{job}"


def _alive(holder: dict[str, Any]) -> bool:
    if not holder:
        return False
    if holder["host"] != socket.gethostname():
        return True
    process = int(holder["process"])
    if holder["boot"] != _boot() or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return bool(holder["born"] == _born(process))


def _boot() -> str | None:
    """Changes with each start of the machine, after which process numbers begin anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _born(process: int) -> str | None:
    """When a process began: process numbers are used again."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
