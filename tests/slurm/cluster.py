"""A real Slurm on this machine alone, to try the Slurm launcher on: no systemd, no accounting
database, no cgroups, everything bound to the loopback address. Needs root and Debian's packages.

    python scripts/test_cluster/cluster.py start [--install] [--nodes 2] [--gpus 2] [--cpus 4]
    source ~/.cache/worldflux/test-cluster/env.sh      # sbatch, squeue, sacct now ask this cluster
    python scripts/test_cluster/cluster.py stop

Several nodes are several slurmd on this one machine; processors and GPUs beyond those that exist
are pretended (every GPU is a harmless character device). There are two partitions: `main`, and
`high`, whose jobs preempt those of `main`: they are sent the signal they asked for, have 30 seconds,
and are requeued. Starting a cluster that runs is harmless. `stop` ends what runs on it and deletes
the folder.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = Path.home() / ".cache" / "worldflux" / "test-cluster"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
# A pretended GPU needs a character device of its own that opens for everybody.
GPU_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")

CONFIGURATION = """\
ClusterName=worldflux
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
# Without these the daemons would listen on every address of the machine.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired: 120 seconds unless told otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
# What works without cgroups and without an init system.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Lets a node have more processors than the machine.
SlurmdParameters=config_overrides
# Tests cannot wait for a scheduler that saves its strength.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=5
SlurmdTimeout=10
ReturnToService=2
MinJobAge={job_age}
{gres_types}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_ports}] CPUs={cpus} RealMemory={memory} {gres} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=off
"""


class ClusterError(Exception):
    """Why there is no cluster."""


def missing_packages() -> bool:
    # Daemons live in sbin, which not everybody's PATH has.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return any(shutil.which(name, path=path) is None for name in DAEMONS)


def install(seconds: float = 180) -> None:
    """Installs Debian's packages; ClusterError says why that did not work."""
    if shutil.which("apt-get") is None:
        raise ClusterError("Slurm's packages are not installed, and there is no apt-get")
    if os.geteuid() != 0:
        raise ClusterError("Slurm's packages are not installed, and only root can install them")
    end = time.monotonic() + seconds
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        try:
            done = subprocess.run(
                command,
                env=quiet,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=max(end - time.monotonic(), 1),
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"installing took longer than {seconds:.0f} s") from None
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason"]
            raise ClusterError(f"{' '.join(command[:2])} failed: {lines[-1].strip()}")


def start(
    folder: Path, *, nodes: int = 1, cpus: int = 4, gpus: int = 0, job_age: int = 3600
) -> None:
    """Starts what does not run yet and waits until jobs can be submitted.

    cpus, gpus: of each node. job_age: seconds for which the controller remembers an ended job.
    """
    if os.geteuid() != 0:
        raise ClusterError("only root can start slurmd, which starts the processes of jobs")
    if gpus > len(GPU_DEVICES):
        raise ClusterError(f"a node can pretend to have {len(GPU_DEVICES)} GPUs, not {gpus}")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for name in ("", "state", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    configuration = folder / "slurm.conf"
    os.environ["SLURM_CONF"] = str(configuration)
    if not _runs(folder / "slurmctld.pid"):
        _configure(folder, nodes, cpus, gpus, job_age)
    _start_munge(folder)
    if not _runs(folder / "slurmctld.pid"):
        _call(["slurmctld"])
    _wait("slurmctld does not answer", folder, lambda: "is UP" in _output(["scontrol", "ping"]))
    names = _output(["scontrol", "show", "hostnames", f"n[1-{nodes}]"]).split()
    for name in names:
        if not _runs(folder / f"slurmd.{name}.pid"):
            _call(["slurmd", "-N", name])
    _wait("the nodes are not ready", folder, lambda: _ready(names))


def stop(folder: Path) -> None:
    """Ends all jobs and daemons, and deletes the folder."""
    if not folder.is_dir():
        return
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    if _runs(folder / "slurmctld.pid"):
        jobs = _output(["squeue", "--noheader", "--format=%A"]).split()
        if jobs:
            subprocess.run(["scancel", "--full", "--signal=KILL", *jobs], capture_output=True)
            subprocess.run(["scancel", *jobs], capture_output=True)
            time.sleep(1)
    daemons = [*folder.glob("slurmd.*.pid"), folder / "slurmctld.pid", folder / "munged.pid"]
    for path in daemons:
        _end(path)
    shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, nodes: int, cpus: int, gpus: int, job_age: int) -> None:
    first = _free_ports(nodes + 1)
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    text = CONFIGURATION.format(
        host=socket.gethostname().split(".")[0],
        folder=folder,
        controller_port=first,
        node_ports=f"{first + 1}-{first + nodes}",
        nodes=nodes,
        cpus=cpus,
        memory=int(megabytes * 0.9 / nodes),
        gres_types="GresTypes=gpu" if gpus else "",
        gres=f"Gres=gpu:{gpus}" if gpus else "",
        job_age=job_age,
    )
    (folder / "slurm.conf").write_text(text)
    devices = [f"Name=gpu File={device}\n" for device in GPU_DEVICES[:gpus]]
    (folder / "gres.conf").write_text("".join(devices))
    # sacct asks an accounting database, which is not here: ours asks the controller.
    shutil.copy(HERE / "sacct", folder / "bin" / "sacct")
    lines = [f"export SLURM_CONF={folder}/slurm.conf", f"export PATH={folder}/bin:$PATH"]
    (folder / "env.sh").write_text("\n".join([*lines, ""]))


