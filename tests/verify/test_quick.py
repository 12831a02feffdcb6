"""`worldflux verify --mode quick` on a real run, and on copies of it that were tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflux.cli.main import main as worldflux_run
from worldflux.cli.verbs import main as worldflux
from worldflux.cli.verify import show_quick
from worldflux.core.statistics import difference_interval

RUN = [
    "model/size=ci",
    "training.total_steps=4",
    "training.batch_size=2",
    "training.sequence_length=8",
    "training.eval_episodes=3",
    "training.compile_model=false",
    "data.prefill_steps=40",
    "logger.tensorboard=false",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert worldflux_run([*RUN, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def call(run: Path, *words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = worldflux(
            ["verify", "--target", str(run), "--episodes", "3", "--format", "json", *words]
        )
        return code, json.loads(capsys.readouterr().out)

    return call


def change_manifest(run: Path, **values: Any) -> None:
    path = run / "run_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in result["checks"]}


def failed(result: dict[str, Any]) -> set[str]:
    return {name for name, status in statuses(result).items() if status == "failed"}


def test_an_untrained_policy_is_what_its_files_say_but_proves_nothing(run, verify) -> None:
    code, result = verify(run)
    (quantities,) = [one["quantities"] for one in result["model"].values()]
    assert [one["name"] for one in quantities] == ["obs"]  # the reward of CartPole never changes
    found = statuses(result)
    assert {n for n, s in found.items() if s == "passed"} >= {
        "complete",
        "metrics",
        "checkpoints",
        "data",
        "loads",
        "reproduced",
    }
    # Four updates teach nothing; which way the two means differ is chance.
    better = found["better than random"] == "passed"
    assert (code, result["passed"], result["blocking"]) == (int(not better), better, not better)
    assert result["stats"]["scores"] and len(result["stats"]["scores"]) == 3
    assert result["mean_score"] == pytest.approx(np.mean(result["stats"]["scores"]))


def test_a_return_that_the_checkpoint_does_not_give_is_found(run, verify) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        if "eval/return" in record["metrics"]:
            record["metrics"].update({"eval/return": 480.0, "eval/return_std": 5.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    code, result = verify(run)
    assert code == 1 and "reproduced" in failed(result)
    assert "480" in result["verdict_reason"]


def test_a_changed_byte_of_a_checkpoint_is_found(run, verify) -> None:
    weights = next((run / "checkpoints").glob("step_*")) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    code, result = verify(run)
    assert code == 1 and failed(result) == {"checkpoints", "loads"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_classification": "advanced_evidence"}, "classified"),
        ({"data_mode": "offline", "status": "completed", "run_classification": "x"}, "classified"),
        ({"degraded_modes": ["env_collection_unavailable"]}, "classified"),
        ({"damaged_checkpoints": ["step_000000001"]}, "damaged_checkpoint_skipped"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_found(run, verify, changes, words) -> None:
    change_manifest(run, **changes)
    code, result = verify(run)
    assert code == 1 and "data" in failed(result) and words in result["verdict_reason"]


def test_a_page_on_another_port_is_named_and_does_not_fail_the_data(run, verify) -> None:
    change_manifest(run, degraded_modes=["dashboard_port_taken"])
    _, result = verify(run)
    assert "data" not in failed(result)
    (data,) = [check for check in result["checks"] if check["name"] == "data"]
    assert "dashboard_port_taken" in data["finding"]


def test_a_stopped_run_and_a_gap_are_found(run, verify) -> None:
    change_manifest(run, status="stopped")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "env_steps": 2, "metrics": {}}\n')
    code, result = verify(run)
    assert code == 1 and {"complete", "metrics"} <= failed(result)


REFUSING = """
import gymnasium as gym

class Refusing(gym.Env):
    def __init__(self, render_mode=None):
        raise RuntimeError("the licence server does not answer")

