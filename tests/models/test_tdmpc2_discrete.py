"""TD-MPC2 on a task of several discrete actions at once, through the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from worldflux.cli.main import main
from worldflux.run_folder.manifest import read_manifest


class Valves(gym.Env):
    """Ten steps; the wanted settings of two valves are observed, each right one gives 1/2."""

    observation_space = gym.spaces.Box(0, 1, (5,), np.float32)
    action_space = gym.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float((np.asarray(action) == self.wanted).mean())
        self.steps += 1
        return self._observe(), reward, False, self.steps >= 10, {}

    def _observe(self) -> np.ndarray:
        self.wanted = self.np_random.integers([2, 3])
        hot = [np.eye(n)[i] for n, i in zip((2, 3), self.wanted, strict=True)]
        return np.concatenate(hot).astype(np.float32)


gym.register("Valves-v0", Valves)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_multi_discrete_task_is_learnt(tmp_path: Path) -> None:
    words = [
        "model=tdmpc2", "model/size=ci", "env=gym", "env.id=Valves-v0", "logger=jsonl",
        "model.num_samples=32", "model.num_elites=4", "model.num_pi_trajs=4", "model.iterations=2",
        "model.gamma=0.1", "data.prefill_steps=300", "data.pretrain_updates=200",
        "training.env_steps=340", "training.batch_size=64", "training.learning_rate=3e-3",
        "training.eval_episodes=4", "training.eval_interval=0", f"hydra.run.dir={tmp_path}",
    ]  # fmt: skip
    assert main(words) == 0
    GlobalHydra.instance().clear()
    # Guessing gets (1/2 + 1/3) / 2 a step, 4.2 in all.
    assert read_manifest(tmp_path)["scores"]["last"] > 6
