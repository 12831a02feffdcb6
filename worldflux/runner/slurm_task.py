"""The tasks of a Slurm step as the ranks of one run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from worldflux.errors import ConfigurationError

FIRST_PORT, PORTS = 20_000, 20_000


@dataclass(frozen=True)
class SlurmTask:
    """One task of a step: rank of `size`, `local` on its node; host and port of the first one."""

    rank: int
    size: int
    local: int
    host: str
    port: int


def slurm_task(nproc: int, env: Mapping[str, str] = os.environ) -> SlurmTask | None:
    """This process's place among the tasks that `srun` started for one run of `nproc` processes.

    None: it is no such task, and the run starts its processes itself. Tasks of a run of one process
    are runs of their own. ConfigurationError: there are other than `nproc` tasks.
    """
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if nproc == 1 or tasks == 1:
        return None
    if tasks != nproc:
        raise ConfigurationError(
            f"training.nproc={nproc}, but srun started {tasks} tasks:"
            f" set training.nproc={tasks}, or start one task"
        )
    step = f"{env['SLURM_JOB_ID']}.{env.get('SLURM_STEP_ID', 0)}"
    port = FIRST_PORT + zlib.crc32(step.encode()) % PORTS  # the same in all tasks
    return SlurmTask(
        rank=int(env["SLURM_PROCID"]),
        size=tasks,
        local=int(env.get("SLURM_LOCALID", 0)),
        host=env.get("MASTER_ADDR") or _first_host(env),
        port=int(env.get("MASTER_PORT", port)),
    )


def _first_host(env: Mapping[str, str]) -> str:
    """An address of the node of task 0 that every task can reach."""
    if env.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    node = first_node(env["SLURM_STEP_NODELIST"])
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    address = _node_address(node)
    if address is None:
        raise ConfigurationError(f"cannot find the address of node {node}: set MASTER_ADDR")
    return address


def first_node(nodes: str) -> str:
    """The first of a Slurm node list, such as ``gpu[007-009,12],login1``."""
    head = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    if head is None:
        raise ConfigurationError(f"cannot read the node list {nodes!r}: set MASTER_ADDR")
    return head[1] + (head[2] or "") + head[3]


def _node_address(node: str) -> str | None:
    """What Slurm itself calls the node by, where its name is no host's."""
    if shutil.which("scontrol") is None:
        return None
    done = subprocess.run(
        ["scontrol", "-o", "show", "node", node], capture_output=True, text=True, timeout=30
    )
    address = re.search(r"NodeAddr=(\S+)", done.stdout)
    return address[1] if address else None
