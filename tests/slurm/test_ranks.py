"""The tasks of a Slurm step train one agent together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics

WORDS = [
    "training.nproc=2",
    "model/size=ci",
    "env.solved_return=null",
    "logger.tensorboard=false",
    "training.total_steps=3",
    "training.num_envs=2",
    "training.batch_size=4",
    "training.eval_episodes=1",
    "training.log_interval=1",
    "data.prefill_steps=60",
    "data.capacity=1_000",
]


@pytest.mark.slow(8)
def test_srun_with_two_tasks_is_one_run(slurm: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = ["srun", "--ntasks=2", "--immediate=60", sys.executable, "-m", "worldflux.cli.main"]
    done = subprocess.run(
        [*command, *WORDS], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    manifest = read_manifest(run)
    assert (manifest["status"], manifest["global_step"]) == ("completed", 3)
    assert sorted(path.name for path in (run / "replay").iterdir()) == ["rank_0", "rank_1"]
    assert (run / ".hydra" / "config.yaml").is_file()
    steps = [r["step"] for r in read_metrics(run) if "train/loss/total" in r["metrics"]]
    assert steps == [1, 2, 3]


@pytest.mark.slow
def test_other_than_as_many_tasks_are_refused(slurm: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["srun", "--ntasks=2", sys.executable, "-m", "worldflux.cli.main"]
    words = [*WORDS[1:], "training.nproc=3", "training.num_envs=3", "training.batch_size=3"]
    words = [word for word in words if word not in WORDS[5:7]]
    done = subprocess.run(
        [*command, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 2
    assert "training.nproc=3, but srun started 2 tasks: set training.nproc=2" in done.stderr
    assert not (tmp_path / "outputs").exists()
