"""The losses of DreamerV3 as pure functions.

Each returns one value per element and changes nothing; scales and means are the caller's. Letters:
B batch, T time, N imagined rows, H imagined steps, S stoch groups, K bins.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worldflux.core.distributions import OneHot
from worldflux.core.math import TwoHotCode, lambda_return, two_hot_code
from worldflux.models.dreamerv3.distributions import TwoHot


def kl_losses(posterior: OneHot, prior: OneHot, free_nats: float) -> tuple[Tensor, Tensor]:
    """Dynamics and representation loss `[B, T]` with free nats (DreamerV3, eq. 4).

    The KL of all stoch groups is summed first and clipped then.
    """
    dyn = posterior.detach().kl(prior).sum(-1).clamp(min=free_nats)  # [B, T, S] -> [B, T]
    rep = posterior.kl(prior.detach()).sum(-1).clamp(min=free_nats)  # [B, T, S] -> [B, T]
    return dyn, rep


def redundancy_loss(projected: Tensor, embed: Tensor, weight: float) -> Tensor:
    """Redundancy reduction between projected latents and embeds `[..., E]`, as in R2-Dreamer: a scalar.

    The cross-correlation `[E, E]` over all rows, with entries standardised, shall be the identity:
    (diagonal - 1)^2, and the others squared times `weight` (Barlow Twins, Zbontar et al. 2021, eq. 1).
    """
    x, y = (_standardised(one.flatten(0, -2)) for one in (projected, embed))  # [N, E] each
    correlation = x.T @ y / len(x)  # [E, E]
    equal = torch.diagonal(correlation)  # [E]
    different = correlation - torch.diag(equal)  # [E, E]
    return (equal - 1).square().sum() + weight * different.square().sum()


def _standardised(x: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the rows of x `[N, E]`."""
    full = x if x.dtype == torch.float64 else x.float()
    return (full - full.mean(0)) / (full.std(0) + 1e-8)  # [N, E]


def continue_target(is_terminal: Tensor, discount: float) -> Tensor:
    """What the continue head learns `[B, T]`: the discount, and zero after a terminal step."""
    return (~is_terminal).float() * discount  # [B, T]


class Returns(NamedTuple):
    """Lambda-returns `[N, H]` of imagined trajectories and their weights `[N, H+1]`."""

    returns: Tensor
    weight: Tensor


def imagined_returns(
    reward: Tensor, con: Tensor, value: Tensor, lam: float, discount: float = 1.0
) -> Returns:
    """Returns of imagined trajectories from predictions `[N, H+1]` (DreamerV3, eq. 5).

    discount: 1 where con already holds it. The weight of a step is the probability of reaching it.
    """
    keep, live = torch.full_like(reward, lam), con * discount  # [N, H+1] each
    returns = lambda_return(reward, live, keep, value, boot=value)  # [N, H]
    return Returns(returns, torch.cumprod(live, -1) / discount)  # [N, H] and [N, H+1]


def policy_loss(
    logp: Tensor, entropy: Tensor, advantage: Tensor, weight: Tensor, entropy_scale: float
) -> Tensor:
    """REINFORCE with entropy bonus `[N, H]` (DreamerV3, eq. 6); all arguments `[N, H]`."""
    return -weight * (logp * advantage.detach() + entropy_scale * entropy)  # [N, H]


def value_loss(
    value: TwoHot, target: Tensor, slow_value: Tensor, weight: Tensor, slow_scale: float
) -> Tensor:
    """Two-hot regression to the returns and to the slow critic (DreamerV3, eq. 7).

    value, target, slow_value and weight have the same shape `[...]`. Both regressions are one
    cross-entropy with the weighted sum of their codes.
    """
    code = two_hot_code(target.detach(), value.bins)  # of entries [..., 2], as the next
    slow = two_hot_code(slow_value.detach(), value.bins)
    both = TwoHotCode(
        torch.cat([code.place, slow.place], -1),  # [..., 4]
        torch.cat([code.weight, slow_scale * slow.weight], -1),  # [..., 4]
    )
    return weight * value.coded_loss(both)  # [...]


def replay_returns(
    reward: Tensor, is_last: Tensor, is_terminal: Tensor, boot: Tensor, discount: float, lam: float
) -> Tensor:
    """Lambda-returns `[B, T-1]` of replayed sequences `[B, T]` with real rewards.

    boot: imagined return from each state; it stands in wherever the sequence must be
    bootstrapped: for the (1 - lambda) share, where an episode was cut, and at the end.
    """
    live = (~is_terminal).to(reward.dtype) * discount  # [B, T]
    keep = (~is_last).to(reward.dtype) * lam  # [B, T]
    return lambda_return(reward, live, keep, boot, boot)  # [B, T-1]
