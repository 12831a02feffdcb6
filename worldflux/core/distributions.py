"""Distributions behind one interface: pred, sample, logp, entropy, kl, loss.

Sampling takes its noise as an argument: the caller draws it for a whole rollout at once, which is
faster than drawing per step, and recorded noise reproduces recorded samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflux.core.math import symexp, symlog, symlog_two_hot, two_hot, two_hot_mean


def gumbel_noise(
    shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Standard Gumbel noise, float32."""
    uniform = torch.rand(shape, generator=generator, device=device)
    tiny = torch.finfo(torch.float32).tiny
    return uniform.clamp_(min=tiny).log_().neg_().clamp_(min=tiny).log_().neg_()


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; for few classes several times as fast as the library's kernel."""
    weights = (logits - logits.amax(-1, keepdim=True).detach()).exp()
    return weights / weights.sum(-1, keepdim=True)


class OneHot:
    """Independent categoricals over the last axis of logits `[..., K]`, as one-hot vectors.

    unimix mixes in that share of the uniform distribution (DreamerV3, section "Unimix").
    """

    def __init__(self, logits: Tensor, unimix: float = 0.0):
        logits = logits.float() if logits.dtype != torch.float64 else logits
        if unimix:
            probs = (1 - unimix) * softmax(logits) + unimix / logits.shape[-1]
            self.logprob, self.probs = torch.log(probs), probs
        else:
            self.logprob = F.log_softmax(logits, -1)
            self.probs = self.logprob.exp()

    def pred(self) -> Tensor:
        """The most likely class as a one-hot `[..., K]`."""
        return F.one_hot(self.logprob.argmax(-1), self.logprob.shape[-1]).to(self.logprob.dtype)

    def sample(self, gumbel: Tensor) -> Tensor:
        """A one-hot sample `[..., K]` by the Gumbel-max rule; its gradient is that of the probs."""
        # max and not argmax, which is slow over a short last axis.
        index = (self.logprob.detach() + gumbel).max(-1, keepdim=True).indices
        classes = torch.arange(self.logprob.shape[-1], device=index.device)
        hard = (index == classes).to(self.probs.dtype)
        if not torch.is_grad_enabled():
            return hard
        return hard + (self.probs - self.probs.detach())

    def logp(self, event: Tensor) -> Tensor:
        """Log-probability `[...]` of a one-hot event `[..., K]`."""
        return (self.logprob * event).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy `[...]` in nats."""
        return -(self.probs * self.logprob).sum(-1)

    def kl(self, other: OneHot) -> Tensor:
        """KL(self || other) `[...]` in nats."""
        return (self.probs * (self.logprob - other.logprob)).sum(-1)

    def detach(self) -> OneHot:
        copy = object.__new__(OneHot)
        copy.logprob, copy.probs = self.logprob.detach(), self.probs.detach()
        return copy

    def loss(self, event: Tensor) -> Tensor:
        """Cross-entropy `[...]` with a one-hot event `[..., K]`."""
        return -self.logp(event)


class MultiOneHot:
    """Several categoricals with their own class counts, concatenated: a discrete space.

    logits `[..., sum(classes)]`; events are concatenated one-hots of the same shape.
    """

    def __init__(self, logits: Tensor, classes: tuple[int, ...]):
        self.parts = [OneHot(part) for part in logits.split(classes, -1)]
        self.logits, self.classes = logits, classes

    def pred(self) -> Tensor:
        return torch.cat([part.pred() for part in self.parts], -1)

    def sample(self, noise: Tensor) -> Tensor:
        pieces = zip(self.parts, noise.split(self.classes, -1), strict=True)
        return torch.cat([part.sample(piece) for part, piece in pieces], -1)

    def logp(self, event: Tensor) -> Tensor:
        pieces = zip(self.parts, event.split(self.classes, -1), strict=True)
        return torch.stack([part.logp(piece) for part, piece in pieces]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def entropy_range(self) -> tuple[float, float]:
        """Least and largest possible entropy."""
        return 0.0, sum(math.log(count) for count in self.classes)

    def loss(self, event: Tensor) -> Tensor:
        return -self.logp(event)


class BoundedNormal:
    """Normal with mean tanh(mean) and a bounded standard deviation (DreamerV3 actor).

    stddev = (high - low) * sigmoid(raw + 2) + low, both `[..., A]`.
    """

    def __init__(self, mean: Tensor, stddev: Tensor, low: float = 0.1, high: float = 1.0):
        self.mean = torch.tanh(mean)
        self.stddev = (high - low) * torch.sigmoid(stddev + 2.0) + low
        self.low, self.high = low, high

    def pred(self) -> Tensor:
        return self.mean

    def sample(self, normal: Tensor) -> Tensor:
        return normal * self.stddev + self.mean

    def logp(self, event: Tensor) -> Tensor:
        """Log-density `[...]`, summed over action dimensions."""
        z = (event - self.mean) / self.stddev
        return (-0.5 * z**2 - torch.log(self.stddev) - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy `[...]`, summed over action dimensions."""
        return (torch.log(self.stddev) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

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
        self._logprob: Tensor | None = None

    @classmethod
    def normalized(cls, logprob: Tensor, bins: Tensor) -> TwoHot:
        """From log-probabilities, which are not normalised again."""
        dist = cls(logprob, bins)
        dist._logprob = logprob
        return dist

    @property
    def logprob(self) -> Tensor:
        """Log-probabilities of the bins `[..., K]`, taken once, where a loss needs them."""
        if self._logprob is None:
            self._logprob = F.log_softmax(self.logits, -1)
        return self._logprob

    def pred(self) -> Tensor:
        """Expected value `[...]`."""
        return two_hot_mean(F.softmax(self.logits, -1), self.bins)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy `[...]` with the two-hot code of target `[...]`."""
        return self.coded_loss(two_hot(target, self.bins))

    def coded_loss(self, code: Tensor) -> Tensor:
        """Cross-entropy `[...]` with a code `[..., K]`, such as a weighted sum of two-hot codes."""
        return -(code * self.logprob).sum(-1)


class Binary:
    """Bernoulli of a logit `[...]`."""

    def __init__(self, logit: Tensor):
        self.logit = logit.float() if logit.dtype != torch.float64 else logit

    def prob(self) -> Tensor:
        return torch.sigmoid(self.logit)

    def pred(self) -> Tensor:
        return self.logit > 0

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy `[...]`; the target may be soft."""
        return -(target * F.logsigmoid(self.logit) + (1 - target) * F.logsigmoid(-self.logit))


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
        return ((self.mean - (symlog(target) if self.squash else target)) ** 2).sum(-1)


class ImageMSE:
    """Squared error on images `[..., C, H, W]` in [0, 1], summed over pixels."""

    def __init__(self, mean: Tensor):
        self.mean = mean

    def pred(self) -> Tensor:
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        """Loss `[...]`."""
        return ((self.mean - target) ** 2).flatten(-3).sum(-1)


class SymlogTwoHot:
    """Categorical over bins `[K]` that are equally spaced in symlog space (TD-MPC2, eq. 3).

    Unlike `TwoHot`, whose bins are spaced exponentially, the expectation is taken in symlog space
    and mapped back after that.
    """

    def __init__(self, logits: Tensor, bins: Tensor):
        self.logits = logits.float() if logits.dtype != torch.float64 else logits
        self.bins = bins

    def pred(self) -> Tensor:
        """Expected value `[...]`."""
        return symexp((F.softmax(self.logits, -1) * self.bins).sum(-1))

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy `[...]` with the code of target `[...]`."""
        return self.coded_loss(symlog_two_hot(target, self.bins))

    def coded_loss(self, code: Tensor) -> Tensor:
        """Cross-entropy `[...]` with a code `[..., K]` that broadcasts against the logits."""
        return -(code * F.log_softmax(self.logits, -1)).sum(-1)


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
        self.log_std = low + 0.5 * (high - low) * (torch.tanh(raw.to(keep)) + 1)
        self.dims: Tensor | int = mean.shape[-1]
        if mask is not None:
            self.mean, self.log_std = self.mean * mask, self.log_std * mask
            self.dims = mask.sum(-1)

    def pred(self) -> Tensor:
        return torch.tanh(self.mean)

    def sample(self, normal: Tensor) -> Tensor:
        return torch.tanh(self.mean + self._masked(normal) * self.log_std.exp())

    def _masked(self, normal: Tensor) -> Tensor:
        return normal if self.mask is None else normal * self.mask

    def gaussian_logp(self, normal: Tensor) -> Tensor:
        """Log-density `[...]` of the unsquashed sample that this noise gives."""
        each = -0.5 * self._masked(normal) ** 2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def sample_logp(self, normal: Tensor) -> Tensor:
        """Log-density `[...]` of the squashed sample that this noise gives."""
        slope = torch.relu(1 - self.sample(normal) ** 2) + 1e-6
        return self.gaussian_logp(normal) - torch.log(slope).sum(-1)
