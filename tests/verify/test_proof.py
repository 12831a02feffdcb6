"""`worldflux verify --mode proof` against the figures that ship with the package."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from worldflux.cli.verbs import main as worldflux
from worldflux.report.published import TABLE, PublishedTask, published_scores, published_task
from worldflux.run_folder.manifest import SCHEMA

WALKER = PublishedTask("dmc_proprio", "dmc_walker_walk", "dreamerv3")
STEPS = 100_000


def manifest(seed: int, env_steps: int, env: str = "walker-walk", **changes: Any) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA,
        "status": "completed",
        "seed": seed,
        "env_steps": env_steps,
        "env": {"id": env, "suite": "dmc", "action_repeat": 1, "num_envs": 1},
        "config": {"env": {"obs": "vector"}},
        "model_config": {"model_type": "dreamer"},
        "degraded_modes": [],
        **changes,
    }


def make_runs(folder: Path, scores: Sequence[float], **changes: Any) -> list[str]:
    """Runs of `STEPS` environment steps whose last ten training episodes gave these scores."""
    runs = []
    for seed, score in enumerate(scores):
        run = folder / f"seed{seed}"
        run.mkdir(parents=True)
        content = manifest(seed, STEPS + 500, **changes)
        (run / "run_manifest.json").write_text(json.dumps(content))
        points = [(50_000 + 5_000 * i, score + (-1) ** i) for i in range(1, 11)]
        points += [(STEPS + 400, 0.0)]  # later than the figures: does not count
        lines = [
            {"step": at, "env_steps": at, "metrics": {"episode/return": value}}
            for at, value in [(1_000, 3.0), *points]
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.append(str(run))
    return runs


@pytest.fixture
def prove(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def call(*runs: str) -> tuple[int, dict[str, Any]]:
        words = ["verify", "--mode", "proof", "--format", "json", "--target", *runs]
        code = worldflux(words)
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture(scope="module")
def published() -> list[float]:
    with open(TABLE, newline="") as file:
        for row in csv.DictReader(file):
            if row["task"] == WALKER.name and row["suite"] == WALKER.suite:
                if int(row["simulator_steps"]) == STEPS:
                    return [float(word) for word in row["scores"].split()]
    raise AssertionError("the table has no walker-walk at 100,000 steps")


def test_scores_far_above_and_below_are_told(tmp_path, prove, published) -> None:
    above = make_runs(tmp_path / "above", [max(published) + 20 + i for i in range(4)])
    code, result = prove(*above)
    assert (code, result["verdict"]) == (0, "better")
    assert result["simulator_steps"] == STEPS and len(result["runs"]) == 4
    assert result["runs"][1]["score"] == pytest.approx(max(published) + 21)
    below = make_runs(tmp_path / "below", [min(published) - 100 + i for i in range(4)])
    code, result = prove(*below)
    assert (code, result["verdict"]) == (1, "worse")


def test_equal_scores_are_at_par_only_where_seeds_agree(tmp_path, prove, published, capsys) -> None:
    same = make_runs(tmp_path / "same", published)
    _, result = prove(*same)
    low, high = result["difference_interval"]
    assert low <= 0 <= high and result["iqm"] == pytest.approx(result["published_iqm"], abs=1)
    wide = max(-low, high) > 0.05 * result["published_iqm"]
    assert result["verdict"] == ("not enough evidence" if wide else "at par")
    # A margin as wide as the interval makes the same runs equal.
    margin = str(min(0.99, 1.01 * max(-low, high) / result["published_iqm"]))
    words = ["verify", "--mode", "proof", "--margin", margin, "--target", *same]
    assert worldflux(words) == 0
    assert "at par" in capsys.readouterr().out


def test_two_seeds_are_not_enough(tmp_path, prove, published) -> None:
    code, result = prove(*make_runs(tmp_path, [max(published) + 50] * 2))
    assert (code, result["verdict"]) == (1, "not enough evidence")
    assert (
        f"{len(published)} of {len(published)} published seeds are below"
        in result["verdict_reason"]
    )


def test_what_cannot_be_compared_says_why(tmp_path, prove) -> None:
    code, result = prove(*make_runs(tmp_path / "a", [1.0] * 3, env="dog-run"))
    assert code == 1 and "not known" in result["verdict_reason"]
    short = make_runs(tmp_path / "b", [1.0] * 3)
    for run in short:
        path = Path(run) / "run_manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "env_steps": 900}))
    code, result = prove(*short)
    assert code == 1 and "begin at 10,000" in result["verdict_reason"]
    degraded = make_runs(tmp_path / "c", [900.0] * 3, degraded_modes=["random_replay_fallback"])
    code, result = prove(*degraded)
    assert code == 1 and "degraded" in result["verdict_reason"]


def test_mixed_tasks_and_repeated_seeds_are_refused(tmp_path, capsys) -> None:
    one = make_runs(tmp_path / "a", [1.0])
    other = make_runs(tmp_path / "b", [1.0], env="cheetah-run")
    assert worldflux(["verify", "--mode", "proof", "--target", *one, *other]) == 2
    assert "one task" in capsys.readouterr().err
    again = make_runs(tmp_path / "c", [1.0])
    assert worldflux(["verify", "--mode", "proof", "--target", *one, *again]) == 2
    assert "seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "suite", "repeat", "obs", "model", "task"),
    [
        ("walker-walk", "dmc", 1, "vector", "dreamer", WALKER),
        (
            "cup-catch",
            "dmc",
            1,
            "pixels",
            "dreamer",
            PublishedTask("dmc_vision", "dmc_ball_in_cup_catch", "dreamerv3"),
        ),
        (
            "cup-catch",
            "dmc",
            2,
            "vector",
            "tdmpc2",
            PublishedTask("dmcontrol", "cup-catch", "tdmpc2"),
        ),
        (
            "ALE/MsPacman-v5",
            "gym",
            4,
            "pixels",
            "dreamer",
            PublishedTask("atari100k", "atari_ms_pacman", "dreamerv3"),
        ),
        ("ALE/Pong-v5", "gym", 1, "pixels", "dreamer", None),
        ("CartPole-v1", "gym", 1, "vector", "dreamer", None),
    ],
)
def test_runs_are_matched_with_published_names(env, suite, repeat, obs, model, task) -> None:
    content = {
        "env": {"id": env, "suite": suite, "action_repeat": repeat},
        "config": {"env": {"obs": obs}},
        "model_config": {"model_type": model},
    }
    assert published_task(content) == task
    if task is not None:
        figures = published_scores(task)
        assert figures and all(len(at.scores) >= 2 for at in figures)
