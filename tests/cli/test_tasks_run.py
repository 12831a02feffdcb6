"""A run on two tasks of different sizes at once: training, evaluation of each, exact resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from worldflux.cli.main import main
from worldflux.cli.verbs import main as worldflux

RUN = [
    "model=tdmpc2",
    "model/size=ci",
    "env=gym",
    "env.tasks=[Pendulum-v1,MountainCarContinuous-v0]",
    "env.time_limit=12",
    "model.num_samples=16",
    "model.num_elites=4",
    "model.num_pi_trajs=2",
    "model.iterations=2",
    "model.task_dim=8",
    "data.prefill_steps=60",
    "data.pretrain_updates=2",
    "data.capacity=1000",
    "training.batch_size=8",
    "training.eval_episodes=1",
    "logger=jsonl",
]


def newest(folder: Path) -> Path:
    return max(folder.glob("outputs/*/*"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_two_tasks_are_learned_evaluated_and_resumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [*RUN, "training.total_steps=24", "training.save_interval=12"]
    assert main([*long, "hydra.run.dir=whole"]) == 0
    assert main([*long, "training.env_steps=72", "hydra.run.dir=half"]) == 0
    manifest = json.loads(Path("half/run_manifest.json").read_text())
    model = manifest["model_config"]
    assert model["num_tasks"] == 2 and model["task_action_dims"] == [1, 1]
    assert model["obs_shape"] == [3] and model["task_episode_lengths"] == [12, 12]
    assert main(["resume=half", "training.env_steps=null", "training.total_steps=24"]) == 0
    finals = [
        load_file(next(Path(run, "checkpoints").glob("step_*24/model.safetensors")))
        for run in ("whole", "half")
    ]
    assert finals[0].keys() == finals[1].keys() and "task_emb.weight" in finals[0]
    for name, value in finals[0].items():
        assert (value == finals[1][name]).all(), name
    rows = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    keys = {key for row in rows for key in row["metrics"]}
    for task in ("Pendulum-v1", "MountainCarContinuous-v0"):
        assert {f"eval/return/{task}", f"episode/return/{task}"} <= keys
    capsys.readouterr()
    assert worldflux(["eval", "whole", "--episodes", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["episodes"] == 4
    assert set(report["tasks"]) == {"Pendulum-v1", "MountainCarContinuous-v0"}
    assert worldflux(["imagine", "whole", "--horizon", "4"]) == 0
    pictures = {path.stem for path in Path("whole/report").glob("imagination*.png")}
    assert pictures == {f"imagination_{task}" for task in report["tasks"]}


def test_tasks_are_told_apart_from_an_id(refused: Callable[..., str]) -> None:
    words = ["model=tdmpc2", "env.tasks=[Pendulum-v1,MountainCarContinuous-v0]"]
    assert refused(*words).startswith("env.id is CartPole-v1 and tasks are given too; choose env=")
    said = refused(*words, "env=gym", "model.num_tasks=3")
    assert said == "model.num_tasks is 3, but the environment has 2; env.tasks names several"
