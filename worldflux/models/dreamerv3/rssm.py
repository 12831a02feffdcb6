"""The recurrent state-space model of DreamerV3.

Letters: B batch, T time, H imagined steps, D deter, S stoch groups, K classes, F = D + S*K,
U hidden units, G blocks, E embed, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflux.core.distributions import OneHot
from worldflux.core.layers import MLP, BlockLinear, Linear, NormedLinear, RMSNorm, block_product


class Latent(NamedTuple):
    """deter `[..., D]` and stoch `[..., S, K]`."""

    deter: Tensor
    stoch: Tensor

    def feat(self) -> Tensor:
        """The heads' input `[..., F]`: deter, then flattened stoch."""
        return torch.cat([self.deter, self.stoch.flatten(-2)], -1)


class ScanWeights(NamedTuple):
    """See `RSSM.hoisted`."""

    per_block: Tensor  # [G, D/G, D/G]
    shared: Tensor  # [3U, D]
    bias: Tensor  # [D]
    posterior: Tensor  # [U, D]


def reset_rows(x: Tensor, is_first: Tensor) -> Tensor:
    """Zeroes the rows of x `[B, ...]` whose episode starts here."""
    return x * (~is_first).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def bound_action(action: Tensor) -> Tensor:
    """a / max(1, |a|) elementwise, the divisor without gradient."""
    return action / action.detach().abs().clamp(min=1.0)


