"""What a sweep starts, skips and refuses, seen from the command line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.conftest import end
from worldflux.cli.main import main
from worldflux.errors import TrainingError
from worldflux.run_folder.manifest import plain
from worldflux.run_folder.state import claim

FAMILIES = ["-m", "sweep=a", "model=dreamerv3,tdmpc2", "training.seed=range(2)"]


def test_a_jobs_folder_follows_from_its_overrides_and_completed_jobs_are_skipped(
    started: list[Any], names: Callable[[str], set[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(FAMILIES) == 0
    first = {
        f"model={family},training.seed={seed}"
        for family in ("dreamerv3", "tdmpc2")
        for seed in (0, 1)
    }
    assert names("a") == first and len(started) == 4
    # Neither the order of the overrides, nor how a value is written, nor the machine matters.
    again = ["training.seed=1,0", "training.device=cpu", "model=tdmpc2,dreamerv3", "sweep=a", "-m"]
    assert main(again) == 0
    assert len(started) == 4 and names("a") == first
    assert "4 jobs: 4 completed" in capfd.readouterr().out
    # More seeds, and another fixed override, are other jobs of the same sweep.
    assert main([*FAMILIES[:3], "training.seed=range(3)"]) == 0
    assert len(started) == 6
    assert main([*FAMILIES, "training.total_steps=7"]) == 0
    assert len(started) == 10
    assert sum("training.total_steps=7" in name for name in names("a")) == 4
    assert names("a") > first


def test_folder_names_are_short_safe_and_different(
    started: list[Any], names: Callable[[str], set[str]], folder: Path
) -> None:
    long = ["env.kwargs={}", "training.total_steps=20_000", "training.learning_rate=1e-4"]
    long += ["training.sequence_length=16", "data.prefill_steps=40", "env.import=math,os.path"]
    assert main(["-m", "sweep=long", *long]) == 0
    assert main(["-m", "sweep=long", "env.name=a/b,a-b"]) == 2
    assert main(["-m", "sweep=long", "model/size=ci", "training.output_dir=./outputs"]) == 0
    found = names("long")
    assert len(found) == 3 and "model.size=ci" in found
    assert all(re.fullmatch(r"[\w.,=+-]{1,100}", name) for name in found)
    assert main(["-m", "sweep=none"]) == 0
    assert names("none") == {"defaults"}


def test_a_job_is_one_run_that_the_other_commands_take(
    started: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "sweep=a", "training.seed=3", "model/size=ci"]) == 0
    ((config, run_dir),) = started
    assert (config.training.seed, config.model.model_name, config.resume) == (3, "ci", None)
    assert run_dir == folder / "outputs/multirun/a/model.size=ci,training.seed=3"
    assert "training.seed=3" in (run_dir / ".hydra" / "overrides.yaml").read_text()
    # The name has an equals sign and a comma, and is taken as it is.
    assert main([f"resume={run_dir.relative_to(folder)}", "training.total_steps=9"]) == 2
    assert "training.seed=3 has no checkpoint yet" in capfd.readouterr().err


def test_a_sweeps_name_is_the_group_of_its_runs(
    started: list[Any],
    folder: Path,
) -> None:
    assert main(["-m", "sweep=s", "training.seed=0,1"]) == 0
    assert main(["-m", "hydra.sweep.dir=else/where", "training.seed=0"]) == 0
    assert main(["-m", "sweep=t", "run.group=mine", "training.seed=0"]) == 0
    assert [config.run.group for config, _ in started] == ["s", "s", "where", "mine"]


def test_a_dry_run_lists_the_jobs_and_writes_nothing(
    started: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FAMILIES, "sweep.dry_run=true"]) == 0
    out = capfd.readouterr().out
    assert "4 jobs: 4 missing" in out and out.count(" missing  ") == 4
    assert not started and not any(folder.iterdir())
    assert main(FAMILIES[:3]) == 0
    capfd.readouterr()
    assert main(["-m", "model=glob(*mpc2)", "sweep.dry_run=true"]) == 0
    assert "all with model=tdmpc2" in capfd.readouterr().out
    before = sorted(folder.rglob("*"))
    assert main([*FAMILIES, "sweep.dry_run=true"]) == 0
    assert sorted(folder.rglob("*")) == before and len(started) == 2
    assert "4 jobs: 4 missing" in capfd.readouterr().out, "without a seed it is another job"


def test_every_state_and_what_happens_to_it(
    started: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder / "outputs" / "multirun" / "a"
    for seed, status in enumerate(["completed", "stopped", "failed", "running"]):
        end(root / f"training.seed={seed}", status, 5.0, error="TrainingError: odd")
    words = ["-m", "sweep=a", "training.seed=range(6)"]
    with claim(root / "training.seed=4"):
        assert main([*words, "sweep.dry_run=true"]) == 0
        out = capfd.readouterr().out
        states = "1 completed, 1 running, 1 stopped, 1 broken-off, 1 failed, 1 missing"
        assert f"6 jobs: {states}" in out
        assert main(words) == 0
    assert sorted(config.training.seed for config, _ in started) == [1, 2, 3, 5]
    assert "6 jobs: 5 completed, 1 missing" not in capfd.readouterr().out


def test_a_failed_job_stops_no_other_and_the_table_tells_why(
    started: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from worldflux.runner import run as runner

    good = runner.run

    def run(config: Any, run_dir: Path) -> float:
        if config.training.seed == 0:
            raise TrainingError("loss 'rew' is not finite\nat update 7")
        if config.training.seed == 1:
            return {}["a bug"]
        return good(config, run_dir)

    monkeypatch.setattr("worldflux.runner.run.run", run)
    assert main(FAMILIES[:2] + ["training.seed=range(3)"]) == 1
    out = capfd.readouterr().out
    assert "3 jobs: 1 completed, 2 failed" in out
    assert re.search(r"seed=0 +failed .*TrainingError: loss 'rew' is not finite at update 7", out)
    assert re.search(r"seed=1 +failed .*KeyError: 'a bug'", out)
    assert "continue with: worldflux-run -m sweep=a 'training.seed=range(3)'" in out
    root = folder / "outputs" / "multirun" / "a"
    assert "Traceback" in (root / "training.seed=1" / "run.log").read_text()
    assert "Traceback" not in (root / "training.seed=0" / "run.log").read_text()
    monkeypatch.setattr("worldflux.runner.run.run", good)
    assert main(FAMILIES[:2] + ["training.seed=range(3)"]) == 0
    assert "3 jobs: 3 completed" in capfd.readouterr().out


def test_ctrl_c_tells_how_to_continue(
    started: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from worldflux.runner import run as runner

    good = runner.run

    def run(config: Any, run_dir: Path) -> float:
        if config.training.seed == 1:
            end(run_dir, "stopped", None)
            raise KeyboardInterrupt
        return good(config, run_dir)

    monkeypatch.setattr("worldflux.runner.run.run", run)
    assert main(["-m", "training.seed=range(3)"]) == 130
    out, err = capfd.readouterr()
    assert err == "worldflux-run: interrupted\n"
    assert "3 jobs: 1 completed, 1 stopped, 1 missing" in out
    # No name was given: the one that was made is told, with the command that continues.
    (name,) = {path.name for path in (folder / "outputs" / "multirun").iterdir()}
    command = f"worldflux-run -m sweep={name} 'training.seed=range(3)'"
    assert f"continue it with: {command}" in out and f"continue with: {command}" in out
    monkeypatch.setattr("worldflux.runner.run.run", good)
    assert main(["-m", f"sweep={name}", "training.seed=range(3)"]) == 0
    assert [config.training.seed for config, _ in started] == [0, 1, 2]


def test_the_result_table_and_its_files(
    started: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FAMILIES[:3], "training.seed=range(4)", "training.total_steps=7"]) == 0
    out = capfd.readouterr().out
    # Scores 1, 11, 21, 31: the middle half is 11 and 21.
    assert re.search(r"model=dreamerv3 +4/4 +16 +1 to 31", out)
    assert re.search(r"model=tdmpc2 +4/4 +1016 +1001 to 1031", out)
    assert "all with training.total_steps=7" in out
    root = folder / "outputs" / "multirun" / "a"
    with open(root / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1]["model"] == "dreamerv3" and rows[1]["training.seed"] == "1"
    assert (rows[1]["state"], rows[1]["score"], rows[1]["updates"]) == ("completed", "11", "3")
    picture = (root / "report" / "learning_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


REFUSED = {
    "-m sweep.dryrun=true": "unknown key 'sweep.dryrun'.*'dry_run'",
    "-m sweep.workers=2": "unknown key 'sweep.workers'; there are sweep=NAME",
    "-m sweep.dry_run=maybe": "sweep.dry_run must be true or false, got 'maybe'",
    "-m sweep=a/b": "sweep must be a name",
    "-m sweep=a,b": "sweep must be a name",
    "-m +sweep=a": "without '\\+'",
    "-m sweep=a sweep=b": "sweep is given twice",
    "sweep=a training.seed=1": "add -m",
    "-m sweep=a hydra.sweep.dir=x": "both name the sweep's folder",
    "-m hydra.sweep.subdir=x": "determine its folder",
    "-m training.device=cpu,cuda": "training.device cannot be swept",
    "-m training.seed=1,1": "two jobs of the sweep are the same: training.seed=1",
    "-m training.batch_size=4,0": "job training.batch_size=0: training.batch_size must be >= 1",
    "-m training.stepz=1 training.seed=1,2": "^unknown key 'training.stepz'",
    "-m model=dreamerv3,tdmpc2 model.num_elites=8": "job model=dreamerv3: .*tdmpc2",
    "-m model=tdmpc2,dreamerv3 model.num_elites=8": "job model=dreamerv3: .*tdmpc2",
    "-m hydra/launcher=ray": "not installed: pip install 'worldflux\\[ray\\]'",
    "-m hydra/launcher=joblib hydra.launcher.n_jobs=0": "hydra.launcher.n_jobs must be at least 1",
    "-m model=dreamerv3,tdmpc2 model/size=size12m": "job model=tdmpc2: .*size12m",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_before_anything_is_written(line: str, refused: Callable[..., str]) -> None:
    assert re.search(REFUSED[line], refused(*line.split()))


def test_a_record_that_cannot_be_read_is_told(
    started: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder / "outputs" / "multirun" / "a"
    root.mkdir(parents=True)
    (root / "sweep.json").write_text("{")
    assert main(["-m", "sweep=a"]) == 2
    assert "cannot read" in capfd.readouterr().err and not started


def test_a_job_whose_process_ends_before_its_run_begins_has_failed(
    started: list[Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldflux.sweep.launch.train_job", lambda cfg: "missing")
    assert main(["-m", "sweep=lost", "model/size=ci", "training.seed=1,2"]) == 1
    out = capfd.readouterr().out
    assert len(re.findall(r"failed .* its process ended early", out)) == 2 and not started


@pytest.fixture
def recorded(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`started`, whose jobs record their configuration as the trainer does."""

    def run(config: Any, run_dir: Path) -> float:
        started.append((config, run_dir))
        end(run_dir, "completed", 1.0, config=plain(config), model_config=plain(config.model))
        return 1.0

    monkeypatch.setattr("worldflux.runner.run.run", run)
    return started


