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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import folder, refused
from tests.slurm.conftest import needs_slurm, running_cluster, variables
from worldflux.cli.main import main

__all__ = ["folder", "refused"]
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


class Place:
    """A working directory, and the cluster that commands in it reach."""

    def __init__(self, folder: Path, cluster: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, **variables(cluster)}
        self.env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.hold = folder / "hold"  # while it exists, jobs take their time
        self.hold.touch()

    def run(self, *words: str, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [*SWEEP, *words],
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The command in a process that goes on, and that Ctrl-C reaches."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*SWEEP, *words], cwd=self.folder, env=self.env, text=True, **pipes)

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=True
        ).stdout

    def jobs(self, name: str) -> list[Path]:
        """The folders of a sweep's jobs, by seed."""
        files = self.sweep(name).glob("*/slurm.json")
        return sorted((path.parent for path in files), key=seed)

    def sweep(self, name: str) -> Path:
        return self.folder / "outputs" / "multirun" / name

    def in_queue(self) -> dict[str, str]:
        """State of each job that is queued or runs."""
        text = self.ask("squeue", "--noheader", "--array", "--format=%i %T")
        return dict(line.split() for line in text.splitlines())


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


def states(table: str) -> list[str]:
    """The states that the table of a sweep shows, by seed."""
    return re.findall(r"^  training\.seed=\d+ +([\w-]+)", table, re.M)


