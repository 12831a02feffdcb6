"""Encoder, decoder, scalar heads and actor of DreamerV3.

Letters: B batch, T time, D deter, S stoch groups, K classes, F = D + S*K feat, E embed, A action,
U units; of images N pictures, C channels, H height, W width, G blocks, and h w c those of the
smallest grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflux.config.spaces import Space
from worldflux.core.distributions import Binary, MultiOneHot, gumbel_noise
from worldflux.core.math import one_hot_flat, symexp_bins, symlog
from worldflux.core.precision import convolves_in_half
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.convolutions import (
    Conv,
    by_square,
    interleaved,
    largest_in_square,
)
from worldflux.models.dreamerv3.distributions import BoundedNormal, ImageMSE, SymlogMSE, TwoHot
from worldflux.models.dreamerv3.layers import (
    MLP,
    BlockLinear,
    Linear,
    NormedLinear,
    RMSNorm,
)

Observation = SymlogMSE | MultiOneHot | ImageMSE
ACTOR_OUTSCALE = 0.01


def flat_vector(x: Tensor, space: Space, squash: bool) -> Tensor:
    """One vector observation `[..., *shape]` as floats `[..., flat_dim]`, symlog or one-hot."""
    x = x.reshape(*x.shape[: x.ndim - len(space.shape)], -1)  # [..., *shape] -> [..., size]
    if space.discrete:
        return one_hot_flat(x, space.classes)
    x = x if x.dtype == torch.float64 else x.float()
    return symlog(x) if squash else x


def as_image(x: Tensor) -> Tensor:
    """Images as floats in [0, 1]: uint8 is scaled, floats are taken to be in [0, 1] already."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


class Encoder(nn.Module):
    """Observations to embed `[B, T, E]`: an MLP for all vectors, a CNN for all images.

    images are stacked on channels and vectors concatenated, both in sorted key order. Each stage of
    the CNN is convolution, 2x2 max-pool, norm, SiLU.
    """

    def __init__(self, config: DreamerV3Config, spaces: Mapping[str, Space]):
        super().__init__()
        self.vectors = {key: spaces[key] for key in sorted(spaces) if not spaces[key].image}
        self.images = {key: spaces[key] for key in sorted(spaces) if spaces[key].image}
        self.squash = config.use_symlog
        self.embed_dim = 0
        if self.vectors:
            width, units = sum(s.flat_dim for s in self.vectors.values()), config.units("encoder")
            self.mlp = MLP(width, units, config.encoder_layers)
            self.embed_dim += units
        if self.images:
            _, height, width = next(iter(self.images.values())).shape
            channels = [sum(space.shape[0] for space in self.images.values())]
            channels += [config.cnn_depth * mult for mult in config.cnn_mults]
            pairs, stages = list(itertools.pairwise(channels)), len(config.cnn_mults)
            self.convs = nn.ModuleList(Conv(a, b, config.cnn_kernel) for a, b in pairs)
            self.norms = nn.ModuleList(RMSNorm(b) for _, b in pairs)
            self.embed_dim += (height >> stages) * (width >> stages) * channels[-1]

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """obs: keys `[..., *shape]`. Returns embed `[..., E]`."""
        parts = []
        if self.vectors:
            columns = [flat_vector(obs[k], s, self.squash) for k, s in self.vectors.items()]
            parts.append(self.mlp(torch.cat(columns, -1)))  # [..., U]
        if self.images:
            parts.append(self.encode_images(obs))  # [..., h*w*c]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]  # [..., E]

    def encode_images(self, obs: Mapping[str, Tensor]) -> Tensor:
        """All images, stacked on channels, as `[..., h*w*c]`."""
        x = torch.cat([as_image(obs[key]) for key in self.images], -3) - 0.5  # [..., C, H, W]
        lead = x.shape[:-3]
        x = x.flatten(0, -4).contiguous(memory_format=torch.channels_last)  # [N, C, H, W]
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            # bfloat16 convolves few channels so slowly that four times as many take less time.
            packed = index == 0 and convolves_in_half(x)
            assert isinstance(conv, Conv)
            squares = conv.squares(x) if packed else by_square(conv(x))  # [N, H/2, W/2, 2, 2, C]
            x = F.silu(norm(largest_in_square(squares))).permute(0, 3, 1, 2)  # [N, C, H/2, W/2]
        return x.permute(0, 2, 3, 1).reshape(*lead, -1)  # [..., h*w*c]


