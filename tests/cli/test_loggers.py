"""Loggers and labels of a run, as a command line chooses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import folder, jobs, refused  # noqa: F401
from tests.cli.test_resume import begun  # noqa: F401
from tests.run_folder.test_trust import change
from worldflux.cli.main import main
from worldflux.run_folder.trust import signature


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["tensorboard"]),
        (["logger=jsonl"], []),
        (["logger=csv"], ["csv"]),
        (["logger=[csv,tensorboard]"], ["tensorboard", "csv"]),
        (["logger=[jsonl,tensorboard]"], ["tensorboard"]),
        (["logger=csv", "logger.tensorboard=true"], ["tensorboard", "csv"]),
    ],
)
def test_one_logger_several_or_none(jobs: list[Any], words: list[str], names: list[str]) -> None:  # noqa: F811
    assert main(["env=cartpole", *words]) == 0
    assert jobs[0][0].logger.names() == names


def test_a_logger_that_does_not_exist_is_named_with_those_that_do(
    refused: Callable[..., str],  # noqa: F811
) -> None:
    for words in ("logger=csvv", "logger=[tensorboard,csvv]"):
        line = refused(words)
        assert "logger=csvv does not exist; options: csv, jsonl" in line
        assert line.endswith("Did you mean: 'csv'?")


def test_labels_are_kept_on_resume_and_may_change(
    jobs: list[Any],  # noqa: F811
    begun: Callable[..., Any],  # noqa: F811
    refused: Callable[..., str],  # noqa: F811
) -> None:
    run = begun("run.name=first", "run.tags=[a,b]", "run.notes='why, and how'", "run.group=g")
    assert main([f"resume={run}", "run.name=second"]) == 0
    labels = jobs[-1][0].run
    assert (labels.name, labels.group, labels.tags) == ("second", "g", ("a", "b"))
    assert labels.notes == "why, and how"
    assert "run.tags must be a list" in refused("run.tags=a")
    assert "Did you mean: 'notes'" in refused("run.note=a")


def test_a_foreign_run_does_not_decide_where_data_is_sent(
    jobs: list[Any],  # noqa: F811
    begun: Callable[..., Any],  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worldflux.runner.preflight.check_loggers", lambda *_: None)
    run = begun("logger=[csv,wandb]", "logger.wandb_project=mine")
    assert main([f"resume={run}"]) == 0
    assert jobs[-1][0].logger.names() == ["csv", "wandb"]
    assert jobs[-1][0].logger.wandb_project == "mine"
    capfd.readouterr()
    change(run, lambda m: m["config"]["logger"].update(wandb_project="theirs"))
    assert main([f"resume={run}"]) == 0
    logger = jobs[-1][0].logger
    assert (logger.names(), logger.wandb_project) == (["csv"], None)
    assert "its logger.wandb, logger.wandb_project is left out" in capfd.readouterr().err
    assert main([f"resume={run}", "logger.wandb=true"]) == 0
    assert jobs[-1][0].logger.wandb_project is None


def test_a_run_that_was_signed_before_there_were_trackers_is_still_its_makers() -> None:
    config = {"env": {"id": "X-v0"}, "visualization": {}}
    before = signature({"config": config})
    assert signature({"config": {**config, "logger": {"tensorboard": True}}}) == before
    assert signature({"config": {**config, "logger": {"wandb": True}}}) != before
