"""Running statistics that scale returns (DreamerV3, section "Actor learning")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldflux.core.math import percentile


class RunningScale(nn.Module):
    """Offset and scale of a stream of batches, by moving averages.

    impl: ``perc`` (low and high percentile, DreamerV3's return normaliser), ``meanstd`` or ``none``
    (offset 0, scale 1). The scale never falls below limit. debias corrects the averages' start at
    zero as Adam does.
    """

    lo: Tensor
    hi: Tensor
    mean: Tensor
    sqrs: Tensor
    corr: Tensor

    def __init__(
        self,
        impl: str = "perc",
        *,
        rate: float = 0.01,
        limit: float = 1.0,
        low: float = 5.0,
        high: float = 95.0,
        debias: bool = False,
    ):
        super().__init__()
        self.impl, self.rate, self.limit = impl, rate, limit
        self.percentiles, self.debias = (low, high), debias
        names = {"perc": ("lo", "hi"), "meanstd": ("mean", "sqrs"), "none": ()}[impl]
        for name in (*names, *(("corr",) if debias and names else ())):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Moves the averages towards the statistics of x, of any shape."""
        if self.impl == "perc":
            self.lo.lerp_(percentile(x, self.percentiles[0]).to(self.lo), self.rate)  # []
            self.hi.lerp_(percentile(x, self.percentiles[1]).to(self.hi), self.rate)  # []
        elif self.impl == "meanstd":
            self.mean.lerp_(x.mean().to(self.mean), self.rate)
            self.sqrs.lerp_(x.square().mean().to(self.sqrs), self.rate)
        if self.debias and self.impl != "none":
            self.corr.lerp_(torch.ones_like(self.corr), self.rate)

    def offset_scale(self) -> tuple[Tensor, Tensor]:
        """The current offset and scale, scalars."""
        if self.impl == "none":
            return torch.zeros(()), torch.ones(())
        factor = 1 / self.corr.clamp(min=self.rate) if self.debias else 1.0
        if self.impl == "perc":
            low, high = self.lo * factor, self.hi * factor
            return low, (high - low).clamp(min=self.limit)
        mean = self.mean * factor
        variance = (self.sqrs * factor - mean.square()).clamp(min=0.0)
        return mean, variance.sqrt().clamp(min=self.limit)