def processes(place: Place, job: Path) -> list[int]:
    """The processes that train for a job."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            known = dict(v.split("=", 1) for v in environ.read_text().split("\0") if "=" in v)
        except OSError:
            continue
        array, index = known.get("SLURM_ARRAY_JOB_ID"), known.get("SLURM_ARRAY_TASK_ID")
        here = known.get("SLURM_CONF") == place.env["SLURM_CONF"]  # other clusters count from 1 too
        if here and f"{array}_{index}" == slurm_id(job) and "SLURM_STEP_ID" in known:
            found.append(int(environ.parent.name))
    return found


def comparable(job: Path) -> list[Any]:
    """metrics.jsonl without times and speeds."""
    records = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    return [
        (r["step"], r["env_steps"], {k: v for k, v in r["metrics"].items() if "fps" not in k})
        for r in records
    ]


def four_jobs_are_one_array_with_a_log_each(place: Place) -> None:
    words = ["sweep=four", *SLURM, *TINY, "training.total_steps=3", "training.seed=range(4)"]
    table = place.run(*words)
    assert states(table) == ["completed"] * 4
    ids = [slurm_id(job) for job in place.jobs("four")]
    assert ids == [f"{ids[0].split('_')[0]}_{index}" for index in range(4)]
    for job in place.jobs("four"):
        assert "3 updates" in (job / "slurm.log").read_text()
    assert "4 completed" in place.run(*words)
    assert [slurm_id(job) for job in place.jobs("four")] == ids  # nothing was submitted again


def interrupted_jobs_go_on_by_themselves_exactly(place: Place) -> None:
    """One job is preempted by another one, and then comes to its time limit, once at least."""
    steps = 250  # more than are done before the second interruption
    words = [*TINY, "training.log_interval=5", f"training.total_steps={steps}", "training.seed=0"]
    # Limits are whole minutes: the signal comes 25 s before.
    command = [
        *("sweep=limited", *SLURM, "sweep.detach=true", f"+env.kwargs.hold={place.hold}"),
        *("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=25", *words),
    ]
    place.run(*command)
    (job,) = place.jobs("limited")
    wait_for(lambda: updates(job) > 0)
    place.ask("srun", "--partition=high", "--cpus-per-task=4", "true")
    place.run("sweep=whole", *words)  # the same without interruption, meanwhile

    def restarts() -> int:
        facts = place.ask("scontrol", "show", "job", slurm_id(job))
        return int(re.findall(r"Restarts=(\d+)", facts)[0])

    wait_for(lambda: restarts() >= 2)
    place.hold.unlink()
    table = place.run(*(word for word in command if "detach" not in word))
    assert states(table) == ["completed"]
    log = (job / "slurm.log").read_text()
    assert log.count("stopped by SIGUSR2") >= 2
    (whole,) = place.sweep("whole").glob("*/run_manifest.json")
    for name in ("model", "optimizer"):
        path = Path("checkpoints", f"step_{steps:09d}", f"{name}.safetensors")
        assert (job / path).read_bytes() == (whole.parent / path).read_bytes()
    assert comparable(job) == comparable(whole.parent)


def lost_jobs_are_noticed_and_the_same_command_completes_them(place: Place) -> None:
    """Of three jobs one is cancelled, one is killed and one is cancelled before it starts."""
    words = [
        *("sweep=lost", *SLURM, *TINY, "training.log_interval=5", f"+env.kwargs.hold={place.hold}"),
        *("training.total_steps=250", "training.seed=range(3)", "hydra.launcher.cpus_per_task=2"),
    ]
    driver = place.start(*words)
    wait_for(lambda: len(place.jobs("lost")) == 3)
    first, second, third = place.jobs("lost")
    wait_for(lambda: updates(first) and updates(second))
    assert place.in_queue()[slurm_id(third)] == "PENDING"
    place.ask("scancel", slurm_id(third))
    place.ask("scancel", slurm_id(first))
    for process in processes(place, second):
        os.kill(process, signal.SIGKILL)
    table, _ = driver.communicate(timeout=900)
    assert states(table) == ["stopped", "broken-off", "missing"]
    assert "(cancelled)" in table
    place.hold.unlink()
    table = place.run(*words)
    assert states(table) == ["completed"] * 3
    assert "resumed" in (first / "slurm.log").read_text()


def a_queued_job_keeps_the_values_that_it_was_submitted_with(place: Place) -> None:
    experiment = place.folder / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nmodel:\n  kl_free: 0.5\n")
    words = [
        *("sweep=queued", *SLURM, *TINY, "--config-dir", "conf", "+experiment=mine"),
        *("training.total_steps=${oc.env:STEPS}", "training.seed=0", "sweep.detach=true"),
    ]
    # All processors are taken, so that the job waits.
    place.ask("sbatch", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 600")
    place.run(*words, STEPS="3")
    (job,) = place.jobs("queued")
    assert place.in_queue()[slurm_id(job)] == "PENDING"
    experiment.write_text("# @package _global_\nmodel:\n  kl_free: 2.0\n")
    refused = place.run(*words, code=2, STEPS="4")
    assert "model.kl_free is 0.5 in" in refused or "training.total_steps is 3 in" in refused
    (holder,) = set(place.in_queue()) - {slurm_id(job)}
    place.ask("scancel", holder)
    wait_for(lambda: manifest(job).get("status") == "completed")
    assert manifest(job)["global_step"] == 3
    assert manifest(job)["config"]["model"]["kl_free"] == 0.5


def the_command_may_end_and_come_back(place: Place) -> None:
    words = [
        *("sweep=left", *SLURM, *TINY, "training.log_interval=5", f"+env.kwargs.hold={place.hold}"),
        *("training.total_steps=250", "training.seed=range(2)"),
    ]
    twice = [place.start(*words, "sweep.detach=true") for _ in range(2)]
    texts = [process.communicate(timeout=900)[0] for process in twice]
    assert [process.returncode for process in twice] == [0, 0]
    ids = [slurm_id(job) for job in place.jobs("left")]
    assert ids[0].split("_")[0] in "".join(texts)
    assert set(place.in_queue()) == set(ids)  # each job once, though two commands asked for it
    wait_for(lambda: all(updates(job) for job in place.jobs("left")))
    assert states(place.run(*words, "sweep.dry_run=true")) == ["running"] * 2
    driver = place.start(*words)
    assert driver.stdout is not None
    for line in driver.stdout:
        if "2 running" in line and "Slurm" in line:
            break
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 130, err
    assert f"scancel {ids[0].split('_')[0]}" in out + err
    assert set(place.in_queue()) == set(ids)  # they go on, and none was added
    place.hold.unlink()
    assert states(place.run(*words)) == ["completed"] * 2
    assert [slurm_id(job) for job in place.jobs("left")] == ids


@pytest.mark.slow(80)
@pytest.mark.usefixtures("ctrl_c")
def test_what_becomes_of_jobs(tmp_path: Path) -> None:
    """Most of their time goes by in waiting, so each has a cluster of its own and all go on at once."""
    needs_slurm()

    def tried(scenario: Callable[[Place], None]) -> None:
        folder = tmp_path / scenario.__name__
        folder.mkdir()
        with running_cluster() as cluster:
            scenario(Place(folder, cluster))

    scenarios = (
        interrupted_jobs_go_on_by_themselves_exactly,
        the_command_may_end_and_come_back,
        lost_jobs_are_noticed_and_the_same_command_completes_them,
        a_queued_job_keeps_the_values_that_it_was_submitted_with,
        four_jobs_are_one_array_with_a_log_each,
    )
    with ThreadPoolExecutor(len(scenarios)) as pool:
        ended = [pool.submit(tried, scenario) for scenario in scenarios]
    failures = [failure for one in ended if (failure := one.exception()) is not None]
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {len(scenarios)} went wrong", failures)


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
def test_what_slurm_cannot_do_is_one_line(
    slurm: Path, folder: Path, capfd: pytest.CaptureFixture[str], word: str, line: str
) -> None:
    words = ["sweep=refused", *SLURM, f"hydra.launcher.{word}", *TINY, "training.seed=1,2"]
    assert main(["-m", *words]) == 2
    assert capfd.readouterr().err == f"worldflux-run: error: {line}\n"
    assert not list((folder / "outputs" / "multirun" / "refused").glob("*/slurm.json"))
    queued = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert queued.stdout == ""


def test_no_slurm(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused("-m", "hydra/launcher=slurm", "training.seed=1,2")
    assert "sbatch is not found in PATH" in line
