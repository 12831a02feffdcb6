"""What Hydra and the shell bring along: folders that hold something, settings, variables."""

from __future__ import annotations

import multiprocessing
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from worldflux.cli.main import main
from worldflux.run_folder.manifest import SCHEMA, write_manifest
from worldflux.run_folder.state import claim
from worldflux.runner.parts import Parts

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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("env=5", "env must name an option, not 5"),
        ("+experiment=5", "experiment must name an option, not 5"),
        ("experiment=null", "experiment must name an option, not null"),
        ("hydra/launcher=5", "hydra/launcher must name an option, not 5"),
        ("=5", "=5 names no key"),
        ("hydra.sweeper.params={training.seed:5}", "hydra.sweeper.params is for YAML files"),
        ("dashboard=true", "dashboard must name an option, not true"),
        ("logger=[1]", r"logger must name an option, not \[1\]"),
        ("-m training.seed=range(0)", r"training.seed=range\(0\) has no values"),
        ("-m env=glob(zz*)", r"env=glob\(zz\*\) has no values"),
        ("hydra.run.dir=", "hydra.run.dir must name a folder"),
        ("hydra.run.dir='~/runs'", "hydra.run.dir begins with ~"),
        ("-m hydra.sweep.dir=", "hydra.sweep.dir must name a folder"),
        ("-m hydra.sweep.subdir=x", "hydra.sweep.subdir: the overrides of a job determine"),
        ("--resolve", "--resolve is for --cfg job"),
        ("--package env", "--package is for --cfg job"),
        ("--config-path nowhere", "--config-path nowhere is no folder"),
        ("--experimental-rerun x.pickle", "a pickle is never loaded"),
    ],
)
def test_settings_that_are_refused(refused: Callable[..., str], words: str, line: str) -> None:
    assert re.search(line, refused(*words.split()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "disabled", "none", "stdout"])
def test_hydras_own_ways_of_logging_work(jobs: list[Any], folder: Path, name: str) -> None:
    assert main([f"hydra/job_logging={name}", "hydra.run.dir=x"]) == 0
    assert main(["-m", f"hydra/job_logging={name}", "sweep=s"]) == 0
    assert len(jobs) == 2 and not (folder / "x" / "run.log").exists()


def test_a_mode_in_a_file_is_refused(
    refused: Callable[..., str], recipe: Callable[..., None]
) -> None:
    recipe("hydra:\n  mode: MULTIRUN\n")
    assert "-m starts a sweep" in refused("--config-dir", "mine", "+experiment=own")


@pytest.fixture
def recipe(folder: Path) -> Callable[..., None]:
    """Writes the recipe `own` into the folder `mine`."""

    def write(text: str) -> None:
        place = folder / "mine" / "experiment"
        place.mkdir(parents=True, exist_ok=True)
        (place / "own.yaml").write_text(f"# @package _global_\n{text}")

    return write


def test_a_file_names_the_folder_of_a_sweep(
    jobs: list[Any], folder: Path, recipe: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "--config-dir", "mine", "+experiment=own"]
    recipe("hydra:\n  sweep:\n    dir: sweeps/${now:%f}\n")
    assert main(words) == 0
    (root,) = (folder / "sweeps").iterdir()
    assert jobs[0][1].parent == root
    printed = re.search("continue it with: worldflux-run (.*)", capfd.readouterr().out)
    assert printed is not None
    again = shlex.split(printed[1])
    assert f"hydra.sweep.dir='sweeps/{root.name}'" in again
    assert main([*again, "sweep.dry_run=true"]) == 0
    assert list((folder / "sweeps").iterdir()) == [root]
    assert main([*words, "sweep=s"]) == 0
    assert jobs[-1][1].parent == folder / "outputs" / "multirun" / "s"
    recipe("hydra:\n  sweep:\n    subdir: x\n")
    assert main(words) == 2


