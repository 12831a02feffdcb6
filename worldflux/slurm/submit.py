"""Handing jobs to Slurm, so that none is handed over twice and none is forgotten."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from worldflux.config.fields import near_miss
from worldflux.config.slurm import SlurmConfig
from worldflux.slurm import queue
from worldflux.slurm.job import SlurmJob
from worldflux.slurm.queue import SlurmError
from worldflux.slurm.record import FILE, LOG, Record

LARGEST_ARRAY = 1000  # one below what Slurm allows unless an administrator changed it


def submit(jobs: Sequence[SlurmJob], asked: SlurmConfig, name: str, spool: Path) -> list[str]:
    """Submits the jobs, as an array if there are several, and returns their ids.

    Each job's folder gets a record of its id and a link to its log. spool: the folder for what
    submitit writes. SlurmError: Slurm refuses; nothing is left behind.
    """
    ids = []
    for start in range(0, len(jobs), LARGEST_ARRAY):
        with _uninterrupted():
            ids += _submit_array(jobs[start : start + LARGEST_ARRAY], asked, name, spool)
    return ids


def _submit_array(
    jobs: Sequence[SlurmJob], asked: SlurmConfig, name: str, spool: Path
) -> list[str]:
    token = f"worldflux-{uuid.uuid4().hex}"
    records = [Record(token, index, len(jobs)) for index in range(len(jobs))]
    with _undone_on_refusal([job.folder for job in jobs], spool):
        for job, record in zip(jobs, records, strict=True):
            record.write(job.folder)
        ids = _sbatch(jobs, asked, name, token, spool)
        _check_possible(ids)
    for job, record, id in zip(jobs, records, ids, strict=True):
        Record(token, record.index, record.size, id).write(job.folder)
        _link_log(job.folder / LOG, spool / f"{id}_0_log.out")
    return ids


def _sbatch(
    jobs: Sequence[SlurmJob], asked: SlurmConfig, name: str, token: str, spool: Path
) -> list[str]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(spool, max_num_timeout=asked.max_num_timeout)
    executor.update_parameters(
        job_name=name, comment=token, wckey=None, stderr_to_stdout=True, **asked.sbatch()
    )
    told = io.StringIO()  # submitit prints what the error says too
    try:
        with contextlib.redirect_stderr(told):
            return [str(job.job_id) for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(_refusal(f"{error}\n{told.getvalue()}", asked)) from None


def _check_possible(ids: Sequence[str]) -> None:
    """Takes jobs back that could never start."""
    reasons = {status.reason for status in queue.statuses(ids).values() if status.queued}
    for reason in reasons.intersection(queue.IMPOSSIBLE):
        queue.cancel({id.split("_")[0] for id in ids})
        text = f"Slurm could never start the job: {queue.IMPOSSIBLE[reason]} ({reason})"
        raise SlurmError(f"{text}; nothing was submitted")


def _refusal(text: str, asked: SlurmConfig) -> str:
    """Slurm's reason in one line."""
    lines = [line.partition("error: ")[2] for line in text.splitlines() if "error: " in line]
    lines = list(dict.fromkeys(line.strip() for line in lines)) or [" ".join(text.split())]
    reason = lines[-1].removeprefix("Batch job submission failed: ")
    line = f"Slurm refuses the job: {reason}"
    if "partition" in reason.lower() and asked.partition is not None:
        known = queue.partitions()
        line += f" (hydra.launcher.partition={asked.partition}; there are {', '.join(known)})."
        line += near_miss(asked.partition, known)
    return line


def _link_log(link: Path, log: Path) -> None:
    """The log of Slurm under a name that says so, in the folder of the job."""
    link.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file system without links: the log is in the spool
        link.symlink_to(log)


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
