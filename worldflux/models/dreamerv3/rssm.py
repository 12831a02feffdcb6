"""The recurrent state-space model of DreamerV3.

Letters: B batch, T time, H imagined steps, D deter, S stoch groups, K classes, F = D + S*K,
U hidden units, G blocks, E embed, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflux.core.distributions import OneHot
from worldflux.core.precision import recurrence_precision
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.layers import (
    MLP,
    BlockLinear,
    Linear,
    NormedLinear,
    RMSNorm,
    block_product,
)


class Latent(NamedTuple):
    """deter `[..., D]` and stoch `[..., S, K]`."""

    deter: Tensor
    stoch: Tensor

    def feat(self) -> Tensor:
        """The heads' input `[..., F]`: deter, then flattened stoch."""
        return torch.cat([self.deter, self.stoch.flatten(-2)], -1)  # [..., D + S*K]


class ScanWeights(NamedTuple):
    """See `RSSM.hoisted`."""

    per_block: Tensor  # [G, D/G, D/G]
    shared: Tensor  # [3*U, D]
    bias: Tensor  # [D]
    posterior: Tensor  # [U, D]


StepFunction = Callable[..., tuple[Tensor, Tensor, Tensor]]


def reset_rows(x: Tensor, is_first: Tensor) -> Tensor:
    """Zeroes the rows of x `[B, ...]` whose episode starts here."""
    return x * (~is_first).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))  # [B, ...] * [B, 1, ...]


def bound_action(action: Tensor) -> Tensor:
    """a / max(1, |a|) elementwise, the divisor without gradient."""
    return action / action.detach().abs().clamp(min=1.0)


