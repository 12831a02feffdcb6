"""The queue of Slurm, through its commands."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from worldflux.errors import WorldFluxError

# Jobs in these states will use processors, do so, or will do so again.
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")
# Why Slurm keeps a job waiting that it could have refused, as clusters may be configured to do.
IMPOSSIBLE = {
    "PartitionConfig": "no node of the partition has what it asks for",
    "PartitionNodeLimit": "the partition does not allow so many nodes",
    "PartitionTimeLimit": "the partition does not allow so long a time limit",
    "BadConstraints": "no node has these features",
}
SECONDS = 60
# Variables by which Slurm's commands, and the jobs that they start, take options that nobody named
# here: those of a job that this command runs in, or of the user's profile.
OPTIONS = re.compile("(SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SINFO|SCANCEL|SCONTROL|SUBMITIT)_")
# Those that name the cluster and the way to it.
CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_JWT")
LARGEST_ARRAY = 1000  # one below what Slurm allows unless an administrator changed it


class SlurmError(WorldFluxError):
    """Slurm does not answer, or refuses."""


@dataclass(frozen=True)
class QueueStatus:
    """state: in Slurm's words, empty when it does not know the job any more. comment: what the job
    was submitted with. reason: why it waits."""

    state: str = ""
    comment: str = ""
    reason: str = ""

    @property
    def queued(self) -> bool:
        return self.state in QUEUED

    @property
    def alive(self) -> bool:
        return self.state in QUEUED or self.state in RUNNING

    def __str__(self) -> str:
        waits = self.state == "PENDING" and self.reason not in ("", "None")
        words = self.state.lower().replace("_", " ") or "not known to Slurm any more"
        return f"{words} ({self.reason})" if waits else words


def statuses(ids: Iterable[str]) -> dict[str, QueueStatus]:
    """The status of each job, by its id as `squeue` prints it (12, or 12_3 for one of an array).

    SlurmError: the controller does not answer, so that nothing is known.
    """
    ids = list(ids)
    if not ids:
        return {}
    rows = queue("--states=all", "--jobs=" + ",".join(sorted({id.split("_")[0] for id in ids})))
    missing = [id for id in ids if id not in rows]
    if missing:
        rows.update(_from_accounting(missing))
    return {id: rows.get(id, QueueStatus()) for id in ids}


def with_comment(comments: Collection[str]) -> dict[str, str]:
    """The user's jobs that are queued or run, by the comment they were submitted with: the id, of
    an array the one that its jobs share."""
    rows = queue("--me").items()
    return {s.comment: id.split("_")[0] for id, s in rows if s.comment in comments}


def queue(*options: str) -> dict[str, QueueStatus]:
    """What `squeue` lists, one entry for each element of an array."""
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%k|%r", *options]
    done = _run(command)
    if done.returncode != 0:
        if "Invalid job id" in done.stderr:  # all of these jobs ended long ago
            return {}
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1].strip()
        raise SlurmError(f"squeue failed: {reason}")
    rows = [line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
    return {id: QueueStatus(state, comment, reason) for id, state, comment, reason in rows}


def partitions() -> list[str]:
    """Names of the cluster's partitions; none when it does not answer."""
    if shutil.which("sinfo") is None:
        return []
    return sorted(set(_run(["sinfo", "--noheader", "--format=%R"]).stdout.split()))


def largest_array() -> int:
    """How many jobs an array of this cluster may have."""
    limit = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout, re.M
    )
    return LARGEST_ARRAY if limit is None else max(1, int(limit[1]))


def environment() -> dict[str, str]:
    """The variables of this process without those that are options of Slurm's commands."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in CLUSTER or not OPTIONS.match(name)
    }


@contextmanager
def clean_environment() -> Iterator[None]:
    """While entered, this process's own variables are those of `environment`."""
    before, kept = dict(os.environ), environment()
    for name in before.keys() - kept.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update({name: before[name] for name in before.keys() - kept.keys()})


def is_preempted(id: str) -> bool:
    """Whether the running job has to make room for another one."""
    words = _run(["scontrol", "--oneliner", "show", "job", id]).stdout.split()
    facts = dict(word.split("=", 1) for word in words if "=" in word)
    # One that is cancelled is COMPLETING by then.
    return facts.get("PreemptTime", "None") != "None" and facts.get("JobState") == "RUNNING"


def cancel(ids: Iterable[str]) -> None:
    """Ends jobs, whole arrays where an id names one."""
    _run(["scancel", *ids])


def check_installed() -> None:
    """SlurmError where the commands of Slurm or the package that calls them are missing."""
    if importlib.util.find_spec("submitit") is None:
        raise SlurmError("hydra/launcher=slurm needs submitit: pip install 'worldflux[slurm]'")
    for command in ("sbatch", "squeue", "srun", "scontrol"):
        if shutil.which(command) is None:
            raise SlurmError(
                f"hydra/launcher=slurm needs Slurm: {command} is not found in PATH; run this on a "
                "node of a cluster from which jobs are submitted"
            )


def _from_accounting(ids: list[str]) -> Mapping[str, QueueStatus]:
    """What the accounting database knows of jobs that the controller has forgotten."""
    if shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State"]
    done = _run([*command, "--jobs=" + ",".join(ids)])
    if done.returncode != 0:  # many clusters keep no accounts
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 1]
    # "CANCELLED by 1000"
    return {id: QueueStatus(state.split()[0]) for id, state in rows if id in ids and state}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "LC_ALL": "C"}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not found in PATH") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in {SECONDS} s") from None