def test_a_job_is_what_its_overrides_resolve_to(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "sweep=a", "model/size=ci", "training.total_steps=${oc.env:BORDER_STEPS}"]
    monkeypatch.setenv("BORDER_STEPS", "20")
    assert main(words) == 0 == main([*words, "training.device=cpu"])
    assert len(recorded) == 1
    capfd.readouterr()
    monkeypatch.setenv("BORDER_STEPS", "30")
    assert main(words) == 2
    err = capfd.readouterr().err
    assert "training.total_steps is 20 in outputs/multirun/a/" in err and "and 30 now" in err
    assert len(recorded) == 1
    # What follows from the clock or from Hydra is no other job.
    words = ["-m", "sweep=b", "model/size=ci", "+env.kwargs.place='${now:%f}/${hydra:job.num}'"]
    monkeypatch.setattr("worldflux.cli.main.check_trainable", lambda configs: None)
    assert main(words) == 0 == main(words)
    assert len(recorded) == 2


def test_an_edited_recipe_or_another_folder_of_recipes_is_another_job(
    recorded: list[Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, steps in (("a", 3), ("b", 5)):
        (folder / name / "experiment").mkdir(parents=True)
        recipe = f"# @package _global_\ntraining:\n  batch_size: {steps}\n"
        (folder / name / "experiment" / "mine.yaml").write_text(recipe)
    words = ["-m", "sweep=a", "model/size=ci", "+experiment=mine", "--config-dir"]
    assert main([*words, "a"]) == 0 == main([*words, "a"])
    assert main([*words, "b"]) == 2
    assert "training.batch_size is 3 in " in capfd.readouterr().err
    (folder / "a" / "experiment" / "mine.yaml").write_text("# @package _global_\n")
    assert main([*words, "a"]) == 2
    assert "training.batch_size is 3 in " in capfd.readouterr().err
    assert len(recorded) == 1
