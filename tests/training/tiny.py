"""A small real agent and source: linear models, a real optimizer, every kind of state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldflux.config.spaces import Space
from worldflux.data.collect import Episode
from worldflux.training.evaluate import Evaluation


class TinyAgent:
    """Learns to predict the reward from the observation; acts by the sign of the prediction."""

    replay_context = 1

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.generator = torch.Generator().manual_seed(seed)
        self.entry_spaces = {"dyn/deter": Space((2,))}
        self.poison_at: int | None = None  # the update whose loss is NaN
        self.updates = 0

    def initial_carry(self, n: int) -> dict[str, Tensor]:
        return {"deter": torch.zeros(n, 2)}

    def act(self, carry: Any, obs: Mapping[str, np.ndarray], explore: bool) -> Any:
        with torch.no_grad():
            noise = torch.randn(len(obs["obs"]), generator=self.generator)
            value = self.model(torch.as_tensor(obs["obs"]))[:, 0] + (noise if explore else 0)
        right = (value > 0).numpy()
        action = np.stack([~right, right], 1).astype(np.float32)
        carry = {"deter": carry["deter"] + 1}
        return carry, action, {"dyn/deter": carry["deter"].numpy()}

    def update(self, batch: Mapping[str, Tensor], carry: Any = None) -> Any:
        self.updates += 1
        noise = 0.01 * torch.randn(batch["obs"].shape, generator=self.generator)
        prediction = self.model(batch["obs"] + noise + 0.01 * torch.randn(1))[..., 0]
        loss = (prediction - batch["reward"]).square().mean()
        if self.updates == self.poison_at:
            loss = loss * float("nan")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        metrics = {"loss/reward": loss.detach(), "loss/total": loss.detach(), "odd": loss * 0 + 2}
        return metrics, {"dyn/deter": batch["dyn/deter"][:, 1:] + 1}, {}

    def report(self, batch: Mapping[str, Tensor], carry: Any = None) -> dict[str, np.ndarray]:
        torch.randn(3, generator=self.generator)
        return {"openloop": np.zeros((2, 4, 8, 8, 3), np.uint8)}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        moments = {
            f"{index}.{key}": value
            for index, values in self.optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        own = {"generator": self.generator.get_state(), "updates": torch.tensor(self.updates)}
        return {"model": dict(self.model.state_dict()), "optimizer": {**moments, **own}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self.model.load_state_dict(state["model"])
        saved = dict(state["optimizer"])
        self.generator.set_state(saved.pop("generator"))
        self.updates = int(saved.pop("updates"))
        full = self.optimizer.state_dict()
        full["state"] = {}
        for name, value in saved.items():
            index, key = name.split(".")
            full["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(full)


class TinySource:
    """Rewards are a fixed function of random observations; entries count their write-backs."""

    data_mode = "online"

    def __init__(self, seed: int = 0, rows: int = 64) -> None:
        self.degraded_modes: list[str] = []
        self.rng = np.random.default_rng(seed)
        self.env_steps = 0
        self.obs = np.zeros((rows, 3), np.float32)
        self.entries = np.zeros((rows, 2), np.float32)
        self.saves: list[str] = []

    def advance(self, agent: Any, updates: int) -> list[Episode]:
        episodes = []
        while self.env_steps < 3 * updates + 20:
            slot = self.env_steps % len(self.obs)
            self.obs[slot] = self.rng.standard_normal(3)
            agent.act(agent.initial_carry(1), {"obs": self.obs[slot : slot + 1]}, True)
            self.entries[slot] = 0
            self.env_steps += 1
            if self.env_steps % 10 == 0:
                score = float(self.rng.random())
                episodes.append(
                    Episode(
                        return_=score,
                        length=10,
                        env=0,
                        env_steps=self.env_steps,
                        terminated=True,
                        truncated=False,
                    )
                )
        return episodes

    def settle(self) -> list[Episode]:
        return []

    def batch(self, batch_size: int) -> dict[str, np.ndarray]:
        held = min(self.env_steps, len(self.obs))
        first = self.rng.integers(held - 4, size=batch_size)
        index = first[:, None] + np.arange(5)
        obs = self.obs[index]
        batch = {"obs": obs, "reward": obs.sum(-1), "stepid": index}
        return {**batch, "dyn/deter": self.entries[index]}

    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None:
        self.entries[stepid] = entries["dyn/deter"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "env_steps": self.env_steps,
            "save": self.saves[-1],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.env_steps = state["env_steps"]
        saved = np.load(self.folder / state["save"])
        self.obs, self.entries = saved["obs"], saved["entries"]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.saves.append(f"{self.env_steps}.npz")
        np.savez(folder / self.saves[-1], obs=self.obs, entries=self.entries)

    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None:
        for path in folder.iterdir():
            if path.name not in {state["save"] for state in states}:
                path.unlink()

    def load(self, folder: Path) -> None:
        self.folder = folder

    def close(self) -> None:
        pass


def tiny_evaluator(agent: Any, seed: int, should_stop: Any) -> Evaluation | None:
    """Scores the fit, so that training improves it; draws from every stream on purpose."""
    from worldflux.training.seed import isolated_rng

    if should_stop():
        return None
    with isolated_rng(seed, agent.generator), torch.no_grad():
        torch.randn(1)
        obs = torch.randn(256, 3, generator=agent.generator)
        error = (agent.model(obs)[:, 0] - obs.sum(-1)).square().mean()
    return Evaluation([float(-error)] * 2, [1, 1])