class Decoder(nn.Module):
    """deter `[..., D]` and stoch `[..., S*K]` to a distribution per observation key."""

    def __init__(self, config: DreamerV3Config, spaces: Mapping[str, Space]):
        super().__init__()
        self.vectors = {key: space for key, space in spaces.items() if not space.image}
        self.images = {key: space for key, space in spaces.items() if space.image}
        self.squash = config.use_symlog
        deter, stoch = config.deter_dim, config.stoch_discrete * config.stoch_classes  # D, S*K
        units, kernel = config.units("decoder"), config.cnn_kernel
        if self.vectors:
            self.mlp = MLP(deter + stoch, units, config.decoder_layers)
            self.outs = nn.ModuleList(Linear(units, s.flat_dim) for s in self.vectors.values())
        if self.images:
            _, height, width = next(iter(self.images.values())).shape
            channels = [config.cnn_depth * mult for mult in config.cnn_mults]
            stages = len(channels)
            self.grid = (height >> stages, width >> stages, channels[-1])  # h, w, c
            flat = self.grid[0] * self.grid[1] * self.grid[2]
            self.from_deter = BlockLinear(deter, flat, config.decoder_blocks)
            self.from_stoch = nn.Sequential(NormedLinear(stoch, 2 * units), Linear(2 * units, flat))
            self.grid_norm = RMSNorm(channels[-1])
            pairs = list(itertools.pairwise(channels[::-1]))
            self.convs = nn.ModuleList(Conv(a, b, kernel) for a, b in pairs)
            self.norms = nn.ModuleList(RMSNorm(b) for _, b in pairs)
            self.out = Conv(channels[0], sum(s.shape[0] for s in self.images.values()), kernel)

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Observation]:
        dists: dict[str, Observation] = {}
        if self.vectors:
            x = self.mlp(torch.cat([stoch, deter], -1))  # [..., S*K + D] -> [..., U]
            for (key, space), out in zip(self.vectors.items(), self.outs, strict=True):
                if space.discrete:
                    dists[key] = MultiOneHot(out(x), space.classes)
                else:
                    dists[key] = SymlogMSE(out(x), self.squash)
        if self.images:
            mean = self.decode_images(deter, stoch)  # [..., C, H, W]
            depths = [space.shape[0] for space in self.images.values()]
            for key, part in zip(self.images, mean.split(depths, -3), strict=True):
                dists[key] = ImageMSE(part)
        return dists

    def decode_images(self, deter: Tensor, stoch: Tensor) -> Tensor:
        """Means of all images in [0, 1], stacked on channels `[..., C, H, W]`."""
        lead = deter.shape[:-1]
        height, width, channels = self.grid  # h, w, c
        blocks = self.from_deter.blocks
        # Output is group-major [g, h, w, c/g]; channel index is g * (c/g) + its place inside.
        x = self.from_deter(deter).reshape(-1, blocks, height, width, channels // blocks)
        x = x.permute(0, 2, 3, 1, 4).reshape(-1, height, width, channels)  # [N, h, w, c]
        x = x + self.from_stoch(stoch).reshape(-1, height, width, channels)  # [N, h, w, c]
        x = F.silu(self.grid_norm(x)).permute(0, 3, 1, 2)  # [N, c, h, w], channels last in memory
        for conv, norm in zip(self.convs, self.norms, strict=True):
            assert isinstance(conv, Conv)
            x = interleaved(F.silu(norm(conv.doubled(x))))  # [N, C, H, W], doubled each time
        x = self.out.doubled(x)  # [N, H/2, W/2, 2, 2, C]
        x = interleaved(torch.sigmoid(x if x.dtype == torch.float64 else x.float()))
        return x.reshape(*lead, *x.shape[1:])  # [..., C, H, W]

    def targets(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each key's distribution is compared with."""
        result = {}
        for key, space in self.vectors.items():
            result[key] = flat_vector(obs[key], space, squash=False)  # [..., flat_dim]
        for key in self.images:
            result[key] = as_image(obs[key])  # [..., C, H, W]
        return result


class NoDecoder(nn.Module):
    """In the decoder's place where another loss teaches the latent: decodes nothing."""

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Observation]:
        return {}

    def targets(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}


class TwoHotHead(nn.Module):
    """feat `[..., F]` to a two-hot distribution over symexp bins: reward, value, slow value."""

    def __init__(self, feat: int, units: int, layers: int, bins: int, high: float):
        super().__init__()
        self.mlp = MLP(feat, units, layers)
        self.out = Linear(units, bins, outscale=0.0)
        self.bins: Tensor
        self.register_buffer("bins", symexp_bins(bins, high), persistent=False)

    def forward(self, feat: Tensor) -> TwoHot:
        return self.after(self.mlp.first(feat))

    def after(self, first: Tensor) -> TwoHot:
        """As `forward`, from the first affine map of feat `[..., U]`."""
        return self.dist(self.out(self.mlp.after(first)))

    def dist(self, logits: Tensor) -> TwoHot:
        """The distribution of logits `[..., K]`."""
        return TwoHot(logits, self.bins)


class ContinueHead(nn.Module):
    """feat `[..., F]` to the probability that the episode goes on."""

    def __init__(self, feat: int, units: int, layers: int):
        super().__init__()
        self.mlp = MLP(feat, units, layers)
        self.out = Linear(units, 1)

    def forward(self, feat: Tensor) -> Binary:
        return self.after(self.mlp.first(feat))

    def after(self, first: Tensor) -> Binary:
        """As `forward`, from the first affine map of feat `[..., U]`."""
        return Binary(self.out(self.mlp.after(first))[..., 0])  # [..., 1] -> [...]


class ActionDist:
    """Independent distributions per action key over one flat action `[..., A]`."""

    def __init__(self, parts: dict[str, MultiOneHot | BoundedNormal], widths: list[int]):
        self.parts, self.widths = parts, widths

    def pred(self) -> Tensor:
        return torch.cat([part.pred() for part in self.parts.values()], -1)  # [..., A]

    def sample(self, noise: Tensor) -> Tensor:
        pieces = zip(self.parts.values(), noise.split(self.widths, -1), strict=True)
        return torch.cat([part.sample(piece) for part, piece in pieces], -1)  # [..., A]

    def logp(self, action: Tensor) -> Tensor:
        """Log-probability `[...]`, summed over keys."""
        pieces = zip(self.parts.values(), action.split(self.widths, -1), strict=True)
        return torch.stack([part.logp(piece) for part, piece in pieces]).sum(0)  # [...]

    def entropy(self) -> Tensor:
        """Entropy `[...]`, summed over keys."""
        return torch.stack([part.entropy() for part in self.parts.values()]).sum(0)  # [...]


class Actor(nn.Module):
    """feat `[..., F]` to a distribution over the flat action; keys in sorted order.

    Discrete keys get categorical logits, continuous keys a bounded normal.
    """

    def __init__(self, config: DreamerV3Config, spaces: Mapping[str, Space], feat: int):
        super().__init__()
        self._set_spaces(config, spaces)
        units = config.units("actor")
        self.mlp = MLP(feat, units, config.actor_layers)
        self.heads = nn.ModuleList()
        for space in self.spaces.values():
            outs = ["logits"] if space.discrete else ["mean", "stddev"]
            head = {name: Linear(units, space.flat_dim, ACTOR_OUTSCALE) for name in outs}
            self.heads.append(nn.ModuleDict(head))

    def _set_spaces(self, config: DreamerV3Config, spaces: Mapping[str, Space]) -> None:
        self.spaces = {key: spaces[key] for key in sorted(spaces)}
        self.widths = [space.flat_dim for space in self.spaces.values()]
        self.min_std, self.max_std = config.actor_min_std, config.actor_max_std

    def forward(self, feat: Tensor) -> ActionDist:
        x = self.mlp(feat)  # [..., U]
        parts: dict[str, MultiOneHot | BoundedNormal] = {}
        for (key, space), head in zip(self.spaces.items(), self.heads, strict=True):
            assert isinstance(head, nn.ModuleDict)
            outs = {name: layer(x) for name, layer in head.items()}
            outs = {n: o if o.dtype == torch.float64 else o.float() for n, o in outs.items()}
            if space.discrete:
                parts[key] = MultiOneHot(outs["logits"], space.classes)
            else:
                parts[key] = BoundedNormal(outs["mean"], outs["stddev"], self.min_std, self.max_std)
        return ActionDist(parts, self.widths)

    def noise(
        self, lead: tuple[int, ...], generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Noise `[*lead, A]` for `ActionDist.sample`: Gumbel for discrete keys, else normal."""
        parts = []
        for space in self.spaces.values():
            shape = (*lead, space.flat_dim)
            if space.discrete:
                parts.append(gumbel_noise(shape, generator, device))
            else:
                parts.append(torch.randn(shape, generator=generator, device=device))
        return torch.cat(parts, -1)  # [*lead, A]