gym.register("Refusing-v0", Refusing)
"""


def test_a_hidden_degradation_is_found(tmp_path, verify, monkeypatch) -> None:
    (tmp_path / "refusing.py").write_text(REFUSING)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["env=gym", "env.id=Refusing-v0", "env.import=refusing"]
    words += ["data.on_env_failure=degrade"]
    folder = tmp_path / "degraded"
    code = worldflux_run(
        [*RUN, *words, "model.obs_shape=[4]", "model.action_dim=2", "model.action_type=discrete"]
        + [f"hydra.run.dir={folder}"]
    )
    manifest = json.loads((folder / "run_manifest.json").read_text())
    assert code == 0 and "random_replay_fallback" in manifest["degraded_modes"]
    code, result = verify(folder)
    assert code == 1 and "data" in failed(result)
    change_manifest(folder, degraded_modes=[])
    code, result = verify(folder)
    assert code == 1 and "no degraded mode names it" in result["verdict_reason"]


def test_deliberate_noise_is_a_warning(tmp_path, verify) -> None:
    folder = tmp_path / "noise"
    assert worldflux_run([*RUN, "data=random", f"hydra.run.dir={folder}"]) == 0
    code, result = verify(folder)
    assert result["workflow_status"] == "warning" and not result["blocking"] and code == 0
    assert "proves nothing" in result["verdict_reason"]


def test_the_newest_run_of_a_folder_is_taken_and_others_are_not_runs(run, verify, tmp_path) -> None:
    _, result = verify(tmp_path)
    assert result["target"] == str(run)
    shutil.copytree(run, run / "previous" / "old")
    _, result = verify(run)
    assert result["target"] == str(run)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--target", "nowhere"], "nowhere"),
        (["--mode", "cloud"], "cloud"),
        (["--env", "Pong-v5"], "CartPole-v1"),
        (["--episodes", "1"], "--episodes"),
        (["--baseline", "official/tdmpc2"], "official/dreamerv3"),
        (["--tier", "smoke"], "--tier"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, words, named) -> None:
    target = [] if "--target" in words else ["--target", str(run)]
    assert worldflux(["verify", *target, *words]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_the_mode_comes_from_the_project_file_then_the_variable(
    run, capsys, tmp_path, monkeypatch
) -> None:
    def verdict(*words: str) -> tuple[int, str]:
        code = worldflux(["verify", "--target", str(run), "--format", "badge", *words])
        return code, capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLDFLUX_VERIFY_MODE", "proof")
    assert "worldflux proof" in verdict()[1]
    (tmp_path / "worldflux.toml").write_text('[verify]\nmode = "quick"\n')
    assert "worldflux quick" in verdict("--episodes", "2")[1]
    (tmp_path / "other.toml").write_text('[verify]\nmode = "proof"\n')
    assert "worldflux proof" in verdict("-c", "other.toml")[1]
    assert verdict("-c", "none.toml")[0] == 2


def test_result_and_evidence_are_written(run, verify, tmp_path) -> None:
    verify(run, "-o", str(tmp_path / "r.json"), "--evidence-bundle", str(tmp_path / "bundle"))
    assert json.loads((tmp_path / "r.json").read_text())["target"] == str(run)
    bundle = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    kept = {Path(item["path"]).name for item in bundle["artifacts"]}
    assert kept == {"run0_run_manifest.json", "run0_metrics.jsonl"}


def test_welchs_interval_equals_the_tables() -> None:
    # t of 0.995 with 18 degrees of freedom is 2.878 (equal spreads and counts).
    low, high = difference_interval((5.0, 2.0), 10, (4.0, 2.0), 10, 0.99)
    half = 2.878 * np.sqrt(2 * 4 / 10)
    assert (low, high) == pytest.approx((1 - half, 1 + half), rel=0.01)
    assert difference_interval((1.0, 0.0), 5, (1.0, 0.0), 5, 0.99) == (0.0, 0.0)


def test_text_of_a_run_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    check = {"status": "passed", "name": "data", "finding": "in a[/b]", "proves": "of [red]"}
    show_quick({"checks": [check], "workflow_status": "pass", "verdict_reason": "runs/a[/b]"})
    text = capsys.readouterr().out
    assert "in a[/b]" in text and "of [red]" in text and "verified: runs/a[/b]" in text
