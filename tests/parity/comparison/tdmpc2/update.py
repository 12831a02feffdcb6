"""update.npz: whole updates, their gradients and the parameters that they leave."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
from torch import Tensor

from tests.parity.comparison.compare import Comparison, Recorded
from tests.parity.comparison.tdmpc2.forward import ENTROPY
from tests.parity.comparison.tdmpc2.subject import Doubles, Subject, Twice
from worldflux.models.tdmpc2.objective import ModelStep, Noise, Slices
from worldflux.models.tdmpc2.official.weights import load_official

# Recorded name -> our metric.
METRICS = {
    "consistency_loss": "loss/consistency",
    "reward_loss": "loss/reward",
    "value_loss": "loss/td",
    "termination_loss": "loss/termination",
    "total_loss": "loss/total",
    "grad_norm": "opt/grad_norm",
    "pi_loss": "loss/policy",
    "pi_grad_norm": "opt/policy_grad_norm",
    "pi_entropy": "policy_entropy",
    "pi_scaled_entropy": "policy_scaled_entropy",
    "pi_scale": "q_scale",
    "termination_rate": "termination_rate",
    "termination_f1": "termination_f1",
}


class Update:
    """The comparisons of consecutive updates on one batch, done by the agent's own `update`."""

    def __init__(self, subject: Subject, folder: Path, doubles: Doubles, comparison: Comparison):
        self.subject, self.agent, self.folder = subject, subject.agent, folder
        self.doubles, self.comparison = doubles, comparison

    def run(self) -> None:
        weights = Recorded.load(self.folder / "weights.npz", "weights/")
        load_official(self.subject.model, weights.arrays)
        config = self.subject.model.config
        span = config.log_std_max - config.log_std_min
        for name, value in (("log_std_min", config.log_std_min), ("log_std_dif", span)):
            self.comparison.check(weights, name, value, tolerance=0.0)
        for name in self.subject.names:
            weights[name]
        self.comparison.finish(weights)
        recorded = Recorded.load(self.folder / "update.npz", "update/")
        batch = self.subject.batch(recorded)
        for index in range(len(recorded.names("noise_upd")) // 4):
            self.step(index, recorded, batch)
            self.after(index + 1, weights.arrays)
        self.comparison.finish(recorded)

    def noise(self, index: int, recorded: Recorded) -> Noise:
        names = ("td_pi_eps", "td_qidx", "pi_eps", "pi_qidx")
        arrays = (recorded[f"noise_upd{index}_{name}"] for name in names)
        return Noise(*(self.subject.tensor(array) for array in arrays))

    def update(self, batch: dict[str, Tensor], noise: Noise) -> tuple[dict[str, Tensor], ModelStep]:
        """The agent's metrics, and what it computed of the model."""
        steps: list[ModelStep] = []
        objective = self.agent.objective
        model_losses = objective.model_losses

        def watched(data: Slices, noise: Noise) -> ModelStep:
            steps.append(model_losses(data, noise))
            return steps[-1]

        with mock.patch.object(objective, "model_losses", watched):
            metrics, _, _ = self.agent.update(batch, noise=noise)
        return metrics, steps[0]

    def step(self, index: int, recorded: Recorded, batch: dict[str, Tensor]) -> None:
        metrics, step = self.update(batch, self.noise(index, recorded))
        limits = self.comparison.tolerances
        # After an update the float32 parameters that follow differ by rounding.
        later, exact = (limits.later, 1e-7) if index else (limits.forward, 1e-8)
        check = Twice(recorded, self.doubles, self.comparison, self.subject.dtype, exact)
        for name, metric in METRICS.items():
            label = f"upd{index}_{name}"
            if metric == "loss/termination" and metric not in metrics:
                check(label, 0.0, 0.0)
            elif metric in metrics:
                check(label, metrics[metric], ENTROPY if name == "pi_entropy" else later)
        # Two rewards of 1e7 among rewards of size 1: every element by its own size.
        check(f"upd{index}_td_targets", step.td_target[..., None], later, absolute=True)
        check(f"upd{index}_zs", step.latent, later)
        if f"out_upd{index}_next_z" in recorded:
            check(f"upd{index}_next_z", step.target, later)
        check(f"upd{index}_scale_value", self.subject.model.q_scale.value, later)

    def after(self, updates: int, start: dict[str, np.ndarray]) -> None:
        """Gradients and parameters of this many updates, where they were recorded."""
        file = self.folder / f"update_grads{updates}.npz"
        if file.is_file():
            grads = Recorded.load(file, f"{file.stem}/")
            for official, ours in self.subject.names.items():
                if ours in self.agent.gradients:
                    limit = self.comparison.tolerances.gradient
                    value = self.agent.gradients[ours]
                    self.comparison.check(grads, official, value, tolerance=limit)
            self.comparison.finish(grads)
        file = self.folder / f"update_params{updates}.npz"
        if file.is_file():
            params, state = Recorded.load(file, f"{file.stem}/"), self.subject.model.state_dict()
            for official, ours in self.subject.names.items():
                self.comparison.check_change(params, official, state[ours], start[official])
            for name in ("log_std_min", "log_std_dif"):
                if name in params:
                    self.comparison.check(params, name, start[name], tolerance=0.0)
            self.comparison.finish(params)
