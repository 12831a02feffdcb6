"""Sweeps of real training runs in real processes: killed, interrupted, started twice at once."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from worldflux.cli import report
from worldflux.cli.main import main
from worldflux.run_folder.state import RunState, process_of, run_state

pytestmark = pytest.mark.slow(15)  # real processes

TINY = [
    "model/size=ci",
    "training.total_steps=24",
    "training.eval_interval=12",
    "training.save_interval=2",
    "training.batch_size=2",
    "training.sequence_length=8",
    "training.eval_episodes=1",
    "training.compile_model=false",
    "data.prefill_steps=40",
    "logger=jsonl",
]
BEGINS = "preparing the first update"


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worldflux.cli.main", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # as in a terminal, its signals reach it and its workers
    )


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not happened():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.05)


def jobs(root: Path) -> dict[int, Path]:
    """The jobs' folders by their seed."""
    files = root.glob("*/run.log")
    return {int(str(f.parent).partition("seed=")[2].partition(",")[0]): f.parent for f in files}


def begun(folder: Path) -> int:
    return (folder / "run.log").read_text().count(BEGINS)


def model(folder: Path) -> bytes:
    return (folder / "checkpoints" / "step_000000024" / "model.safetensors").read_bytes()


def test_a_killed_sweep_is_completed_by_two_commands_at_once(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "sweep=killed", "training.seed=range(3)", *TINY]
    root = folder / "outputs" / "multirun" / "killed"
    driver = start(words, folder)
    wait_for(lambda: 1 in (now := jobs(root)) and (now[1] / "checkpoints/latest").exists(), driver)
    assert report.main(["killed"]) == 0
    assert "3 jobs: 1 completed, 1 running, 1 missing" in capfd.readouterr().out
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert report.main(["killed", "--format", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [job["state"] for job in told["jobs"]] == ["completed", "broken-off", "missing"]
    both = [start(words, folder), start(list(reversed(words[1:])) + ["-m"], folder)]
    outputs = [driver.communicate()[0] for driver in both]
    assert [driver.returncode for driver in both] == [0, 0], outputs
    assert any("3 jobs: 3 completed" in output for output in outputs)
    found = jobs(root)
    assert [begun(found[seed]) for seed in range(3)] == [1, 2, 1]
    # The killed job ended as a run that was never interrupted.
    assert main(["training.seed=1", *TINY]) == 0
    (single,) = {path.parent for path in (folder / "outputs").glob("20*/*/run.log")}
    assert model(found[1]) == model(single)


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="hydra-joblib-launcher is not installed",
)
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_parallel_jobs_with_a_checkpoint(folder: Path) -> None:
    words = ["-m", "sweep=par", "training.seed=range(3)", *TINY]
    root = folder / "outputs" / "multirun" / "par"
    long = [word.replace("steps=24", "steps=5000") for word in words]
    driver = start([*long, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], folder)

    def two_train() -> bool:
        return sum((f / "checkpoints" / "latest").exists() for f in jobs(root).values()) == 2

    wait_for(two_train, driver)
    workers = {process_of(f) for f in jobs(root).values()} - {None}
    assert len(workers) == 2 and driver.pid not in workers
    os.killpg(driver.pid, signal.SIGINT)
    output = driver.communicate()[0]
    assert driver.returncode == 130, output
    assert "stopping: each running job writes its checkpoint" in output
    assert "3 jobs: 2 stopped, 1 missing" in output and "continue with: " in output
    stopped = [f for f in jobs(root).values() if run_state(f) == RunState.STOPPED]
    assert len(stopped) == 2 and all(
        "stopped by SIG" in (f / "run.log").read_text() for f in stopped
    )
