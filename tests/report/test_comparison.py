"""Runs beside each other: groups, and numbers against independent ones."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.runs import write_run
from worldflux.cli import report
from worldflux.core.statistics import improvement, improvement_interval, stratified_iqm
from worldflux.errors import ConfigurationError
from worldflux.report.comparison import (
    Choices,
    Comparison,
    compare,
    grouped,
    mean_height,
    read_runs,
)
from worldflux.report.published import EPISODES, PublishedTask, published_scores
from worldflux.report.returns import curve, trailing_mean
from worldflux.run_folder.metrics import read_metrics


def line(start: float, slope: float, last: int = 100) -> list[tuple[int, float]]:
    return [(x, start + slope * x) for x in range(0, last + 1, 10)]


def compared(folders: list[Path], by: tuple[str, ...] = (), **choices: Any) -> Comparison:
    runs, left_out = read_runs(folders, lambda folder: ())
    return compare(grouped(runs, by), Choices(**choices), left_out)


# Statistics


def test_probability_of_improvement_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 7).astype(float), rng.integers(0, 5, 4).astype(float)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
    assert improvement(a, b) == pytest.approx(np.mean(pairs))
    assert improvement(a, b) + improvement(b, a) == pytest.approx(1)
    stacked = improvement(np.stack([a, a + 10]), np.stack([b, b]))
    assert stacked.tolist() == pytest.approx([np.mean(pairs), 1])


def test_its_interval_is_that_of_all_bootstrap_samples() -> None:
    # Two tasks of two runs each: all 2**8 samples are equally probable, and their means are known.
    tasks = [([1.0, 3.0], [2.0, 0.0]), ([5.0, 4.0], [4.0, 9.0])]

    def of_sample(picks: tuple[int, ...]) -> float:
        values = []
        for (a, b), (i, j, k, m) in zip(tasks, (picks[:4], picks[4:]), strict=True):
            pairs = itertools.product((a[i], a[j]), (b[k], b[m]))
            values.append(np.mean([float(x > y) + 0.5 * (x == y) for x, y in pairs]))
        return float(np.mean(values))

    exact = np.sort([of_sample(picks) for picks in itertools.product((0, 1), repeat=8)])
    low, high = improvement_interval(tasks)
    # The ends lie on values of the exact distribution, at its 2.5 and 97.5 %.
    assert exact[int(0.015 * 256)] <= low <= exact[int(0.035 * 256)]
    assert exact[int(0.965 * 256)] <= high <= exact[int(0.985 * 256)]


def test_strata_count_equally_whatever_their_size() -> None:
    # 8 values: the mean of the middle 4, by hand; 2 values: both.
    score, interval = stratified_iqm([[9, 1, 2, 3, 4, 5, 6, -50], [10, 20]])
    assert score == pytest.approx((np.mean([2, 3, 4, 5]) + 15) / 2)
    assert interval is not None and interval[0] < score < interval[1]
    assert stratified_iqm([[3.0]]) == (3.0, None)


# Curves and their numbers


def test_numbers_of_a_group(tmp_path: Path) -> None:
    starts = (0.0, 10.0, 20.0, 90.0)
    runs = [write_run(tmp_path / f"{s}", line(s, 0.5), seed=i) for i, s in enumerate(starts)]
    (task,) = compared(runs, threshold=30.0).tasks
    (group,) = task.groups
    assert (task.name, group.label, task.covered) == ("CartPole-v1", "all runs", (0, 100))
    # The middle two of four.
    assert group.final.score == pytest.approx(50 + 15)
    assert group.best.score == pytest.approx(65)
    assert group.area is not None and group.area.score == pytest.approx(25 + 15)
    # 30 is reached at 60, 40, 20 and 0 steps: the middle two.
    assert group.reached is not None and group.reached.score == pytest.approx(30)
    assert group.arrived == 4
    at_fifty = group.curve[group.curve[:, 0] == 50][0]
    assert at_fifty[1] == pytest.approx(25 + 15) and at_fifty[2] < 40 < at_fifty[3]


def test_the_area_is_that_of_the_steps_that_all_runs_have(tmp_path: Path) -> None:
    long = write_run(tmp_path / "long", line(0, 1, 200), training={"learning_rate": 1.0})
    short = write_run(tmp_path / "short", [(35, 5.0), (95, 5.0)])
    (task,) = compared([long, short]).tasks
    areas = {group.label: group.area and group.area.score for group in task.groups}
    assert task.covered == (35, 95)
    assert areas["training.learning_rate=1.0"] == pytest.approx((35 + 95) / 2)
    assert areas["training.learning_rate=0.001"] == pytest.approx(5)
    assert task.uneven == (95, 200)
    (cut,) = compared([long, short], steps=95).tasks
    assert [group.final.score for group in cut.groups] == [95, 5] and cut.uneven is None
    (alone,) = compared([long, short], steps=150).tasks
    assert len(alone.groups) == 1


def test_mean_height_is_the_integral() -> None:
    x = np.linspace(0, 2, 2001)
    height = mean_height(np.column_stack([x, x**2]), 0.5, 1.5)
    assert height == pytest.approx((1.5**3 - 0.5**3) / 3, abs=1e-6)
    assert mean_height(np.array([[3.0, 7.0]]), 3, 3) == 7


def test_runs_that_never_arrive_count_as_the_last(tmp_path: Path) -> None:
    slopes = (1.0, 0.5, 0.25, 0.0)
    runs = [write_run(tmp_path / f"{s}", line(0, s), seed=i) for i, s in enumerate(slopes)]
    (task,) = compared(runs, threshold=20.0).tasks
    # 20 is reached at 20, 40 and 80 steps, and never.
    assert task.groups[0].reached is not None
    assert task.groups[0].reached == (pytest.approx(60), None) and task.groups[0].arrived == 3
    (task,) = compared(runs, threshold=40.0).tasks
    assert task.groups[0].reached is None and task.groups[0].arrived == 2


def test_training_episodes_are_averaged_backwards(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=30)
    expected = [values[max(0, i - 9) : i + 1].mean() for i in range(30)]
    assert trailing_mean(values, 10) == pytest.approx(expected)
    run = write_run(tmp_path / "a", (), [(10 * i, v) for i, v in enumerate(values)])
    assert curve(read_metrics(run), EPISODES)[:, 1] == pytest.approx(expected)
    (task,) = compared([run]).tasks
    assert task.kind == EPISODES and task.groups[0].final.score == pytest.approx(expected[-1])


# Groups


def labels(folders: list[Path], *by: str) -> list[str]:
    runs, _ = read_runs(folders, lambda folder: ())
    return [run.label for run in grouped(runs, by)]


def test_seeds_machines_and_names_make_no_group(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"{i}",
            line(0, 1),
            seed=i,
            training={"device": f"cuda:{i}"},
            run={"name": f"n{i}"},
        )
        for i in range(3)
    ]
    assert labels(runs) == ["all runs"] * 3
    assert labels(runs, "training.seed") == [f"training.seed={i}" for i in range(3)]


def test_a_group_is_called_by_the_fewest_keys(tmp_path: Path) -> None:
    sizes = {"dreamer": {"deter_dim": 8, "hidden_dim": 4}, "tdmpc2": {"latent_dim": 3}}
    runs = [
        write_run(
            tmp_path / f"{family}{rate}",
            line(0, 1),
            family=family,
            model=sizes[family],
            training={"learning_rate": rate},
        )
        for family in ("dreamer", "tdmpc2")
        for rate in (0.1, 0.2)
    ]
    rate = "training.learning_rate"
    assert labels(runs) == [
        f"model=dreamerv3 {rate}=0.1",
        f"model=dreamerv3 {rate}=0.2",
        f"model=tdmpc2 {rate}=0.1",
        f"model=tdmpc2 {rate}=0.2",
    ]
    assert labels(runs[::2]) == ["model=dreamerv3", "model=tdmpc2"]
    assert labels(runs, "model") == ["model=dreamerv3"] * 2 + ["model=tdmpc2"] * 2
    assert labels(runs[:1], "model/size") == ["model/size=ci"]
    runs_, _ = read_runs(runs, lambda folder: ())
    assert len({run.stratum for run in grouped(runs_, ("model",))}) == 4
    with pytest.raises(
        ConfigurationError, match=r"--by training.learning_rat.*training.learning_rate"
    ):
        labels(runs, "training.learning_rat")


def test_each_environment_is_compared_by_itself(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"{env}-{family}-{seed}",
            line(seed, 1 + (family == "tdmpc2")),
            env=env,
            family=family,
            seed=seed,
            model={"obs_shape": [len(env)]},
        )
        for env in ("A-v0", "Long-v0")
        for family in ("dreamer", "tdmpc2")
        for seed in (0, 1)
    ]
    comparison = compared(runs)
    assert [task.name for task in comparison.tasks] == ["A-v0", "Long-v0"]
    assert comparison.labels == ["model=dreamerv3", "model=tdmpc2"]
    probability = comparison.improvement["model=dreamerv3", "model=tdmpc2"]
    assert probability == (0.0, (0.0, 0.0)) and probability.mirrored() == (1.0, (1.0, 1.0))


def test_published_scores_stand_behind_the_runs_at_equal_simulator_steps(tmp_path: Path) -> None:
    points = [(x, float(x)) for x in range(0, 30_001, 1000)]
    run = write_run(tmp_path / "a", points, points, env="walker-walk", suite="dmc", repeat=2)
    (task,) = compared([run], published=True).tasks
    assert task.x_name.startswith("simulator steps") and task.kind == EPISODES
    assert task.groups[0].members[0].points[-1, 0] == 60_000
    (published,) = task.published
    scores = published_scores(PublishedTask("dmc_proprio", "dmc_walker_walk", "dreamerv3"))
    of_twenty = next(at for at in scores if at.steps == 20_000)
    row = published.curve[published.curve[:, 0] == 20_000][0]
    # Five seeds: the middle one whole, its neighbours by three quarters.
    five = np.sort(of_twenty.scores)
    assert row[1] == pytest.approx((0.75 * five[1] + five[2] + 0.75 * five[3]) / 2.5)
    assert published.until(25_000)[-1, 0] == 25_000
    assert "published" in "".join(published.label) and published.kind == EPISODES


# The command


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Three runs of each of two learning rates; what `worldflux report` prints."""
    for rate, seed in itertools.product((0.1, 0.2), range(3)):
        name = f"r{rate}-{seed}"
        write_run(
            tmp_path / "runs" / name,
            line(seed, 10 * rate),
            seed=seed,
            training={"learning_rate": rate},
        )
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        capfd.readouterr()
        assert report.main(list(words)) == code
        out, err = capfd.readouterr()
        assert code == 0 or (out == "" and err.count("\n") == 1), (out, err)
        return err if code else out

    return run


