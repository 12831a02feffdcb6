"""Distributions of TD-MPC2 alone, behind the interface of worldflux/core/distributions.py.

Letters: A action, K bins, `...` any leading dimensions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflux.core.math import symexp, symlog_two_hot


class SymlogTwoHot:
    """Categorical over bins `[K]` that are equally spaced in symlog space (TD-MPC2, eq. 3).

    Unlike with bins that are spaced exponentially (DreamerV3), the expectation is taken in symlog
    space and mapped back after that.
    """

    def __init__(self, logits: Tensor, bins: Tensor):
        self.logits = logits.float() if logits.dtype != torch.float64 else logits
        self.bins = bins

    def pred(self) -> Tensor:
        """Expected value `[...]`."""
        return symexp((F.softmax(self.logits, -1) * self.bins).sum(-1))  # [...]

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy `[...]` with the code of target `[...]`."""
        return self.coded_loss(symlog_two_hot(target, self.bins))

    def coded_loss(self, code: Tensor) -> Tensor:
        """Cross-entropy `[...]` with a code `[..., K]` that broadcasts against the logits."""
        return -(code * F.log_softmax(self.logits, -1)).sum(-1)  # [...]


class SquashedNormal:
    """tanh of a normal whose log standard deviation is bounded (TD-MPC2's policy prior).

    mean, raw `[..., A]`; log_std = low + (high - low) / 2 * (tanh(raw) + 1).
    mask `[..., A]`: where it is 0, mean, log_std and noise are 0, and so is the action; densities
    still count these dimensions, as the official ones do. dims: how many dimensions are used.
    """

    def __init__(
        self, mean: Tensor, raw: Tensor, low: float, high: float, mask: Tensor | None = None
    ):
        keep = mean.dtype if mean.dtype == torch.float64 else torch.float32
        self.mean, self.mask = mean.to(keep), mask
        self.log_std = low + 0.5 * (high - low) * (torch.tanh(raw.to(keep)) + 1)  # [..., A]
        self.dims: Tensor | int = mean.shape[-1]
        if mask is not None:
            self.mean, self.log_std = self.mean * mask, self.log_std * mask
            self.dims = mask.sum(-1)  # [...]

    def pred(self) -> Tensor:
        return torch.tanh(self.mean)

    def sample(self, normal: Tensor) -> Tensor:
        return torch.tanh(self.mean + self._masked(normal) * self.log_std.exp())  # [..., A]

    def _masked(self, normal: Tensor) -> Tensor:
        return normal if self.mask is None else normal * self.mask

    def gaussian_logp(self, normal: Tensor) -> Tensor:
        """Log-density `[...]` of the unsquashed sample that this noise gives."""
        each = -0.5 * self._masked(normal) ** 2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)  # [..., A] -> [...]

    def sample_logp(self, normal: Tensor) -> Tensor:
        """Log-density `[...]` of the squashed sample that this noise gives."""
        slope = torch.relu(1 - self.sample(normal) ** 2) + 1e-6  # [..., A]
        return self.gaussian_logp(normal) - torch.log(slope).sum(-1)  # [...]
