"""The places of TD-MPC2's networks that a part of the user's own can take.

Letters: L latent, Z what the networks read, A action, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldflux.config.spaces import Space
from worldflux.models.own_code import Widths, own_part
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.networks import Policy, simnorm


def prepared_shapes(spaces: Mapping[str, Space]) -> Widths:
    """What an encoder of the user's own reads: pictures as they are, vectors flat."""
    return {key: one.shape if one.image else (one.flat_dim,) for key, one in spaces.items()}


class OwnLatent(nn.Module):
    """``components.encoder`` (a dict of prepared observations) or ``dynamics`` (`[..., Z + A]`), to
    `[..., L]` before SimNorm."""

    def __init__(self, config: TDMPC2Config, name: str, inputs: Widths):
        super().__init__()
        self.group = config.simnorm_dim
        self.net = own_part(config, name, inputs, config.latent_dim)

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.net(x)
        return simnorm(out if out.dtype == torch.float64 else out.float(), self.group).to(out.dtype)


class OwnPolicy(Policy):
    """``components.policy``: `[..., Z]` to logits of discrete entries, or to means and raw standard
    deviations."""

    def __init__(self, config: TDMPC2Config, in_features: int, spaces: Mapping[str, Space]):
        nn.Sequential.__init__(self)
        out = self._set_spaces(config, spaces)
        self.append(own_part(config, "policy", in_features, out))
