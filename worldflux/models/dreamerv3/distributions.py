"""Distributions of DreamerV3 alone, behind the interface of worldflux/core/distributions.py.

Letters: A action, D values of a vector, K bins, C H W channels, height, width, `...` any leading
dimensions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflux.core.math import (
    TwoHotCode,
    coded_cross_entropy,
    symexp,
    symlog,
    two_hot_code,
    two_hot_mean,
)


class BoundedNormal:
    """Normal with mean tanh(mean) and a bounded standard deviation (DreamerV3 actor).

    stddev = (high - low) * sigmoid(raw + 2) + low, both `[..., A]`.
    """

    def __init__(self, mean: Tensor, stddev: Tensor, low: float = 0.1, high: float = 1.0):
        self.mean = torch.tanh(mean)  # [..., A]
        self.stddev = (high - low) * torch.sigmoid(stddev + 2.0) + low  # [..., A]
        self.low, self.high = low, high

    def pred(self) -> Tensor:
        return self.mean

    def sample(self, normal: Tensor) -> Tensor:
        return normal * self.stddev + self.mean  # [..., A]

    def logp(self, event: Tensor) -> Tensor:
        """Log-density `[...]`, summed over action dimensions."""
        z = (event - self.mean) / self.stddev  # [..., A]
        each = -0.5 * z**2 - torch.log(self.stddev) - 0.5 * math.log(2 * math.pi)  # [..., A]
        return each.sum(-1)  # [...]

    def entropy(self) -> Tensor:
        """Differential entropy `[...]`, summed over action dimensions."""
        each = torch.log(self.stddev) + 0.5 * math.log(2 * math.pi * math.e)  # [..., A]
        return each.sum(-1)  # [...]

    def entropy_range(self) -> tuple[float, float]:
        """Least and largest possible entropy of all action dimensions together."""
        unit = 0.5 * math.log(2 * math.pi * math.e)
        dims = self.mean.shape[-1]
        return dims * (math.log(self.low) + unit), dims * (math.log(self.high) + unit)


class TwoHot:
    """Categorical over symexp bins `[K]` that stands for a real number (DreamerV3, eq. 8-10)."""

    def __init__(self, logits: Tensor, bins: Tensor):
        self.logits = logits.float() if logits.dtype != torch.float64 else logits
        self.bins = bins

    def pred(self) -> Tensor:
        """Expected value `[...]`."""
        return two_hot_mean(F.softmax(self.logits, -1), self.bins)  # [...]

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy `[...]` with the two-hot code of target `[...]`."""
        return self.coded_loss(two_hot_code(target, self.bins))  # [...]

    def coded_loss(self, code: TwoHotCode) -> Tensor:
        """Cross-entropy `[...]` with codes, such as the weighted sum of several."""
        return coded_cross_entropy(self.logits, code)  # [...]


class SymlogMSE:
    """Squared error in symlog space, summed over the last axis of mean `[..., D]`."""

    def __init__(self, mean: Tensor, squash: bool = True):
        self.mean = mean.float() if mean.dtype != torch.float64 else mean
        self.squash = squash

    def pred(self) -> Tensor:
        """Prediction `[..., D]` in the units of the target."""
        return symexp(self.mean) if self.squash else self.mean

    def loss(self, target: Tensor) -> Tensor:
        """Loss `[...]`."""
        return ((self.mean - (symlog(target) if self.squash else target)) ** 2).sum(-1)  # [...]


class ImageMSE:
    """Squared error on images `[..., C, H, W]` in [0, 1], summed over pixels."""

    def __init__(self, mean: Tensor):
        self.mean = mean

    def pred(self) -> Tensor:
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        """Loss `[...]`."""
        return ((self.mean - target) ** 2).flatten(-3).sum(-1)  # [..., C*H*W] -> [...]