class RSSM(nn.Module):
    """Sequence model h (block GRU), posterior z | h, embed and prior z | h (DreamerV3, eq. 3)."""

    def __init__(
        self,
        *,
        deter: int,
        stoch: int,
        classes: int,
        hidden: int,
        blocks: int,
        embed: int,
        action: int,
        dyn_layers: int,
        obs_layers: int,
        img_layers: int,
        unimix: float,
    ):
        super().__init__()
        self.deter, self.stoch, self.classes, self.blocks = deter, stoch, classes, blocks
        self.unimix = unimix
        flat = stoch * classes
        self.in_deter = NormedLinear(deter, hidden)
        self.in_stoch = NormedLinear(flat, hidden)
        self.in_action = NormedLinear(action, hidden)
        self.hidden = nn.ModuleList(
            BlockLinear(deter + (3 * hidden * blocks if i == 0 else 0), deter, blocks)
            for i in range(dyn_layers)
        )
        self.hidden_norms = nn.ModuleList(RMSNorm(deter) for _ in range(dyn_layers))
        self.gru = BlockLinear(deter, 3 * deter, blocks)
        self.posterior_in = NormedLinear(deter + embed, hidden)
        self.posterior_mlp = MLP(hidden, hidden, obs_layers - 1)
        self.posterior_out = Linear(hidden, flat)
        self.prior_mlp = MLP(deter, hidden, img_layers)
        self.prior_out = Linear(hidden, flat)
        # The agent puts a compiled version here where compilation is asked for.
        self.observe_step: Callable[..., tuple[Tensor, Tensor, Tensor]] = self._observe_step

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> Latent:
        """Zero latents for B rows."""
        return Latent(
            torch.zeros(batch, self.deter, device=device, dtype=dtype),
            torch.zeros(batch, self.stoch, self.classes, device=device, dtype=dtype),
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
        embeddings, so the share of the embeddings is one dense product `[3U, D]` instead of G small
        ones on copies. The posterior's first layer meets deter alone; see `prepare`.
        """
        first = self.hidden[0]
        assert isinstance(first, BlockLinear)
        weight = first.weight  # [G, D/G + 3U, D/G]
        block = self.deter // self.blocks
        shared = weight[:, block:].permute(1, 0, 2).reshape(-1, self.deter)  # [3U, D]
        posterior, _ = self.posterior_in.split(self.deter)
        return ScanWeights(weight[:, :block], shared, first.bias, posterior)

    def core(
        self, deter: Tensor, stoch: Tensor, action_embed: Tensor, weights: ScanWeights
    ) -> Tensor:
        """Block GRU: next deter `[B, D]` from deter, stoch `[B, S, K]`, action_embed `[B, U]`."""
        x = torch.cat([self.in_deter(deter), self.in_stoch(stoch.flatten(1)), action_embed], -1)
        x = block_product(deter, weights.per_block) + x @ weights.shared + weights.bias
        x = F.silu(self.hidden_norms[0](x))
        for i in range(1, len(self.hidden)):
            x = F.silu(self.hidden_norms[i](self.hidden[i](x)))
        gates = self.gru(x).unflatten(-1, (self.blocks, 3, -1))  # [B, G, 3, D/G]
        reset, cand, update = (gate.flatten(1) for gate in gates.unbind(-2))
        cand = torch.tanh(torch.sigmoid(reset) * cand)
        update = torch.sigmoid(update - 1)
        return update * cand + (1 - update) * deter

    def prior(self, deter: Tensor) -> Tensor:
        """Prior logits `[..., S, K]` of deter `[..., D]`."""
        return self._logits(self.prior_out(self.prior_mlp(deter)))

    def posterior(self, deter: Tensor, embed_share: Tensor, weights: ScanWeights) -> Tensor:
        """Posterior logits `[..., S, K]`; embed_share is the first layer's part of the embed."""
        x = self.posterior_in.finish(F.linear(deter, weights.posterior) + embed_share)
        return self._logits(self.posterior_out(self.posterior_mlp(x)))

    def _logits(self, x: Tensor) -> Tensor:
        x = x if x.dtype == torch.float64 else x.float()
        return x.unflatten(-1, (self.stoch, self.classes))

    def _observe_step(
        self,
        deter: Tensor,
        stoch: Tensor,
        action_embed: Tensor,
        embed_share: Tensor,
        is_first: Tensor,
        gumbel: Tensor,
        weights: ScanWeights,
    ) -> tuple[Tensor, Tensor, Tensor]:
        deter, stoch = reset_rows(deter, is_first), reset_rows(stoch, is_first)
        deter = self.core(deter, stoch, action_embed, weights)
        logit = self.posterior(deter, embed_share, weights)
        return deter, self.dist(logit).sample(gumbel), logit

    def prepare(self, embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """What an observed sequence feeds into the recurrence, in one product each.

        embed `[B, T, E]`; action `[B, T, A]`: the action that led to each observation. Returns the
        embed's share of the posterior's first layer and the action embedding, `[B, T, U]`.
        """
        action = action * (~is_first)[..., None]
        _, weight = self.posterior_in.split(self.deter)
        return F.linear(embed, weight), self.embed_action(action)

    def observe(
        self,
        carry: Latent,
        embed_share: Tensor,
        action_embed: Tensor,
        is_first: Tensor,
        gumbel: Tensor,
    ) -> tuple[Latent, Tensor]:
        """Posterior states along an observed sequence that went through `prepare`.

        carry: state before the first step. is_first `[B, T]`. gumbel `[T, B, S, K]`. Returns
        latents and posterior logits, each `[B, T, ...]`.
        """
        shares, actions = embed_share.unbind(1), action_embed.unbind(1)
        firsts, weights = is_first.unbind(1), self.hoisted()
        deter, stoch = carry
        if torch.is_grad_enabled():
            # As the states of all later steps do, so that a compiled step is compiled only once.
            deter, stoch = deter.detach().requires_grad_(), stoch.detach().requires_grad_()
        deters, stochs, logits = [], [], []
        for t in range(len(shares)):
            deter, stoch, logit = self.observe_step(
                deter, stoch, actions[t], shares[t], firsts[t], gumbel[t], weights
            )
            deters.append(deter)
            stochs.append(stoch)
            logits.append(logit)
        latent = Latent(torch.stack(deters, 1), torch.stack(stochs, 1))
        return latent, torch.stack(logits, 1)

    def _imagine_step(
        self, deter: Tensor, stoch: Tensor, action: Tensor, gumbel: Tensor, weights: ScanWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        deter = self.core(deter, stoch, self.embed_action(action), weights)
        logit = self.prior(deter)
        return deter, self.dist(logit).sample(gumbel), logit

    def imagine(self, carry: Latent, action: Tensor, gumbel: Tensor) -> tuple[Latent, Tensor]:
        """Prior states under given actions `[B, T, A]`; gumbel `[T, B, S, K]`. As `observe`."""
        weights = self.hoisted()
        deter, stoch = carry
        deters, stochs, logits = [], [], []
        for t in range(action.shape[1]):
            deter, stoch, logit = self._imagine_step(deter, stoch, action[:, t], gumbel[t], weights)
            deters.append(deter)
            stochs.append(stoch)
            logits.append(logit)
        latent = Latent(torch.stack(deters, 1), torch.stack(stochs, 1))
        return latent, torch.stack(logits, 1)
