"""`worldflux search`: what it starts, what it keeps, and how it goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.cli.conftest import TINY
from worldflux.cli.search import main
from worldflux.config.composition import composed
from worldflux.config.overrides import quoted
from worldflux.run_folder.manifest import read_manifest
from worldflux.search import trial as trials

optuna = pytest.importorskip("optuna", reason="needs the extra optuna")

STAND_IN = [sys.executable, str(Path(__file__).with_name("run.py"))]
RATE = "training.learning_rate=tag(log,interval(1e-6,1e-2))"
Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty working directory, where runs are the stand-in's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "RUN", STAND_IN)
    monkeypatch.setattr(trials, "POLL_SECONDS", 0.02)
    yield tmp_path
    GlobalHydra.instance().clear()


def rows(folder: Path, name: str = "s") -> list[dict[str, str]]:
    with open(folder / "outputs" / "search" / name / "trials.csv") as file:
        return list(csv.DictReader(file))


def starts(folder: Path, name: str = "s") -> list[list[str]]:
    """Of every trial where its starts began."""
    found = sorted((folder / "outputs" / "search" / name).glob("trial_*/starts"))
    return [[line.split()[1] for line in path.read_text().splitlines()] for path in found]


@pytest.fixture
def searcher(folder: Path) -> Any:
    """Starts `worldflux search` in a process of its own."""
    code = (
        "import sys; from worldflux.search import trial; from worldflux.cli.search import main;"
        f"trial.RUN = {STAND_IN!r}; trial.POLL_SECONDS = 0.02; sys.exit(main(sys.argv[1:]))"
    )
    running: list[subprocess.Popen[str]] = []

    def start(*words: str, step_seconds: float = 0.01) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        env["STEP_SECONDS"] = str(step_seconds)
        command = [sys.executable, "-c", code, *words]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(subprocess.Popen(command, cwd=folder, env=env, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.slow(15)
def test_a_real_search_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["s", "--space", "none", RATE, *TINY, "training.eval_interval=1"]
    assert main([*words, "--trials", "1"]) == 0
    first = tmp_path / "outputs" / "search" / "s" / "trial_00000"
    before = (first / "metrics.jsonl").read_bytes()
    assert main([*words, "--trials", "2"]) == 0
    found = rows(tmp_path)
    assert [row["state"] for row in found] == ["complete", "complete"]
    assert (first / "metrics.jsonl").read_bytes() == before
    # The first trial is the recipe itself.
    assert float(found[0]["training.learning_rate"]) == 1e-3
    for row in found:
        manifest = read_manifest(first.parent / row["folder"])
        assert manifest["status"] == "completed"
        assert manifest["scores"]["last"] == float(row["score"])
        rate = manifest["config"]["training"]["learning_rate"]
        assert rate == float(row["training.learning_rate"])
    best = max(found, key=lambda row: float(row["score"]))
    command = shlex.split(capfd.readouterr().out.splitlines()[-1])
    assert command[:1] == ["worldflux-run"] and set(TINY) <= set(command)
    assert f"training.learning_rate={best['training.learning_rate']}" in command


@pytest.mark.slow(10)
def test_a_killed_search_continues_its_trial(folder: Path, searcher: Started) -> None:
    words = ["s", "--space", "none", RATE, "--trials", "2"]
    killed = searcher(*words, step_seconds=2.0)
    wait_for(folder / "outputs" / "search" / "s" / "trial_00000" / "metrics.jsonl")
    killed.kill()
    killed.wait()
    assert main(words) == 0
    assert [row["state"] for row in rows(folder)] == ["complete", "complete"]
    first, second = starts(folder)
    assert second == ["0"]
    assert len(first) == 2 and first[0] == "0" and int(first[1]) > 0, "it began from nothing again"


@pytest.mark.slow(10)
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_the_trial_to_the_next_command(folder: Path, searcher: Started) -> None:
    words = ["s", "--space", "none", RATE, "--trials", "1"]
    stopped = searcher(*words, step_seconds=2.0)
    wait_for(folder / "outputs" / "search" / "s" / "trial_00000" / "metrics.jsonl")
    stopped.send_signal(signal.SIGINT)
    out, _ = stopped.communicate(timeout=240)
    assert stopped.returncode == 130
    assert f"continue with: worldflux search s --trials 1 --space none '{RATE}'" in out
    assert [row["state"] for row in rows(folder)] == ["running"]
    assert main(words) == 0
    assert [row["state"] for row in rows(folder)] == ["complete"]


@pytest.mark.slow(10)
def test_several_searchers_share_a_study(folder: Path, searcher: Started) -> None:
    words = ["s", "--space", "none", RATE, "--trials", "7"]
    both = [searcher(*words, step_seconds=0.02) for _ in range(2)]
    for process in both:
        assert process.wait(300) == 0, process.communicate()
    found = rows(folder)
    assert [int(row["trial"]) for row in found] == list(range(7))
    assert {row["state"] for row in found} <= {"complete", "pruned"}
    assert starts(folder) == [["0"]] * 7, "a trial was run twice"
    assert len({row["training.learning_rate"] for row in found}) == 7


@pytest.mark.slow(15)
def test_bad_trials_are_pruned_and_failed_ones_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEP_SECONDS", "0.2")  # time to look between two evaluations
    words = ["s", "--space", "none", "training.learning_rate=tag(log,interval(1e-6,1.0))"]
    assert main([*words, "--trials", "14", "--seed", "3"]) == 0
    found = rows(folder)
    states = {row["state"] for row in found}
    assert states == {"complete", "pruned", "fail"}
    for row in found:
        rate = float(row["training.learning_rate"])
        assert (row["state"] == "fail") == (rate > 1e-2)
        if row["state"] == "fail":
            assert row["reason"] == "TrainingError: loss/dyn is not finite at update 3"
        if row["state"] == "pruned":
            manifest = read_manifest(folder / "outputs" / "search" / "s" / row["folder"])
            assert manifest["status"] in ("stopped", "completed") and row["newest_evaluation"]
    scores = [float(row["score"]) for row in found if row["score"]]
    assert f"score {max(scores):.4g}; train it with" in capfd.readouterr().out


def test_a_search_without_a_result_says_so(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["s", "--space", "none", "training.learning_rate=interval(0.1,0.2)", "--trials", "2"]
    assert main(words) == 1
    assert {row["state"] for row in rows(folder)} == {"fail"}
    assert "no trial was completed" in capfd.readouterr().out


@pytest.mark.slow
def test_a_broken_off_search_draws_nothing_again(folder: Path) -> None:
    words = ["--space", "none", RATE, "--sampler", "random", "--pruner", "none"]
    assert main(["whole", *words, "--trials", "4"]) == 0
    for wanted in ("1", "3", "4"):
        assert main(["parts", *words, "--trials", wanted]) == 0
    key = "training.learning_rate"
    assert [r[key] for r in rows(folder, "whole")] == [r[key] for r in rows(folder, "parts")]


WORDS = ("null", "1", "c,d", "x=1", "a b", "it's", "true", "plain")


@pytest.mark.slow(8)
def test_choices_reach_the_run_as_they_were_written(folder: Path) -> None:
    choices = ",".join(quoted(word) for word in WORDS)
    words = ["s", "--space", "none", "training.learning_rate=1e-4,1e-3"]
    words += [f"+env.kwargs.word={choices}", "--sampler", "random", "--pruner", "none"]
    assert main([*words, "--trials", "5"]) == 0
    assert main([*words, "--trials", "8"]) == 0, "a search of choices goes on"
    trials = rows(folder)
    for row in trials:
        run = folder / "outputs" / "search" / "s" / row["folder"]
        config = composed(
            [w for w in json.loads((run / "words.json").read_text()) if w[:3] != "res"]
        )
        assert config.env.kwargs["word"] == row["env.kwargs.word"]
        assert config.training.learning_rate == float(row["training.learning_rate"])
    assert len({row["env.kwargs.word"] for row in trials}) > 2


def test_a_space_of_a_file_is_checked(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = {
        "{low: 1e-4, high: 1}": "low must be a number, got '1e-4'",
        "{low: [1], high: 2}": "low must be a number, got [1]",
        "{low: 0.0, high: 1.0, log: true}": "low",
        "{low: 0.0, high: 1.0, step: -1}": "step",
        "{low: 0.1, high: 1.0, log: true, step: 0.1}": "step",
        "{low: 1.0}": "low and high, or choices, must be given",
        "{low: 1.0, choices: [1, 2]}": "either choices, or low and high",
        "{choices: [[1], [2]]}": "choices are numbers, words",
        "3": "expected a mapping of low, high",
    }
    for fields, line in lines.items():
        (folder / "space.yaml").write_text(f"training.learning_rate: {fields}")
        assert main(["s", "--space", "space.yaml"]) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and line in err, err
        assert err.startswith("worldflux search: error: space.yaml: training.learning_rate")


@pytest.mark.parametrize("storage", ["journal:log/study.log", "sqlite:///own.db"])
def test_another_storage(folder: Path, storage: str) -> None:
    words = ["s", "--space", "none", RATE, "--storage", storage]
    assert main([*words, "--trials", "1"]) == 0
    assert main([*words, "--trials", "2"]) == 0
    assert len(rows(folder)) == 2
    assert not (folder / "outputs" / "search" / "s" / "study.db").exists()


def test_a_dry_run_shows_everything_and_writes_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["s", "model=tdmpc2", "model.rho=0.5", "training.seed=range(1,4)", "--dry-run"]
    assert main(words) == 0
    out = capfd.readouterr().out
    assert list(folder.iterdir()) == []
    assert "model.entropy_coef" in out and "model.rho " not in out
    assert re.search(r"training\.seed +1 to 3 \(whole\)", out)
    assert "20 of 20 trials to begin, each with model=tdmpc2 model.rho=0.5" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["s", "training.learning_rat=1,2"], "learning_rate"),
        (
            ["s", "training.batch_size=interval(0,8)"],
            "training.batch_size=0.0: training.batch_size",
        ),
        (["s", "training.batch_size=range(0,9)"], "training.batch_size must be >= 1"),
        (["s", "training.learning_rate=interval(1e-3,1e-4)"], "low must be below high"),
        (["s", "training.device=cpu,cuda"], "about the machine"),
        (["s", "resume=auto"], "a search decides that itself"),
        (["s", "--space", "none"], "nothing is searched"),
        (["s", "--space", "nowhere.yaml"], "there is no such file"),
        (["s", "--storage", "study.db"], "expected a URL"),
        (["s", "--storage", "sqlite:////nowhere/a.db"], "cannot be opened"),
        (["a/b"], "a name of letters"),
        (["s", "--trials", "0"], "--trials must be at least 1"),
        (["s", "env=gym", "env.id=Nope-v1"], "Nope"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], line: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--space" in words else ["--space", "none"]
    assert (
        main([*words, *own, *([] if "nothing" in line else [RATE][: "rate=" not in words[-1]])])
        == 2
    )
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1, err
    assert err.startswith("worldflux search: error: ") and line in err
    assert not list(folder.glob("outputs/**/*.db"))


def test_another_search_of_the_same_name_is_refused(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["s", "--space", "none", "--trials", "1"]
    assert main([*words, RATE]) == 0
    assert main([*words, RATE, "training.seed=4"]) == 2
    assert "search s exists with no training.seed=4" in capfd.readouterr().err
    assert main([*words, RATE.replace("1e-6", "1e-5")]) == 2
    assert "another range of training.learning_rate" in capfd.readouterr().err


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["s"]) == 2
    assert "pip install 'worldflux[optuna]'" in capfd.readouterr().err


def wait_for(path: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
