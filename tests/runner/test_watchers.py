"""Measurements and videos in training: they are there, and the training is the same without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.training.test_end_to_end_run import settings
from worldflux.run_folder.checkpoints import checkpoint_named
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.filmed import smaller
from worldflux.runner.run import run


class Blind(gym.Env):
    """Two steps, and nothing to see."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(2, self.t / 2, np.float32), 1.0, False, self.t >= 2, {}


gym.register("Blind-v0", Blind)


def trained(folder: Path, env: str, **training: Any) -> Path:
    run(settings(env, total_steps=4, eval_episodes=1, **training), folder)
    return folder


def numbers(folder: Path) -> list[dict[str, float]]:
    aside = ("fps/", "world_model/")
    return [
        kept
        for record in read_metrics(folder)
        if (kept := {k: v for k, v in record["metrics"].items() if not k.startswith(aside)})
    ]


def test_a_training_is_the_same_with_and_without_them(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", "Cue-v0")
    watched = trained(tmp_path / "watched", "Cue-v0", model_eval_interval=2, video_interval=2)
    assert numbers(plain) == numbers(watched)
    weights = [
        load_file(checkpoint_named(one, "latest") / "model.safetensors") for one in (plain, watched)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    measured = [r for r in read_metrics(watched) if "world_model/obs/first" in r["metrics"]]
    assert [record["step"] for record in measured] == [2, 4]
    assert {"world_model/reward/last", "world_model/continue/brier"} <= measured[0][
        "metrics"
    ].keys()
    names = sorted(path.name for path in (watched / "videos").iterdir())
    assert names == ["step_000000002.gif", "step_000000004.gif"]
    with Image.open(watched / "videos" / names[0]) as video:
        assert video.n_frames == 11 and video.size == (200, 400)
    assert read_manifest(watched)["degraded_modes"] == []


def test_an_environment_without_frames_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained(tmp_path / "run", "Blind-v0", video_interval=2)
    assert read_manifest(folder)["degraded_modes"] == ["video_unavailable"]
    assert read_manifest(folder)["run_classification"] == "meaningful_local_training"
    assert sum("no videos are recorded" in text for text in caplog.messages) == 1


def test_loggers_get_fewer_frames_and_pixels() -> None:
    frames = np.zeros((401, 600, 400, 3), np.uint8)
    assert smaller(frames).shape == (134, 200, 134, 3)
    assert smaller(frames[:5, :50, :60]).shape == (5, 50, 60, 3)