def _free_ports(count: int) -> int:
    """The first of `count` successive ports that nobody listens on."""
    # From anywhere, so that two clusters that start at once do not choose the same.
    for first in random.sample(range(17_000, 32_000), 100):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + number))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise ClusterError("no free ports")


def _start_munge(folder: Path) -> None:
    """The daemon that signs Slurm's messages, with a key of its own."""
    if _runs(folder / "munged.pid"):
        return
    key = folder / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
    paths = {"key-file": key}
    for option, name in (("socket", "socket"), ("pid-file", "pid"), ("log-file", "log")):
        prefix = "munge" if name == "socket" else "munged"
        paths[option] = folder / f"{prefix}.{name}"
    paths["seed-file"] = folder / "munge.seed"
    # --force: the folder may lie below one that others can write to, such as /tmp.
    _call(["munged", "--force", *(f"--{option}={path}" for option, path in paths.items())])


def _ready(names: list[str]) -> bool:
    states = dict(
        line.split()
        for line in _output(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"]).splitlines()
    )
    for name, state in states.items():
        if state.startswith(("down", "drain")):
            _output(["scontrol", "update", f"nodename={name}", "state=resume"])
    return all(states.get(name, "") in ("idle", "mixed", "allocated") for name in names)


def _runs(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _end(pid_file: Path) -> None:
    if not _runs(pid_file):
        return
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    for _ in range(150):
        time.sleep(0.1)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
    os.kill(pid, signal.SIGKILL)


def _wait(problem: str, folder: Path, ready: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            tails = [path.read_text().splitlines()[-3:] for path in sorted(folder.glob("*.log"))]
            lines = "\n".join(line for tail in tails for line in tail)
            raise ClusterError(f"{problem} after {seconds:.0f} s:\n{lines}")
        time.sleep(0.1)


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command[:3])} failed: {done.stderr.strip()}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("start", "stop", "install"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    parser.add_argument("--install", action="store_true", help="first install what is missing")
    parser.add_argument("--nodes", type=int, default=1, help="slurmd to start (default: 1)")
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="of each node")
    parser.add_argument("--gpus", type=int, default=0, help="pretended, of each node (default: 0)")
    options = parser.parse_args()
    folder = options.folder.resolve()
    try:
        if options.action == "stop":
            stop(folder)
            return 0
        if missing_packages():
            if not (options.install or options.action == "install"):
                packages = " ".join(PACKAGES)
                raise ClusterError(f"needs {packages}: apt-get install them, or add --install")
            install()
        if options.action == "start":
            start(folder, nodes=options.nodes, cpus=options.cpus, gpus=options.gpus)
            print(_output(["sinfo"]), end="")
            print(f"source {folder}/env.sh")
    except ClusterError as error:
        print(f"test_cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
