"""`worldflux report`, and the numbers it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import TINY
from worldflux.cli import report
from worldflux.cli.main import main
from worldflux.report.returns import band


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*words: str) -> dict[str, Any]:
        capfd.readouterr()
        assert report.main([*words, "--format", "json"]) == 0
        return dict(json.loads(capfd.readouterr().out))

    return run


def test_groups_and_strata(started: list[Any], told: Callable[..., dict[str, Any]]) -> None:
    words = ["-m", "sweep=a", "model=dreamerv3,tdmpc2", "training.seed=range(4)"]
    assert main([*words, "env.action_repeat=1,2"]) == 0
    groups = told("a")["groups"]
    assert [group["score"] for group in groups] == [16, 16, 1016, 1016]
    by_model = told("outputs/multirun/a", "--by", "model")["groups"]
    # Two strata of the scores 1, 11, 21, 31 each: the mean of their interquartile means.
    assert [(group["score"], len(group["jobs"])) for group in by_model] == [(16, 8), (1016, 8)]
    # Drawn within each stratum: both intervals are narrower than that of four runs.
    low, high = by_model[0]["interval"]
    assert groups[0]["interval"] == [1, 31] and 1 < low < 16 < high < 31
    nothing = told("a", "--by", "env.action_repeat")["groups"]
    assert [group["score"] for group in nothing] == [516, 516]


def test_a_band_covers_what_all_runs_have_reached() -> None:
    up = np.array([[0.0, 0.0], [10.0, 10.0], [20.0, 20.0]])
    flat = np.array([[5.0, 4.0], [15.0, 4.0]])
    found = band([up, flat])
    assert found[:, 0].tolist() == [5, 10, 15]
    assert found[:, 1].tolist() == [4.5, 7.0, 9.5]
    assert found[0, 2:].tolist() == [4, 5] and found[2, 2:].tolist() == [4, 15]
    assert band([up, np.array([[30.0, 1.0]])]).shape == (0, 4)


def test_a_single_run(
    folder: Path, told: Callable[..., dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(TINY) == 0
    (run_dir,) = (folder / "outputs").glob("*/*")
    (run_dir / "report" / "learning_curve.png").unlink()
    found = told(str(run_dir))
    assert (found["state"], found["updates"], found["env"]) == ("completed", 2, "CartPole-v1")
    assert found["files"] == [str(run_dir / "report" / "learning_curve.png")]
    assert (run_dir / "report" / "learning_curve.png").exists()
    assert report.main([str(run_dir)]) == 0
    assert re.search(r"completed, 2 of 2 updates.*\nevaluation return", capfd.readouterr().out)
    assert report.main([str(run_dir), "--by", "model"]) == 2
    picture = run_dir / "report" / "learning_curve.png"
    picture.unlink()
    picture.mkdir()
    capfd.readouterr()
    assert report.main([str(run_dir)]) == 2
    err = capfd.readouterr().err
    assert f"cannot write {picture}: Is a directory" in err and err.count("\n") == 1
    left = {path.name for path in picture.parent.iterdir()}
    assert left == {"learning_curve.png", "report.html"}


REFUSED = {
    "nowhere": "no run or sweep at nowhere; sweeps in outputs/multirun: a",
    "outputs": "outputs is neither a run .* nor a sweep",
    "a --by modl": "no job of .* sets 'modl'; they set training.seed",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: str, started: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "sweep=a", "training.seed=1"]) == 0
    capfd.readouterr()
    assert report.main(line.split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and re.search(REFUSED[line], err)
