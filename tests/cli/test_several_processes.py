"""`worldflux-run training.nproc=2` as a person starts it, and what ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldflux.run_folder.manifest import read_manifest
from worldflux.runner.slurm_task import first_node, slurm_task

WORDS = [
    "training.nproc=2",
    "model/size=ci",
    "env.solved_return=null",
    "logger.tensorboard=false",
    "training.total_steps=100_000",
    "training.num_envs=2",
    "training.batch_size=4",
    "training.eval_interval=0",
    "training.save_interval=3",
    "data.prefill_steps=60",
    "data.capacity=1_000",
    "hydra.run.dir=run",
]
SECONDS = 240  # the processes import PyTorch, on a machine that may have other things to do


@pytest.mark.slow(15)
def test_a_killed_rank_ends_the_run_with_its_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldflux.cli.main", *WORDS]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            wait_for(tmp_path / "run" / "checkpoints" / "latest", started)
            os.kill(ranks_of(started.pid)[-1], signal.SIGKILL)
            _, told = started.communicate(timeout=SECONDS)
        finally:
            started.kill()
    assert started.returncode == 3
    lines = [line for line in told.splitlines() if line]
    assert len(lines) == 1, told
    assert "rank 1 of 2 was killed by SIGKILL" in lines[0]
    assert lines[0].endswith("continue from its last checkpoint with: worldflux-run resume=run")
    assert read_manifest(tmp_path / "run")["status"] == "failed"


def wait_for(path: Path, started: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert started.poll() is None and time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.1)


def ranks_of(parent: int) -> list[int]:
    """The started ranks, in their order."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            command = (status.parent / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        if int(fields["PPid"]) == parent and "spawn_main" in command:
            found.append(int(fields["Pid"]))
    return sorted(found)


STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def test_the_tasks_of_a_step_are_the_ranks_of_one_run() -> None:
    task = slurm_task(4, STEP)
    assert task is not None
    assert (task.rank, task.size, task.local, task.host) == (3, 4, 1, "127.0.0.1")
    other = slurm_task(4, {**STEP, "SLURM_PROCID": "0"})
    assert other is not None and other.port == task.port
    own = slurm_task(4, {**STEP, "MASTER_ADDR": "head", "MASTER_PORT": "5"})
    assert own is not None and (own.host, own.port) == ("head", 5)
    assert slurm_task(1, STEP) is None, "runs of one process are runs of their own"
    assert slurm_task(4, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None, "no srun"


def test_the_first_node_of_a_list() -> None:
    assert first_node("n1") == "n1"
    assert first_node("gpu[007-009,12],login1") == "gpu007"
    assert first_node("a,b[1-2]") == "a"
    assert first_node("rack[3,5]-ib") == "rack3-ib"
