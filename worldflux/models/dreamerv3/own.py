"""The places of DreamerV3's networks that a part of the user's own can take.

A part sees prepared tensors: vectors `[..., flat_dim]` in symlog or one-hot, pictures
`[..., C, H, W]` in [0, 1]; F feat, E embed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldflux.config.spaces import Space
from worldflux.core.distributions import Binary, MultiOneHot
from worldflux.core.math import symexp_bins
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.distributions import BoundedNormal, ImageMSE, SymlogMSE, TwoHot
from worldflux.models.dreamerv3.networks import (
    ActionDist,
    Actor,
    ContinueHead,
    Decoder,
    Encoder,
    Observation,
    TwoHotHead,
    as_image,
    flat_vector,
)
from worldflux.models.own_code import own_part


def _shapes(spaces: Mapping[str, Space]) -> dict[str, tuple[int, ...]]:
    return {key: one.shape if one.image else (one.flat_dim,) for key, one in spaces.items()}


class OwnEncoder(Encoder):
    """``components.encoder``: a dict of prepared observations to embed `[..., E]`."""

    def __init__(self, config: DreamerV3Config, spaces: Mapping[str, Space]):
        nn.Module.__init__(self)
        self.spaces, self.squash = dict(spaces), config.use_symlog
        self.embed_dim = config.units("encoder")
        self.net = own_part(config, "encoder", _shapes(spaces), self.embed_dim)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        prepared = {
            key: as_image(obs[key]) if one.image else flat_vector(obs[key], one, self.squash)
            for key, one in self.spaces.items()
        }
        out: Tensor = self.net(prepared)
        return out


class OwnDecoder(Decoder):
    """``components.decoder``: feat `[..., F]` to a dict of means (logits of discrete keys)."""

    def __init__(self, config: DreamerV3Config, spaces: Mapping[str, Space], feat: int):
        nn.Module.__init__(self)
        self.vectors = {key: space for key, space in spaces.items() if not space.image}
        self.images = {key: space for key, space in spaces.items() if space.image}
        self.squash = config.use_symlog
        self.net = own_part(config, "decoder", feat, _shapes(spaces))

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Observation]:
        means = self.net(torch.cat([deter, stoch], -1))  # [..., F]
        full = {key: x if x.dtype == torch.float64 else x.float() for key, x in means.items()}
        dists: dict[str, Observation] = {key: ImageMSE(full[key]) for key in self.images}
        for key, space in self.vectors.items():
            if space.discrete:
                dists[key] = MultiOneHot(full[key], space.classes)
            else:
                dists[key] = SymlogMSE(full[key], self.squash)
        return dists


class OwnTwoHotHead(TwoHotHead):
    """``components.reward`` or ``critic``: feat `[..., F]` to logits `[..., bins]`."""

    def __init__(self, config: DreamerV3Config, name: str, feat: int, bins: int):
        nn.Module.__init__(self)
        self.net = own_part(config, name, feat, bins)
        self.register_buffer("bins", symexp_bins(bins, config.reward_bin_max), persistent=False)

    def forward(self, feat: Tensor) -> TwoHot:
        return self.dist(self.net(feat))


class OwnContinueHead(ContinueHead):
    """``components.continue``: feat `[..., F]` to a logit `[..., 1]`."""

    def __init__(self, config: DreamerV3Config, feat: int):
        nn.Module.__init__(self)
        self.net = own_part(config, "continue", feat, 1)

    def forward(self, feat: Tensor) -> Binary:
        return Binary(self.net(feat)[..., 0])  # [..., 1] -> [...]


class OwnActor(Actor):
    """``components.actor``: feat `[..., F]` to logits of discrete keys, and to means and raw
    standard deviations of continuous ones, keys in sorted order."""

    def __init__(self, config: DreamerV3Config, spaces: Mapping[str, Space], feat: int):
        nn.Module.__init__(self)
        self._set_spaces(config, spaces)
        self.outs = [one.flat_dim * (2 - one.discrete) for one in self.spaces.values()]
        self.net = own_part(config, "actor", feat, sum(self.outs))

    def forward(self, feat: Tensor) -> ActionDist:
        out = self.net(feat)
        out = out if out.dtype == torch.float64 else out.float()
        parts: dict[str, MultiOneHot | BoundedNormal] = {}
        for (key, space), piece in zip(self.spaces.items(), out.split(self.outs, -1), strict=True):
            if space.discrete:
                parts[key] = MultiOneHot(piece, space.classes)
            else:
                mean, raw = piece.chunk(2, -1)  # [..., 2*A] -> [..., A] each
                parts[key] = BoundedNormal(mean, raw, self.min_std, self.max_std)
        return ActionDist(parts, self.widths)
