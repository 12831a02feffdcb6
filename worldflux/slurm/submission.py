"""Handing jobs to Slurm, so that none is handed over twice and none is forgotten.

`slurm.json` in a job's folder says which Slurm job runs it. It is written with a token before the
job is submitted and completed with the job's id after, so that a command killed in between leaves no
job that the next one would miss.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from worldflux.config.fields import near_miss
from worldflux.config.files import read_document, wrong_kinds
from worldflux.config.slurm import SlurmConfig
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.slurm import queue
from worldflux.slurm.job import SlurmJob
from worldflux.slurm.queue import QueueStatus, SlurmError

FILE = "slurm.json"
LOG = "slurm.log"
KINDS = {
    "token": str,
    "index": int,
    "size": int,
    "id": (str, type(None)),
    "config": (dict, type(None)),
}


@dataclass(frozen=True)
class Submission:
    """token: the comment of the submission, shared by all jobs of an array. index: the job's place
    in it. size: how many jobs it has. id: as squeue prints it, None before the submission. config:
    what it is to train; None in a record of an older version."""

    token: str
    index: int
    size: int
    id: str | None = None
    config: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        with disk_errors("record of the Slurm job", folder / FILE):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / FILE, json.dumps(asdict(self)) + "\n")


def read(folder: Path) -> Submission | None:
    """That of a job's folder; None where it was never submitted, or the file is damaged."""
    try:
        content = read_document(folder / FILE)
        if not isinstance(content, dict) or wrong_kinds(content, KINDS) is not None:
            return None
        return Submission(**content)
    except (OSError, ValueError, TypeError):
        return None


def alive(folders: Iterable[Path]) -> dict[Path, tuple[str, QueueStatus]]:
    """The jobs of these folders that Slurm queues or runs: their id and status.

    SlurmError: Slurm does not answer.
    """
    submissions = {folder: one for folder in folders if (one := read(folder)) is not None}
    tokens = {one.token for one in submissions.values() if one.id is None}
    arrays = queue.with_comment(tokens) if tokens else {}
    ids = {}
    for folder, one in submissions.items():
        if one.id is not None:
            ids[folder] = one.id
        elif array := arrays.get(one.token):  # the command died before it noted the id
            ids[folder] = array if one.size == 1 else f"{array}_{one.index}"
    statuses = queue.statuses(ids.values())
    return {
        folder: (id, status)
        for folder, id in ids.items()
        # After a cluster was set up anew, the id may be that of another job.
        if (status := statuses[id]).alive and status.comment == submissions[folder].token
    }


def submit(jobs: Sequence[SlurmJob], config: SlurmConfig, name: str, spool: Path) -> list[str]:
    """Submits the jobs, as an array if there are several, and returns their ids.

    Each job's folder gets a record of its id and a link to its log. spool: the folder for what
    submitit writes. SlurmError: Slurm refuses; nothing is left behind.
    """
    ids = []
    largest = queue.largest_array() if len(jobs) > 1 else 1
    for start in range(0, len(jobs), largest):
        with _uninterrupted():
            ids += _submit_array(jobs[start : start + largest], config, name, spool)
    return ids


def _submit_array(
    jobs: Sequence[SlurmJob], config: SlurmConfig, name: str, spool: Path
) -> list[str]:
    token = f"worldflux-{uuid.uuid4().hex}"
    submissions = [
        Submission(token, index, len(jobs), config=job.resolved()) for index, job in enumerate(jobs)
    ]
    with _undone_on_refusal([job.folder for job in jobs], spool):
        for job, submission in zip(jobs, submissions, strict=True):
            submission.write(job.folder)
        ids = _sbatch(jobs, config, name, token, spool)
        _check_possible(ids)
    for job, submission, id in zip(jobs, submissions, ids, strict=True):
        replace(submission, id=id).write(job.folder)
        link = job.folder / LOG
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a file system without links: the log is in the spool
            link.symlink_to(spool / f"{id}_0_log.out")
    return ids


def _sbatch(
    jobs: Sequence[SlurmJob], config: SlurmConfig, name: str, token: str, spool: Path
) -> list[str]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(spool, max_num_timeout=config.max_num_timeout)
    executor.update_parameters(
        job_name=name, comment=token, wckey=None, stderr_to_stdout=True, **config.sbatch()
    )
    printed = io.StringIO()  # submitit prints what the error says too
    try:
        with contextlib.redirect_stderr(printed), queue.clean_environment():
            return [str(job.job_id) for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(_refusal(f"{error}\n{printed.getvalue()}", config)) from None


def _check_possible(ids: Sequence[str]) -> None:
    """Takes jobs back that could never start."""
    reasons = {status.reason for status in queue.statuses(ids).values() if status.queued}
    for reason in reasons.intersection(queue.IMPOSSIBLE):
        queue.cancel({id.split("_")[0] for id in ids})
        text = f"Slurm could never start the job: {queue.IMPOSSIBLE[reason]} ({reason})"
        raise SlurmError(f"{text}; nothing was submitted")


def _refusal(text: str, config: SlurmConfig) -> str:
    """Slurm's reason in one line."""
    lines = [line.partition("error: ")[2] for line in text.splitlines() if "error: " in line]
    reason = lines[-1].strip() if lines else " ".join(text.split())
    reason = reason.removeprefix("Batch job submission failed: ")
    line = f"Slurm refuses the job: {reason}"
    if "partition" in reason.lower() and config.partition is not None:
        known = queue.partitions()
        line += f" (hydra.launcher.partition={config.partition}; there are {', '.join(known)})."
        line += near_miss(config.partition, known)
    return line


@contextlib.contextmanager
def _undone_on_refusal(folders: Sequence[Path], spool: Path) -> Iterator[None]:
    """Where the submission fails, what was written for it is removed."""
    new = [folder for folder in [*folders, spool] if not folder.exists()]
    spool.mkdir(parents=True, exist_ok=True)
    before = set(spool.iterdir())
    try:
        yield
    except Exception:
        for path in set(spool.iterdir()) - before:
            path.unlink()
        for folder in folders:
            (folder / FILE).unlink(missing_ok=True)
        for folder in new:
            folder.rmdir()
        raise


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits, also for `sbatch`, until what was submitted has been noted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
