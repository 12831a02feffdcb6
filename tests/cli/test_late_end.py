"""TD-MPC2 in a task that was taken to be endless, and ends an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import TINY
from tests.training.test_trainer import pointer
from worldflux.cli.main import main
from worldflux.run_folder.manifest import read_manifest
from worldflux.runner.trained import open_run


class Late(gym.Env[Any, Any]):
    """Every fourth episode, by its seed, is ended by the task; the others are cut."""

    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.ends = 0, (seed or 0) % 4 == 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        obs, end = self.np_random.uniform(-1, 1, 3).astype(np.float32), self.steps == 12
        return obs, 1.0, end and self.ends, end and not self.ends, {}


gym.register("Late-v0", entry_point=Late)

WORDS = [
    *("model=tdmpc2", "env=gym", "env.id=Late-v0", "model.num_samples=16", "model.num_elites=4"),
    *(
        "model.num_pi_trajs=2",
        "model.iterations=1",
        "data.pretrain_updates=0",
        "data.collect_steps_per_update=4",
    ),
    *(word for word in TINY if "sequence" not in word and "total_steps" not in word),
    *("training.save_interval=100", "training.eval_interval=0", "training.seed=3"),
]
UPDATES = 8


def train(folder: str, *more: str, updates: int = UPDATES) -> Path:
    words = [f"training.total_steps={updates}", f"hydra.run.dir={folder}", *more]
    assert main([*WORDS, *words]) == 0
    return Path(folder).resolve()


def resume(folder: Path, *more: str, updates: int = UPDATES) -> None:
    assert main([f"resume={folder}", f"training.total_steps={updates}", *more]) == 0


def tensors(run: Path, file: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / pointer(run, "latest") / f"{file}.safetensors")


def head_added(run: Path) -> int:
    return int(tensors(run, "optimizer")["agent/optimizer/head_added"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("late"))
        return train("whole")


def test_it_is_learned_from_the_first_end_on(whole: Path) -> None:
    assert 0 < head_added(whole) < UPDATES - 2
    manifest = read_manifest(whole)
    assert manifest["degraded_modes"] == ["model_extended"]
    assert manifest["run_classification"] == "meaningful_local_training"
    run = open_run(whole)  # as `worldflux eval` opens it
    assert run.model.episodic and run.agent("cpu").model.termination is not None
    moments = [key for key in tensors(whole, "optimizer") if "termination" in key]
    assert moments


@pytest.mark.slow
def test_a_resume_is_exact_on_both_sides_of_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = tensors(whole), tensors(whole, "optimizer")
    for cut in (head_added(whole) - 1, head_added(whole) + 2):
        run = train(f"cut{cut}", updates=cut)
        resume(run)
        for before, after in zip(expected, (tensors(run), tensors(run, "optimizer")), strict=True):
            assert before.keys() == after.keys()
            assert not [k for k in before if not torch.equal(before[k], after[k])]


@pytest.mark.slow
def test_resume_and_init_from_add_the_head(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train("early", updates=2)
    assert not any(key.startswith("termination") for key in tensors(run))
    resume(run, "env.terminates=true", updates=3)
    assert head_added(run) == 2
    assert "learned from update 3 on, from fresh weights" in (run / "run.log").read_text()
    assert read_manifest(run)["config"]["env"]["terminates"] is True
    assert read_manifest(run)["degraded_modes"] == ["model_extended"]
    early = train("short", updates=1)
    new = train("new", f"init_from={early}", "env.terminates=true", updates=1)
    assert "has no termination: fresh weights" in (new / "run.log").read_text()
    fresh = read_manifest(new)["init_from"]["fresh"]
    assert fresh and all(key.startswith("termination.") for key in fresh)
    again = train("again", f"init_from={whole}", updates=1)
    assert any(key.startswith("termination.") for key in tensors(again))
    assert read_manifest(again)["init_from"]["fresh"] == []
