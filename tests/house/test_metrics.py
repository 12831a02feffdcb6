"""Every metric that a training logs has its sentence, and every sentence a metric that is logged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import worldflux
from tests.cli.conftest import TINY
from worldflux.cli.verbs import main
from worldflux.models.families import OURS, Family
from worldflux.run_folder.metrics import read_metrics
from worldflux.training.metrics import METRICS, metrics, metrics_named

# Only where one model learns several tasks, a key has the name of a loss, a loss is the user's, or
# recorded episodes are held out.
ELSEWHERE = {
    "train/loss/own/<key>",
    "train/loss/redundancy",
    "episode/return/<task>",
    "eval/return/<task>",
    "train/loss/recon/<key>",
    "validation/loss/<key>",
    "validation/loss/total",
}


def test_every_metric_has_a_sentence() -> None:
    silent = [
        one.name for one in metrics() if not re.fullmatch(r".+ .+\.|Updates done\.", one.help)
    ]
    assert silent == []


@pytest.mark.parametrize("family", OURS, ids=lambda one: one.name)
def test_what_a_training_logs_is_what_has_a_sentence(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # CartPole ends by itself: TD-MPC2 has its termination head. The first episodes end in the prefill.
    words = [*TINY[:-1], f"model={family.name}", "training.log_interval=1", "training.seed=1"]
    words.append("training.model_eval_interval=2")
    run = worldflux.train("env=cartpole", *words, "data.prefill_steps=400")
    logged = {name for record in read_metrics(run.folder) for name in record["metrics"]}
    of_family = [one for one in metrics() if one.family in ("", family.title)]
    assert {name for name in logged if not any(one.covers(name) for one in of_family)} == set()
    missing = [one.name for one in of_family if not any(map(one.covers, logged))]
    assert set(missing) <= ELSEWHERE, "a sentence on what is not logged"


def test_explain_takes_a_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "train/loss/dyn"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("train/loss/dyn [DreamerV3]\n  KL of the posterior")
    assert main(["explain", "eval/return"]) == 0
    assert METRICS["eval/return"] in capsys.readouterr().out


def test_a_name_goes_before_a_key() -> None:
    """`train/loss/policy` is a loss of both families, and no observation of DreamerV3."""
    assert [one.name for one in metrics_named("train/loss/policy")] == ["train/loss/policy"] * 2
    assert [one.family for one in metrics_named("train/loss/td")] == ["TD-MPC2"]
    (one,) = metrics_named("train/loss/camera")
    assert one.name == "train/loss/<key>" and one.family == "DreamerV3"
    (one,) = metrics_named("train/loss/recon/policy")
    assert one.name == "train/loss/recon/<key>"


def test_a_wrong_metric_has_a_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "eval/retrun"]) == 2
    assert "eval/return" in capsys.readouterr().err
    assert main(["explain", "model/size"]) == 2
    assert "no key or group" in capsys.readouterr().err
