"""What Hydra and the shell bring along: folders that hold something, settings, variables."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from worldflux.cli.main import main
from worldflux.run_folder.manifest import SCHEMA, write_manifest
from worldflux.run_folder.state import claim

DATED = "hydra.run.dir=runs/${now:%Y}"  # the same folder for all runs of a test


@contextmanager
def written_by_another_process(folder: Path) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    claimed, end = context.Event(), context.Event()

    def hold() -> None:
        with claim(folder):
            claimed.set()
            end.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert claimed.wait(60)
    try:
        yield
    finally:
        end.set()
        process.join()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_refused_command_leaves_the_folder_of_a_running_run(
    jobs: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["hydra.run.dir=x", "training.seed=1"]) == 0
    before = contents(folder / "x")
    assert any(name.startswith(".hydra") for name in before) and "run.log" in before
    with written_by_another_process(folder / "x"):
        assert main(["hydra.run.dir=x", "training.seed=7"]) == 2
    assert "is being written by process" in capfd.readouterr().err
    assert contents(folder / "x") == before and len(jobs) == 1


def test_runs_of_one_second_have_a_folder_each(jobs: list[Any], folder: Path) -> None:
    with written_by_another_process(folder / "runs" / "busy"):
        assert main([DATED, "training.seed=1"]) == 0
    with written_by_another_process(jobs[0][1]):
        assert main([DATED, "training.seed=2"]) == 0
    assert main([DATED, "training.seed=3"]) == 0
    first, second, third = (run_dir for _, run_dir in jobs)
    assert (second.name, third.name) == (f"{first.name}_1", f"{first.name}_2")
    for config, run_dir in jobs:
        saved = (run_dir / ".hydra" / "config.yaml").read_text()
        assert f"seed: {config.training.seed}\n" in saved


def test_an_earlier_run_of_the_folder_moves_aside_whole(jobs: list[Any], folder: Path) -> None:
    assert main(["hydra.run.dir=x", "training.seed=1"]) == 0
    write_manifest(folder / "x", {"schema_version": SCHEMA, "status": "completed"})
    before = contents(folder / "x")
    assert main(["hydra.run.dir=x", "training.seed=2"]) == 0
    (earlier,) = (folder / "x" / "previous").iterdir()
    assert contents(earlier) == before
    assert "seed: 2\n" in (folder / "x" / ".hydra" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["checkpoints", "report", "videos", "replay", "pictures"])
def test_a_persons_folders_of_these_names_stay(
    refused: Callable[..., str], folder: Path, name: str
) -> None:
    (folder / name).mkdir()
    (folder / name / "mine.txt").write_text("mine")
    line = refused("hydra.run.dir=.")
    assert line.startswith(f"{name} is there already and is not of a run: set hydra.run.dir")


def test_a_job_that_changes_its_folder_reads_paths_as_they_were_typed(
    jobs: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldflux.runner.job.check_run", lambda config, parts: None)
    monkeypatch.setattr("worldflux.cli.main.check_trainable", lambda configs: None)
    words = ["hydra.job.chdir=true", "init_from=runs/a"]
    assert main([*words, "hydra.run.dir=x"]) == 0
    assert main(["-m", "sweep=s", *words]) == 0
    assert [config.init_from for config, _ in jobs] == [str(folder / "runs/a")] * 2
    assert Path.cwd() == folder


ENVIRONMENT = """
import os
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

def made():
    if os.environ.get("BORDER_LEVEL") != "3":
        raise ValueError("no level")
    return CartPoleEnv()

gymnasium.register("Border-v0", made, max_episode_steps=100)
"""


def test_variables_that_hydra_sets_are_there_when_the_environment_is_checked(
    jobs: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "border_env.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(folder)
    words = ["env=gym", "env.id=Border-v0", "env.import=border_env", "env.terminates=true"]
    words += ["model/size=ci", "+hydra.job.env_set.BORDER_LEVEL='3'"]
    assert main([*words]) == 0
    assert main(["-m", "sweep=s", *words]) == 0
    assert len(jobs) == 2