def test_a_persons_primary_configuration_and_flags_anywhere(jobs: list[Any], folder: Path) -> None:
    (folder / "mine").mkdir()
    text = "defaults:\n  - config\n  - override model/size: ci\n  - _self_\ntraining:\n  seed: 13\n"
    (folder / "mine" / "own.yaml").write_text(text)
    words = ["training.batch_size=3", "--config-dir", "mine", "env=pendulum", "-cn", "own"]
    assert main([*words, "hydra.run.dir=x"]) == 0
    assert main([*words, "-m", "sweep=s"]) == 0
    assert main(["--config-path", "x/.hydra", "training.device=cpu"]) == 0
    for config, _ in jobs:
        assert (config.training.seed, config.training.batch_size) == (13, 3)
        assert config.model.model_name == "ci"
    assert main(["--config-path", "x/.hydra", "--cfg", "job"]) == 0


def test_names_that_are_too_long(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = "o" * 300
    for words in ([f"hydra.run.dir={long}"], ["-m", f"sweep={long}"], [f"resume={long}"]):
        assert main(["model/size=ci", *words]) == 2
        err = capfd.readouterr().err
        assert "File name too long" in err and err.count("\n") == 1 and len(err) < 800


def test_a_folder_whose_name_is_not_utf8(
    refused: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hydra.run.dir must be a path in UTF-8" in refused("hydra.run.dir='a\udcff'")
    odd = folder / "b\udcff"
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert "hydra.run.dir must be a path in UTF-8" in refused("hydra.run.dir=x")
    assert list(odd.iterdir()) == []


def test_a_file_that_is_not_utf8_is_named(
    refused: Callable[..., str], folder: Path, recipe: Callable[..., None]
) -> None:
    recipe("")
    file = folder / "mine" / "experiment" / "own.yaml"
    file.write_bytes("# größe\n".encode("latin-1"))
    line = refused("--config-dir", "mine", "+experiment=own")
    assert line.startswith(f"{file} is not UTF-8")


def test_torchrun_is_refused(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for words in ([], ["-m", "training.seed=1,2"], ["training.nproc=2"]):
        assert "without torchrun; training.nproc=N" in refused(*words)


def test_folders_of_any_name(
    jobs: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Callable[..., None]
) -> None:
    odd = folder / "Bob's runs, 100% (ü) a=b [1]"
    odd.mkdir()
    monkeypatch.chdir(odd)
    place = odd / "mine" / "experiment"
    place.mkdir(parents=True)
    (place / "own.yaml").write_text("# @package _global_\ntraining:\n  seed: 3\n")
    words = ["model/size=ci", "--config-dir", "mine", "+experiment=own"]
    assert main(words) == 0 == main(["-m", "sweep=s", *words])
    monkeypatch.setattr("worldflux.runner.job.check_run", lambda config, parts: None)
    run = jobs[1][1].relative_to(odd)
    assert "," in str(run) and "=" in str(run)
    assert main([f"init_from={run}"]) == 0
    assert [config.training.seed for config, _ in jobs[:2]] == [3, 3]
    assert jobs[2][0].init_from == str(run)
    assert Parts().continuation(run) == shlex.join(["worldflux-run", f"resume={run}"])


def test_a_recipe_that_an_editor_of_windows_wrote(
    jobs: list[Any], folder: Path, recipe: Callable[..., None]
) -> None:
    recipe("")
    text = "# @package _global_\r\n# größe\r\ntraining:\r\n  seed: 77\r\n"
    (folder / "mine" / "experiment" / "own.yaml").write_bytes(text.encode("utf-8-sig"))
    assert main(["--config-dir", "mine", "+experiment=own"]) == 0
    assert jobs[0][0].training.seed == 77
    assert main(["--config-dir", "mine", "+experiment=own", "--cfg", "job"]) == 0


def test_a_file_that_repeats_itself_without_end_is_named(
    refused: Callable[..., str], folder: Path, recipe: Callable[..., None]
) -> None:
    recipe("")
    laugh = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]\n" for i in range(1, 4)
    )
    for file, words in (
        (folder / "mine" / "experiment" / "own.yaml", ["+experiment=own"]),
        (folder / "mine" / "laugh.yaml", ["--config-name", "laugh"]),
    ):
        file.write_text(laugh)
        line = refused("--config-dir", "mine", *words)
        assert line.startswith(f"{file}: it has more than 16 aliases")
