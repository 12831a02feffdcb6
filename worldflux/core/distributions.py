"""Distributions behind one interface: pred, sample, logp, entropy, kl, loss.

Letters: K classes, C the sum of all class counts of a discrete space, `...` any leading dimensions.

Sampling takes its noise as an argument: the caller draws it for a whole rollout at once, which is
faster than drawing per step, and recorded noise reproduces recorded samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gumbel_noise(
    shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Standard Gumbel noise, float32."""
    uniform = torch.rand(shape, generator=generator, device=device)
    tiny = torch.finfo(torch.float32).tiny
    return uniform.clamp_(min=tiny).log_().neg_().clamp_(min=tiny).log_().neg_()


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; for few classes several times as fast as the library's kernel."""
    weights = (logits - logits.amax(-1, keepdim=True).detach()).exp()  # [..., K]
    return weights / weights.sum(-1, keepdim=True)  # [..., K]


class OneHot:
    """Independent categoricals over the last axis of logits `[..., K]`, as one-hot vectors.

    unimix mixes in that share of the uniform distribution (DreamerV3, section "Unimix").
    """

    def __init__(self, logits: Tensor, unimix: float = 0.0):
        logits = logits.float() if logits.dtype != torch.float64 else logits
        if unimix:
            probs = (1 - unimix) * softmax(logits) + unimix / logits.shape[-1]  # [..., K]
            self.logprob, self.probs = torch.log(probs), probs
        else:
            self.logprob = F.log_softmax(logits, -1)  # [..., K]
            self.probs = self.logprob.exp()  # [..., K]

    def pred(self) -> Tensor:
        """The most likely class as a one-hot `[..., K]`."""
        return F.one_hot(self.logprob.argmax(-1), self.logprob.shape[-1]).to(self.logprob.dtype)

    def sample(self, noise: Tensor) -> Tensor:
        """A one-hot sample `[..., K]`; its gradient is that of the probs.

        noise: standard Gumbel `[..., K]`, for the Gumbel-max rule; or, several times as fast, one
        uniform number per categorical `[..., 1]`, for the inverse of the distribution function.
        """
        if noise.shape[-1] == self.probs.shape[-1]:
            # max and not argmax, which is slow over a short last axis.
            index = (self.logprob.detach() + noise).max(-1, keepdim=True).indices  # [..., 1]
        else:
            reached = self.probs.detach().cumsum(-1)[..., :-1] <= noise  # [..., K-1]
            index = reached.sum(-1, keepdim=True)  # [..., 1]
        classes = torch.arange(self.logprob.shape[-1], device=index.device)  # [K]
        hard = (index == classes).to(self.probs.dtype)  # [..., K]
        if not torch.is_grad_enabled():
            return hard
        return hard + (self.probs - self.probs.detach())

    def logp(self, event: Tensor) -> Tensor:
        """Log-probability `[...]` of a one-hot event `[..., K]`."""
        return (self.logprob * event).sum(-1)  # [...]

    def entropy(self) -> Tensor:
        """Entropy `[...]` in nats."""
        return -(self.probs * self.logprob).sum(-1)  # [...]

    def kl(self, other: OneHot) -> Tensor:
        """KL(self || other) `[...]` in nats."""
        return (self.probs * (self.logprob - other.logprob)).sum(-1)  # [...]

    def detach(self) -> OneHot:
        copy = object.__new__(OneHot)
        copy.logprob, copy.probs = self.logprob.detach(), self.probs.detach()
        return copy

    def loss(self, event: Tensor) -> Tensor:
        """Cross-entropy `[...]` with a one-hot event `[..., K]`."""
        return -self.logp(event)


class MultiOneHot:
    """Several categoricals, each with its class count, concatenated: a discrete space.

    logits `[..., C]`; events are concatenated one-hots of the same shape.
    """

    def __init__(self, logits: Tensor, classes: tuple[int, ...]):
        self.parts = [OneHot(part) for part in logits.split(classes, -1)]  # each [..., K]
        self.logits, self.classes = logits, classes

    def pred(self) -> Tensor:
        return torch.cat([part.pred() for part in self.parts], -1)  # [..., C]

    def sample(self, noise: Tensor) -> Tensor:
        pieces = zip(self.parts, noise.split(self.classes, -1), strict=True)
        return torch.cat([part.sample(piece) for part, piece in pieces], -1)  # [..., C]

    def logp(self, event: Tensor) -> Tensor:
        pieces = zip(self.parts, event.split(self.classes, -1), strict=True)
        return torch.stack([part.logp(piece) for part, piece in pieces]).sum(0)  # [...]

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)  # [...]

    def entropy_range(self) -> tuple[float, float]:
        """Least and largest possible entropy."""
        return 0.0, sum(math.log(count) for count in self.classes)

    def loss(self, event: Tensor) -> Tensor:
        return -self.logp(event)


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
