"""TD-MPC2's losses as pure functions, one value per element.

Letters: H steps of the unrolled model, B batch, L latent, Q number of Q networks, K bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflux.core.distributions import MultiOneHot
from worldflux.models.tdmpc2.distributions import SquashedNormal, SymlogTwoHot


def td_target(
    reward: Tensor, terminated: Tensor, value: Tensor, discount: float | Tensor
) -> Tensor:
    """r + discount * (1 - terminated) * Q(z', pi(z')), all `[H, B]` (TD-MPC2, eq. 4)."""
    return reward + discount * (1 - terminated) * value  # [H, B]


def consistency_loss(latent: Tensor, target: Tensor) -> Tensor:
    """Squared error `[H, B]` of predicted latents `[H, B, L]`, mean over L (eq. 3)."""
    return ((latent - target) ** 2).mean(-1)  # [H, B, L] -> [H, B]


def value_loss(logits: Tensor, code: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy `[H, B]` of all Q networks `[Q, H, B, K]` with a code `[H, B, K]`, their mean."""
    return SymlogTwoHot(logits, bins).coded_loss(code).mean(0)  # [Q, H, B] -> [H, B]


def termination_loss(logit: Tensor, terminated: Tensor) -> Tensor:
    """Binary cross-entropy `[H, B]` of the next latents' termination logits."""
    full = logit if logit.dtype == torch.float64 else logit.float()
    return F.binary_cross_entropy_with_logits(full, terminated, reduction="none")  # [H, B]


def termination_statistics(prob: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
    """Share of ended episodes and F1 score of the predictions above 0.5, of rows `[B]`."""
    predicted, truth = ((x > 0.5).to(prob.dtype) for x in (prob, terminated))  # [B] each
    hits = (predicted * truth).sum()  # [], as all that follows
    recall = hits / (truth.sum() + 1e-9)
    precision = hits / (predicted.sum() + 1e-9)
    return truth.mean(), 2 * precision * recall / (precision + recall + 1e-9)


def policy_loss(value: Tensor, scaled_entropy: Tensor, scale: Tensor, coef: float) -> Tensor:
    """-(Q / scale + coef * scaled entropy), each `[..., B]` (TD-MPC2, eq. 5)."""
    return -(coef * scaled_entropy + value / scale)  # [..., B]


def entropies(dist: SquashedNormal | MultiOneHot, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(entropy, scaled entropy) `[...]` of the sample that this noise gives.

    Continuous: one-sample estimates; the scaled one multiplies that of the squashed sample by
    action_dim times the ratio of the unsquashed and the squashed log-density, as the official code
    does. Discrete: the exact entropy in nats, and that times the number of entries.
    """
    if isinstance(dist, MultiOneHot):
        entropy = dist.entropy()  # [...]
        return entropy, entropy * len(dist.classes)
    logp = dist.sample_logp(noise)  # [...]
    ratio = dist.gaussian_logp(noise) * dist.dims / (logp + 1e-8)  # [...]
    return -logp, -logp * ratio