class RSSM(nn.Module):
    """Sequence model h (block GRU), posterior z | h, embed and prior z | h (DreamerV3, eq. 3)."""

    def __init__(self, config: DreamerV3Config, embed: int, action: int):
        super().__init__()
        self.stoch, self.classes = config.stoch_discrete, config.stoch_classes  # S, K
        self.deter, self.blocks, self.unimix = config.deter_dim, config.blocks, config.unimix
        deter, blocks, hidden = self.deter, self.blocks, config.hidden_dim  # D, G, U
        flat, layers = self.stoch * self.classes, config.dyn_layers
        self.in_deter = NormedLinear(deter, hidden)
        self.in_stoch = NormedLinear(flat, hidden)
        self.in_action = NormedLinear(action, hidden)
        self.hidden = nn.ModuleList(
            BlockLinear(deter + (3 * hidden * blocks if i == 0 else 0), deter, blocks)
            for i in range(layers)
        )
        self.hidden_norms = nn.ModuleList(RMSNorm(deter) for _ in range(layers))
        self.gru = BlockLinear(deter, 3 * deter, blocks)
        self.posterior_in = NormedLinear(deter + embed, hidden)
        self.posterior_mlp = MLP(hidden, hidden, config.obs_layers - 1)
        self.posterior_out = Linear(hidden, flat)
        self.prior_mlp = MLP(deter, hidden, config.img_layers)
        self.prior_out = Linear(hidden, flat)

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> Latent:
        """Zero latents for B rows."""
        return Latent(
            torch.zeros(batch, self.deter, device=device, dtype=dtype),  # [B, D]
            torch.zeros(batch, self.stoch, self.classes, device=device, dtype=dtype),  # [B, S, K]
        )

    def dist(self, logit: Tensor) -> OneHot:
        """Unimixed categoricals of logits `[..., S, K]`."""
        return OneHot(logit, self.unimix)

    def embed_action(self, action: Tensor) -> Tensor:
        """Action embedding `[..., U]` of flat actions `[..., A]`."""
        return self.in_action(bound_action(action))

    def hoisted(self) -> ScanWeights:
        """Weights that are cut to pieces once per scan instead of once per step.

        The first hidden layer's input per block is that block of deter beside the same three
        embeddings, so the share of the embeddings is one dense product `[3*U, D]` instead of G small
        ones on copies. The posterior's first layer meets deter alone; see `prepare`.
        """
        first = self.hidden[0]
        assert isinstance(first, BlockLinear)
        weight = first.weight  # [G, D/G + 3*U, D/G]
        block = self.deter // self.blocks  # D/G
        shared = weight[:, block:].permute(1, 0, 2).reshape(-1, self.deter)  # [3*U, D]
        posterior, _ = self.posterior_in.split(self.deter)
        return ScanWeights(weight[:, :block], shared, first.bias, posterior)

    def core(
        self, deter: Tensor, stoch: Tensor, action_embed: Tensor, weights: ScanWeights
    ) -> Tensor:
        """Block GRU: next deter `[B, D]` from deter, stoch `[B, S, K]`, action_embed `[B, U]`."""
        stoch = stoch.flatten(1)  # [B, S, K] -> [B, S*K]
        x = torch.cat([self.in_deter(deter), self.in_stoch(stoch), action_embed], -1)  # [B, 3*U]
        x = block_product(deter, weights.per_block) + x @ weights.shared + weights.bias  # [B, D]
        x = F.silu(self.hidden_norms[0](x))
        for i in range(1, len(self.hidden)):
            x = F.silu(self.hidden_norms[i](self.hidden[i](x)))  # [B, D]
        gates = self.gru(x).unflatten(-1, (self.blocks, 3, -1))  # [B, 3*D] -> [B, G, 3, D/G]
        reset, cand, update = (gate.flatten(1) for gate in gates.unbind(-2))  # each [B, D]
        cand = torch.tanh(torch.sigmoid(reset) * cand)
        update = torch.sigmoid(update - 1)
        return update * cand + (1 - update) * deter  # [B, D]

    def prior(self, deter: Tensor) -> Tensor:
        """Prior logits `[..., S, K]` of deter `[..., D]`."""
        return self._logits(self.prior_out(self.prior_mlp(deter)))

    def posterior(self, deter: Tensor, embed_share: Tensor, weights: ScanWeights) -> Tensor:
        """Posterior logits `[..., S, K]`; embed_share is the first layer's part of the embed."""
        x = self.posterior_in.finish(F.linear(deter, weights.posterior) + embed_share)  # [..., U]
        return self._logits(self.posterior_out(self.posterior_mlp(x)))

    def _logits(self, x: Tensor) -> Tensor:
        x = x if x.dtype == torch.float64 else x.float()
        return x.unflatten(-1, (self.stoch, self.classes))  # [..., S*K] -> [..., S, K]

    def observe_step(
        self,
        deter: Tensor,
        stoch: Tensor,
        action_embed: Tensor,
        embed_share: Tensor,
        is_first: Tensor,
        gumbel: Tensor,
        weights: ScanWeights,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of `observe`: deter `[B, D]`, stoch and posterior logits `[B, S, K]`."""
        deter, stoch = reset_rows(deter, is_first), reset_rows(stoch, is_first)
        deter = self.core(deter, stoch, action_embed, weights)  # [B, D]
        logit = self.posterior(deter, embed_share, weights)  # [B, S, K]
        return deter, self.dist(logit).sample(gumbel), logit

    def prepare(self, embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """What an observed sequence feeds into the recurrence, in one product each.

        embed `[B, T, E]`; action `[B, T, A]`: the action that led to each observation. Returns the
        embed's share of the posterior's first layer and the action embedding, `[B, T, U]`.
        """
        action = action * (~is_first)[..., None]  # [B, T, A]
        _, weight = self.posterior_in.split(self.deter)  # [U, E]
        return F.linear(embed, weight), self.embed_action(action)  # [B, T, U] each

    def observe(
        self,
        carry: Latent,
        embed_share: Tensor,
        action_embed: Tensor,
        is_first: Tensor,
        gumbel: Tensor,
        step: StepFunction | None = None,
    ) -> tuple[Latent, Tensor]:
        """Posterior states along an observed sequence that went through `prepare`.

        carry: state before the first step. is_first `[B, T]`. gumbel `[T, B, S, K]`. step: a
        compiled `observe_step`. Returns latents and posterior logits, each `[B, T, ...]`.
        """
        step = step or self.observe_step
        shares, actions = embed_share.unbind(1), action_embed.unbind(1)  # T times [B, U]
        firsts, weights = is_first.unbind(1), self.hoisted()  # T times [B]
        deter, stoch = carry  # [B, D] and [B, S, K]
        if torch.is_grad_enabled():
            # As the states of all later steps do, so that a compiled step is compiled only once.
            deter, stoch = deter.detach().requires_grad_(), stoch.detach().requires_grad_()
        states = []
        with recurrence_precision(deter.device):
            for t in range(len(shares)):
                deter, stoch, logit = step(
                    deter, stoch, actions[t], shares[t], firsts[t], gumbel[t], weights
                )
                states.append((deter, stoch, logit))
        return _stacked(states)

    def imagine_step(
        self, deter: Tensor, stoch: Tensor, action: Tensor, noise: Tensor, weights: ScanWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of `imagine`: deter `[B, D]`, stoch and prior logits `[B, S, K]`; noise: see
        `OneHot.sample`."""
        deter = self.core(deter, stoch, self.embed_action(action), weights)  # [B, D]
        logit = self.prior(deter)  # [B, S, K]
        return deter, self.dist(logit).sample(noise), logit

    def imagine(self, carry: Latent, action: Tensor, gumbel: Tensor) -> tuple[Latent, Tensor]:
        """Prior states under actions `[B, T, A]`; gumbel `[T, B, S, K]`. As `observe`."""
        weights, (deter, stoch) = self.hoisted(), carry
        states = []
        for t in range(action.shape[1]):
            deter, stoch, logit = self.imagine_step(deter, stoch, action[:, t], gumbel[t], weights)
            states.append((deter, stoch, logit))
        return _stacked(states)


def _stacked(states: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Latent, Tensor]:
    """Latents and logits `[B, T, ...]` of T steps' deter, stoch and logit `[B, ...]`."""
    deter, stoch, logit = (torch.stack(parts, 1) for parts in zip(*states, strict=True))
    return Latent(deter, stoch), logit  # [B, T, D], [B, T, S, K] and [B, T, S, K]
