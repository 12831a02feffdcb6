"""Optimizers, what a checkpoint holds of them, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldflux.config.training import TrainingConfig
from worldflux.core.math import linear_warmup
from worldflux.errors import ConfigurationError


class LaProp(torch.optim.Optimizer):
    """LaProp with adaptive gradient clipping (DreamerV3, section "Optimizer").

    Per tensor: the gradient norm is clipped to agc * max(1e-3, |p|); the gradient is divided by its
    running root mean square; the momentum is taken of the normalised gradient; weight decay is
    decoupled and applies to matrices only. agc 0 switches the clipping off.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        weight_decay: float = 0.0,
    ):
        defaults = dict(lr=lr, betas=betas, eps=eps, agc=agc, weight_decay=weight_decay)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient. Gradients are overwritten."""
        if closure is not None:
            raise ValueError("LaProp takes no closure")
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = dict(nu=torch.zeros_like(p), mu=torch.zeros_like(p))
        group["count"] = t = group.get("count", 0) + 1
        beta1, beta2 = group["betas"]
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        nus = [self.state[p]["nu"] for p in params]
        mus = [self.state[p]["mu"] for p in params]
        if group["agc"]:
            adaptive_clip_(params, grads, group["agc"])
        torch._foreach_mul_(nus, beta2)
        torch._foreach_addcmul_(nus, grads, grads, 1 - beta2)
        denominator = torch._foreach_div(nus, 1 - beta2**t)
        torch._foreach_sqrt_(denominator)
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_div_(grads, denominator)
        torch._foreach_lerp_(mus, grads, 1 - beta1)
        step = torch._foreach_div(mus, 1 - beta1**t)
        if group["weight_decay"]:
            matrices = [i for i, p in enumerate(params) if p.ndim > 1]
            torch._foreach_add_(
                [step[i] for i in matrices],
                [params[i] for i in matrices],
                alpha=group["weight_decay"],
            )
        torch._foreach_add_(params, step, alpha=-group["lr"])


@torch.no_grad()
def adaptive_clip_(params: list[Tensor], grads: list[Tensor], limit: float) -> None:
    """Adaptive gradient clipping: |g| <= limit * max(1e-3, |p|) per tensor, in place."""
    param_norms = torch._foreach_norm(params)
    grad_norms = torch.stack(torch._foreach_norm(grads))
    bounds = limit * torch.stack(param_norms).clamp(min=1e-3)
    factors = 1 / (grad_norms / bounds).clamp(min=1.0)
    torch._foreach_mul_(grads, list(factors.unbind()))


def make_optimizer(
    params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], training: TrainingConfig
) -> torch.optim.Optimizer:
    """The optimizer that a TrainingConfig names, for parameters or groups of them."""
    name, lr, decay = training.optimizer, training.learning_rate, training.weight_decay
    betas, eps = (training.beta1, training.beta2), training.optimizer_eps
    items: list[Any] = list(params)
    groups = [p["params"] if isinstance(p, dict) else [p] for p in items]
    # torch's Adam steps tensor by tensor by default on the CPU, ten times as slow, and in many
    # kernels on CUDA.
    kinds = {p.device.type for group in groups for p in group}
    fused = True if kinds in ({"cpu"}, {"cuda"}) else None
    if name == "laprop":
        eps = 1e-20 if eps is None else eps
        return LaProp(items, lr, betas=betas, eps=eps, agc=training.agc, weight_decay=decay)
    if name in ("adam", "adamw"):
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        eps = 1e-8 if eps is None else eps
        return kind(items, lr, betas, eps=eps, weight_decay=decay, fused=fused)
    if name == "sgd":
        return torch.optim.SGD(items, lr, momentum=training.beta1, weight_decay=decay)
    raise ConfigurationError(f"training.optimizer: {name!r} is not laprop, adamw, adam or sgd")


@torch.no_grad()
def move_target_(
    target: list[Tensor], source: list[Tensor], rate: float, *, every: int = 1, count: int = 0
) -> None:
    """Moves target tensors towards source by `rate`, where `count` (from 0) is due."""
    if count % every == 0:
        torch._foreach_lerp_(target, source, rate)


def schedule_factor(name: str, step: int, total: int, warmup: int, final: float = 0.0) -> float:
    """Factor of the learning rate at update `step` (from 0) of `total`, warm-up included.

    final: the factor that linear and cosine schedules end with.
    """
    factor = linear_warmup(step, warmup)
    progress = min(1.0, max(0, step - warmup) / max(1, total - warmup))
    if name == "linear":
        return factor * (final + (1 - final) * (1 - progress))
    if name == "cosine":
        return factor * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
    if name in ("none", "constant"):
        return factor
    raise ConfigurationError(f"training.scheduler: {name!r} is not none, linear, cosine, constant")


def learning_rate(training: TrainingConfig, update: int) -> float:
    """Learning rate of an update (from 0), by the TrainingConfig's schedule."""
    total, warmup = training.total_steps, training.warmup_steps
    return training.learning_rate * schedule_factor(training.scheduler, update, total, warmup)


def optimizer_state(
    optimizers: Sequence[torch.optim.Optimizer], model: nn.Module, updates: int, mark: str
) -> dict[str, Tensor]:
    """Flat tensors of optimizers: `<parameter><mark><entry>`, and `count`, the updates and the steps
    of every group."""
    names: dict[Any, str] = {param: name for name, param in model.named_parameters()}
    state = {
        f"{names[param]}{mark}{entry}": torch.as_tensor(value)
        for optimizer in optimizers
        for param, values in optimizer.state.items()
        for entry, value in values.items()
        if value is not None
    }
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return state | {"count": torch.tensor([updates, *(g.get("count", 0) for g in groups)])}


def load_optimizer_state(
    optimizers: Sequence[torch.optim.Optimizer],
    model: nn.Module,
    saved: Mapping[str, Tensor],
    mark: str,
) -> int:
    """Restores `optimizer_state` in place; returns the updates."""
    params = dict(model.named_parameters())
    groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
    holder = {param: optimizer for optimizer, group in groups for param in group["params"]}
    for optimizer in optimizers:
        optimizer.state.clear()
    for key, value in saved.items():
        name, _, entry = key.rpartition(mark)
        if name in params:
            param = params[name]
            place = param.device if value.ndim else "cpu"
            holder[param].state[param][entry] = value.clone().to(place)
    updates, *counts = (int(value) for value in saved["count"])
    for (_, group), count in zip(groups, counts, strict=False):
        if "count" in group or count:
            group["count"] = count
    return updates
