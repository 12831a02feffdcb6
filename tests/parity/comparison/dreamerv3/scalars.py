"""expected.json: metrics, norms, clipping decisions and the optimizer's moments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tests.parity.comparison.compare import Comparison, Recorded
from worldflux.core.optim import adaptive_clip_
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.dreamerv3.official.weights import Weight

MODULES = ("enc", "dyn", "dec", "rew", "con", "pol", "val")
GRADIENT_METRICS = ("opt/grad_norm", "opt/grad_rms")
EXACT_METRICS = ("opt/param_count", "opt/updates")
SIGNED_METRICS = ("adv", "loss/policy")  # means of positive and negative numbers


class Scalars:
    """The comparisons of one expected.json. trained: parameters by their official names."""

    def __init__(
        self,
        agent: DreamerV3Agent,
        trained: Mapping[str, Tensor],
        names: Mapping[str, Weight],
        expected: Recorded,
        comparison: Comparison,
    ):
        self.agent, self.trained, self.names = agent, trained, names
        self.expected, self.comparison = expected, comparison
        self.tolerances = comparison.tolerances

    def gradient_tolerance(self, index: int) -> float:
        return self.tolerances.later_gradient if index else self.tolerances.gradient

    def check(
        self, name: str, ours: Tensor | float, tolerance: float, scale: float | None = None
    ) -> None:
        self.comparison.check(self.expected, name, ours, tolerance=tolerance, scale=scale)

    def loss_gradients(self, loss: str, mean: Tensor) -> None:
        """Which modules the mean of a loss reaches, and how strongly."""
        grads = torch.autograd.grad(mean, list(self.trained.values()), allow_unused=True)
        name = f"per_loss_grad_norm_by_module/{loss}"
        self.check(f"{name}/value", mean, self.tolerances.forward)
        for module in MODULES:
            norms = [
                grad.double().norm()
                for key, grad in zip(self.trained, grads, strict=True)
                if grad is not None and key.startswith(f"{module}/")
            ]
            norm = torch.stack(norms).norm() if norms else 0.0
            self.check(f"{name}/{module}", norm, self.tolerances.gradient)

    def clipping(self, total: Tensor) -> None:
        """Which gradients of the whole loss the optimizer clips in the first update."""
        grads = torch.autograd.grad(total, list(self.trained.values()))
        for (name, param), grad in zip(self.trained.items(), grads, strict=True):
            clipped = grad.clone()
            adaptive_clip_([param], [clipped], self.agent.training.agc)
            row, tolerance = f"agc_step1/{name}", self.tolerances.gradient
            self.check(f"{row}/gnorm", grad.double().norm(), tolerance)
            self.check(f"{row}/pnorm", param.detach().double().norm(), self.tolerances.forward)
            self.check(f"{row}/clipped", float(not torch.equal(clipped, grad)), 0.0)

    def update(
        self,
        index: int,
        metrics: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
    ) -> None:
        """Metrics of update number `index`, and norms of its gradients and parameter changes."""
        changes = {n: p.detach().double() - before[n].double() for n, p in self.trained.items()}
        for name, grad in gradients.items():
            tolerance = self.gradient_tolerance(index)
            self.check(f"steps/{index}/grad_norm/{name}", grad.double().norm(), tolerance)
        for name, change in changes.items():
            norm = change.norm()
            self.check(f"steps/{index}/update_norm/{name}", norm, self.tolerances.change)
        values = {name: float(value) for name, value in metrics.items()}
        values |= {
            "opt/loss": values["loss/total"],
            "opt/grad_rms": root_mean_square(gradients),
            "opt/param_rms": root_mean_square(self.trained),
            "opt/update_rms": root_mean_square(changes),
            "opt/param_count": sum(param.numel() for param in self.trained.values()),
            "opt/updates": self.agent.updates,
        }
        for name in self.expected.names(f"steps/{index}/metrics/"):
            if name in values:
                self.metric(index, name, values)

    def metric(self, index: int, name: str, values: Mapping[str, float]) -> None:
        tolerance = self.tolerances.later if index else self.tolerances.forward
        if name in GRADIENT_METRICS:
            tolerance = self.gradient_tolerance(index)
        elif name == "opt/update_rms":
            tolerance = self.tolerances.change
        elif name in EXACT_METRICS:
            tolerance = 0.0
        scale = max(abs(values[name]), values["adv_mag"]) if name in SIGNED_METRICS else None
        self.check(f"steps/{index}/metrics/{name}", values[name], tolerance, scale)

    def optimizer_state(self) -> None:
        """Moments and counters after the last update."""
        prefix, tolerance = "opt_state_after/opt/state", self.tolerances.change
        for path in ("1/0", "2/0", "3/count"):
            self.check(f"{prefix}/{path}", self.agent.updates, 0.0)
        for place, moment in (("1/1", "nu"), ("2/1", "mu")):
            for name, param in self.trained.items():
                value = self.agent.optimizer.state[param][moment].double()
                ours, total = f"{prefix}/{place}/{name}", float(value.abs().sum())
                self.check(f"{ours}/l2", value.norm(), tolerance)
                self.check(f"{ours}/sum", value.sum(), tolerance, total)
                shape = np.array(self.names[name].official_shape(param.shape))
                self.comparison.check(self.expected, f"{ours}/shape", shape, tolerance=0.0)


def root_mean_square(tensors: Mapping[str, Tensor]) -> float:
    """Over all elements of all tensors."""
    total = sum(float(value.detach().double().square().sum()) for value in tensors.values())
    return float((total / sum(value.numel() for value in tensors.values())) ** 0.5)
