"""Sweeps on a real Slurm: what happens to jobs, to the command that started them, and to the runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # real processes

ROOT = Path(__file__).parents[2]
SWEEP = (sys.executable, "-m", "worldflux.cli.main", "-m")
TINY = (
    "model/size=ci",
    "env.id=Slow-v0",
    "env.import=tests.slurm.slow_env",
    "training.batch_size=2",
    "training.sequence_length=8",
    "training.eval_episodes=1",
    "training.eval_interval=0",
    "data.prefill_steps=40",
)
SLURM = ("hydra/launcher=slurm", "hydra.launcher.poll_s=1")


@pytest.fixture
def folder(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; what runs in it reaches the test cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    done = subprocess.run([*SWEEP, *words], capture_output=True, text=True, timeout=1800)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs(name: str) -> list[Path]:
    """The folders of a sweep's jobs, by seed."""
    found = Path("outputs", "multirun", name).glob("*/slurm.json")
    return sorted((path.parent for path in found), key=seed)


def seed(job: Path) -> int:
    return int(re.findall(r"training\.seed=(\d+)", job.name)[0])


def slurm_id(job: Path) -> str:
    return str(json.loads((job / "slurm.json").read_text())["id"])


def manifest(job: Path) -> dict[str, Any]:
    path = job / "run_manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def updates(job: Path) -> int:
    """Updates that the run has logged."""
    path = job / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def wait_for(what: Callable[[], Any], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def in_queue() -> dict[str, str]:
    """State of each job that is queued or runs."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T"]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    return dict(line.split() for line in text.splitlines())


def states(table: str) -> list[str]:
    """The states that the table of a sweep shows, by seed."""
    return re.findall(r"^  training\.seed=\d+ +([\w-]+)", table, re.M)


def processes(job: Path) -> list[int]:
    """The processes that train for a job."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            known = dict(v.split("=", 1) for v in environ.read_text().split("\0") if "=" in v)
        except OSError:
            continue
        array, index = known.get("SLURM_ARRAY_JOB_ID"), known.get("SLURM_ARRAY_TASK_ID")
        if f"{array}_{index}" == slurm_id(job) and "SLURM_STEP_ID" in known:
            found.append(int(environ.parent.name))
    return found


def comparable(job: Path) -> list[Any]:
    """metrics.jsonl without times and speeds."""
    records = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    return [
        (r["step"], r["env_steps"], {k: v for k, v in r["metrics"].items() if "fps" not in k})
        for r in records
    ]


def test_four_jobs_are_one_array_with_a_log_each(folder: Path) -> None:
    words = ["sweep=four", *SLURM, *TINY, "training.total_steps=3", "training.seed=range(4)"]
    table = run(*words)
    assert states(table) == ["completed"] * 4
    ids = [slurm_id(job) for job in jobs("four")]
    assert ids == [f"{ids[0].split('_')[0]}_{index}" for index in range(4)]
    for job in jobs("four"):
        assert "3 updates" in (job / "slurm.log").read_text()
    assert "4 completed" in run(*words)
    assert [slurm_id(job) for job in jobs("four")] == ids  # nothing was submitted again


def test_interrupted_jobs_go_on_by_themselves_exactly(folder: Path) -> None:
    """One job is preempted by another one, and then comes to its time limit, once at least."""
    steps = 500
    words = [*TINY, "training.log_interval=5", f"training.total_steps={steps}", "training.seed=0"]
    command = [
        *("sweep=limited", *SLURM, "sweep.detach=true", "+env.kwargs.seconds=0.1"),
        *("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10", *words),
    ]
    run(*command)
    (job,) = jobs("limited")
    wait_for(lambda: updates(job) > 0)
    subprocess.run(["srun", "--partition=high", "--cpus-per-task=4", "true"], check=True)
    run("sweep=whole", *words)  # the same without interruption, meanwhile
    table = run(*(word for word in command if "detach" not in word))
    assert states(table) == ["completed"]
    log = (job / "slurm.log").read_text()
    assert log.count("stopped by SIGUSR2") >= 2
    facts = subprocess.run(
        ["scontrol", "show", "job", slurm_id(job)], capture_output=True, text=True
    ).stdout
    assert int(re.findall(r"Restarts=(\d+)", facts)[0]) >= 2
    (whole,) = Path("outputs", "multirun", "whole").glob("*/run_manifest.json")
    for name in ("model", "optimizer"):
        path = Path("checkpoints", f"step_{steps:09d}", f"{name}.safetensors")
        assert (job / path).read_bytes() == (whole.parent / path).read_bytes()
    assert comparable(job) == comparable(whole.parent)


def test_lost_jobs_are_noticed_and_the_same_command_completes_them(folder: Path) -> None:
    """Of three jobs one is cancelled, one is killed and one is cancelled before it starts."""
    words = [
        *("sweep=lost", *SLURM, *TINY, "training.log_interval=5", "+env.kwargs.seconds=0.1"),
        *("training.total_steps=150", "training.seed=range(3)", "hydra.launcher.cpus_per_task=2"),
    ]
    driver = subprocess.Popen([*SWEEP, *words], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: len(jobs("lost")) == 3)
    first, second, third = jobs("lost")
    wait_for(lambda: updates(first) and updates(second))
    assert in_queue()[slurm_id(third)] == "PENDING"
    subprocess.run(["scancel", slurm_id(third)], check=True)
    subprocess.run(["scancel", slurm_id(first)], check=True)
    for process in processes(second):
        os.kill(process, signal.SIGKILL)
    table, _ = driver.communicate(timeout=900)
    assert states(table) == ["stopped", "broken-off", "missing"]
    assert "(cancelled)" in table
    table = run(*words)
    assert states(table) == ["completed"] * 3
    assert "resumed" in (first / "slurm.log").read_text()


def test_a_queued_job_keeps_the_values_that_it_was_submitted_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = folder / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nmodel:\n  kl_free: 0.5\n")
    words = [
        *("sweep=queued", *SLURM, *TINY, "--config-dir", str(folder / "conf"), "+experiment=mine"),
        *("training.total_steps=${oc.env:STEPS}", "training.seed=0"),
    ]
    monkeypatch.setenv("STEPS", "3")
    # All processors are taken, so that the job waits.
    subprocess.run(["sbatch", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 600"], check=True)
    run(*words, "sweep.detach=true")
    (job,) = jobs("queued")
    assert in_queue()[slurm_id(job)] == "PENDING"
    monkeypatch.setenv("STEPS", "4")
    experiment.write_text("# @package _global_\nmodel:\n  kl_free: 2.0\n")
    refused = run(*words, "sweep.detach=true", code=2)
    assert "model.kl_free is 0.5 in" in refused or "training.total_steps is 3 in" in refused
    (holder,) = set(in_queue()) - {slurm_id(job)}
    subprocess.run(["scancel", holder], check=True)
    wait_for(lambda: manifest(job).get("status") == "completed")
    assert manifest(job)["global_step"] == 3
    assert manifest(job)["config"]["model"]["kl_free"] == 0.5


@pytest.mark.usefixtures("ctrl_c")
def test_the_command_may_end_and_come_back(folder: Path) -> None:
    words = [
        *("sweep=left", *SLURM, *TINY, "training.log_interval=5", "+env.kwargs.seconds=0.1"),
        *("training.total_steps=150", "training.seed=range(2)"),
    ]
    command = [*SWEEP, *words, "sweep.detach=true"]
    twice = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=900)[0] for process in twice]
    assert [process.returncode for process in twice] == [0, 0]
    ids = [slurm_id(job) for job in jobs("left")]
    assert ids[0].split("_")[0] in "".join(texts)
    assert set(in_queue()) == set(ids)  # each job once, though two commands asked for it
    wait_for(lambda: all(updates(job) for job in jobs("left")))
    assert states(run(*words, "sweep.dry_run=true")) == ["running"] * 2
    driver = subprocess.Popen(
        [*SWEEP, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if "2 running" in line and "Slurm" in line:
            break
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 130, err
    assert f"scancel {ids[0].split('_')[0]}" in out + err
    assert set(in_queue()) == set(ids)  # they go on, and none was added
    assert states(run(*words)) == ["completed"] * 2
    assert [slurm_id(job) for job in jobs("left")] == ids


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "partition=hihg",
            "Slurm refuses the job: Invalid partition name specified (hydra.launcher.partition=hihg; "
            "there are high, main). Did you mean: 'high'?",
        ),
        ("mem_gb=90000", "Slurm refuses the job: Requested node configuration is not available"),
        (
            "cpus_per_task=1000",  # this Slurm takes it, and lets it wait for ever
            "Slurm could never start the job: no node of the partition has what it asks for "
            "(PartitionConfig); nothing was submitted",
        ),
    ],
)
def test_what_slurm_cannot_do_is_one_line(folder: Path, word: str, line: str) -> None:
    words = ["sweep=refused", *SLURM, f"hydra.launcher.{word}", *TINY, "training.seed=1,2"]
    assert run(*words, code=2).splitlines()[-1] == f"worldflux-run: error: {line}"
    assert in_queue() == {}
    assert jobs("refused") == []


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = run("hydra/launcher=slurm", "training.seed=1,2", code=2)
    assert text.count("\n") == 1
    assert "sbatch is not found in PATH" in text
    assert list(tmp_path.iterdir()) == []