def test_any_runs_are_compared(said: Callable[..., str], tmp_path: Path) -> None:
    def table(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((tmp_path / "report" / f"{name}.csv").read_text().splitlines()))

    (tmp_path / "runs" / "empty").mkdir()
    write_run(tmp_path / "runs" / "unborn")
    out = said("runs/*", "--threshold", "50")
    assert (
        "CartPole-v1: return of evaluation episodes, 0 to 100 environment steps in all runs" in out
    )
    assert re.search(r"learning_rate=0.1 +3 +101 +100 to 102 +101 +51 +50\n", out)
    assert re.search(r"P\(training.learning_rate=0.1 > training.learning_rate=0.2\) = 0.00", out)
    assert "unborn: it has no return of evaluation episodes" in out
    for name in ("learning_curve.png", "learning_curve.svg", "groups.csv", "curves.csv"):
        assert (tmp_path / "report" / name).stat().st_size > 100, name
    rows = table("groups")
    assert [(row["group"], float(row["final"])) for row in rows] == [
        ("training.learning_rate=0.1", 101),
        ("training.learning_rate=0.2", 201),
    ]
    points = table("curves")
    assert sum(row["curve"] == "run" for row in points) == 6 * 11
    assert not (tmp_path / "report" / "report.html").exists()


def test_json_has_every_number(said: Callable[..., str], tmp_path: Path) -> None:
    words = ("runs/r0.1-0", "runs/r0.2-0", "runs/r0.2-0", "--out", "there", "--format", "json")
    document = json.loads(said(*words))
    (task,) = document["tasks"]
    assert [len(group["runs"]) for group in task["groups"]] == [1, 1]
    assert task["groups"][1]["final"] == {"score": 200, "interval": None}
    assert task["improvement"][0]["probability"] == 0 and task["improvement"][0]["interval"] is None
    assert {Path(name).parent for name in document["files"]} == {Path("there")}


def test_mistakes(said: Callable[..., str], tmp_path: Path) -> None:
    assert "no run or sweep matches nothing*" in said("nothing*", code=2)
    assert "no run or sweep at nowhere" in said("nowhere", "runs/r0.1-0", code=2)
    assert "--by learning: no run has this key" in said("runs/*", "--by", "learning", code=2)
    assert "nothing to compare" in said("runs/r*", "--steps", "1_000", code=2)
    assert not (tmp_path / "report").exists()
