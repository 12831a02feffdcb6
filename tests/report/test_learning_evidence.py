"""Runs are compared with published curves at equal simulator steps."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from worldflux.errors import ConfigurationError
from worldflux.report.published import PublishedTask
from worldflux.run_folder.manifest import SCHEMA

ROOT = Path(__file__).resolve().parents[2]
ROWS = """source,suite,task,method,seed,env_steps,score
repo,dmcontrol,cup-catch,tdmpc2,1,0,0
repo,dmcontrol,cup-catch,tdmpc2,1,200,100
repo,dmcontrol,cup-catch,tdmpc2,2,100,30
repo,dmcontrol,cup-catch,tdmpc2,2,0,10
repo,dmcontrol,cup-catch,sac,1,0,999
repo,dmc_proprio,dmc_walker_walk,dreamerv3,0,100,40
repo,dmc_proprio,dmc_walker_walk,dreamerv3,0,400,70
"""


@pytest.fixture
def scores(script: ModuleType, tmp_path: Path) -> Path:
    (tmp_path / script.PER_SEED).write_bytes(gzip.compress(ROWS.encode()))
    return tmp_path


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "learning_evidence", ROOT / "scripts" / "learning_evidence.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_published_seeds_are_read_between_their_points_only(
    script: ModuleType, scores: Path
) -> None:
    curve = script.read_published(scores, PublishedTask("dmcontrol", "cup-catch", "tdmpc2"))
    assert curve is not None and curve.source == "repo" and len(curve.seeds) == 2
    np.testing.assert_allclose(curve.at(50), [25, 20])
    np.testing.assert_allclose(curve.at(150), [75])  # the second seed ends at 100
    assert not len(curve.at(201))
    assert script.read_published(scores, PublishedTask("dmcontrol", "dog-run", "tdmpc2")) is None


def test_scores_that_cannot_be_read_are_named(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=script.PER_SEED):
        script.read_published(tmp_path, PublishedTask("dmcontrol", "cup-catch", "tdmpc2"))
    (tmp_path / script.PER_SEED).write_bytes(gzip.compress(b"task,score\ncup,1\n"))
    with pytest.raises(ConfigurationError, match="suite"):
        script.read_published(tmp_path, PublishedTask("dmcontrol", "cup-catch", "tdmpc2"))


def test_points_are_means_of_the_newest_episodes(script: ModuleType) -> None:
    episodes = np.array([[10, 1.0], [10, 3], [20, 5], [20, 7], [30, 0]])
    np.testing.assert_allclose(script.newest_mean(episodes, 2), [[10, 2], [20, 6], [30, 3.5]])


def fake_run(folder: Path, kind: str, env: dict, metrics: list[tuple[int, dict]]) -> None:
    folder.mkdir(parents=True)
    manifest = {
        "schema_version": SCHEMA,
        "status": "stopped",
        "seed": 3,
        "global_step": 120,
        "env_steps": metrics[-1][0],
        "env": {"suite": "dmc", "num_envs": 1, **env},
        "config": {"env": {"obs": "state"}},
        "model_config": {"model_type": kind, "model_name": "5m"},
        "training_config": {
            "batch_size": 256,
            "sequence_length": 3,
            "mixed_precision": False,
            "mixed_precision_dtype": "bfloat16",
        },
        "train_ratio": 768.0,
        "collect_steps_per_update": 1.0,
        "runtime_profile": {"elapsed_sec": 1800.0},
        "versions": {"python": "3.11", "torch": "2"},
        "git_commit": "abc",
    }
    (folder / "run_manifest.json").write_text(json.dumps(manifest))
    lines = [json.dumps({"step": 1, "env_steps": s, "metrics": m}) for s, m in metrics]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_section_is_written_and_rewritten(
    script: ModuleType, scores: Path, tmp_path: Path
) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("# Results\n\nWords.\n")
    fake_run(
        runs / "cup" / "seed3",
        "tdmpc2",
        {"id": "cup-catch", "action_repeat": 2},
        [(10, {"eval/return": 4.0}), (25, {"eval/return": 33.0})],
    )
    words = ["report", str(runs), "--scores", str(scores), "--docs", str(docs), "--name", "cup"]
    assert script.main([*words, "--score", "evaluations"]) == 0
    page = (docs / "results.md").read_text()
    # 25 decisions are 50 simulator steps, where the published seeds have 25 and 20.
    assert "| cup-catch | 3 | 120 | 50 | 0.50 | 33 at 50 | 22 (20 to 25, 2 seeds) |" in page
    assert "Settings: 5m, batch 256x3, train ratio 768" in page and "repeat 2, float32." in page
    assert (docs / "results" / "cup.png").stat().st_size > 5_000
    fake_run(
        runs / "walker" / "seed3",
        "dreamer",
        {"id": "walker-walk", "action_repeat": 1},
        [(50, {"episode/return": 20.0}), (90, {})],
    )
    assert script.main([*words, "--title", "Both"]) == 0
    again = (docs / "results.md").read_text()
    assert again.startswith("# Results\n\nWords.\n") and again.count("<!-- cup: begin -->") == 1
    assert "## Both" in again and "33 at 50" not in again
    assert "| cup-catch | 3 | 120 | 50 | 0.50 | no episode ended | 22" in again
    assert "| walker-walk | 3 | 120 | 90 | 0.50 | 20 at 50 | none |" in again


def test_tasks_without_published_scores_are_reported_too(
    script: ModuleType, tmp_path: Path
) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("# Results\n")
    env = {"id": "Pendulum-v1", "action_repeat": 1}
    fake_run(runs / "seed3", "tdmpc2", env, [(25, {"eval/return": -123.0})])
    words = ["report", str(runs), "--docs", str(docs), "--name", "small", "--note", "Busy."]
    assert script.main([*words, "--score", "evaluations"]) == 0
    page = (docs / "results.md").read_text()
    assert "| Pendulum-v1 | 3 | 120 | 25 | 0.50 | -123 at 25 | none |" in page
    assert "\n\nBusy.\n" in page


def test_no_run_is_told(script: ModuleType, scores: Path, tmp_path: Path) -> None:
    assert script.main(["report", str(tmp_path), "--scores", str(scores), "--name", "x"]) == 2


STAND_IN = """
import json, pathlib, signal, sys, time
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words.get("resume") or words["hydra.run.dir"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "words.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + chr(10))
def leave(*_):
    content = {"schema_version": SCHEMA, "status": "stopped"}
    (folder / "run_manifest.json").write_text(json.dumps(content))
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
if "fail=1" in sys.argv:
    sys.exit(3)
time.sleep(60)
"""


def test_runs_are_ended_by_their_time_and_continued(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = STAND_IN.replace("SCHEMA", repr(SCHEMA))
    monkeypatch.setattr(script, "COMMAND", [sys.executable, "-c", stand_in])
    words = ["run", str(tmp_path), "--experiment", "some", "--tasks", "a-b", "--minutes", "0.05"]
    assert script.main([*words, "--seeds", "4", "--", "training.num_envs=2"]) == 0
    assert script.main([*words, "--seeds", "4"]) == 0
    folder = tmp_path / "a-b" / "seed4"
    first, second = (folder / "words.txt").read_text().splitlines()
    run_dir = f"hydra.run.dir={folder}"
    assert first == f"+experiment=some env.id=a-b training.seed=4 {run_dir} training.num_envs=2"
    assert second == f"resume={folder}"
    assert script.main([*words, "--seeds", "5", "--", "fail=1"]) == 1
