"""Building blocks of DreamerV3's networks.

Letters: G blocks, I and O a block's inputs and outputs, N rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Standard deviation of a unit normal truncated at two standard deviations.
TRUNCATED_STD = 0.87962566103423978


def trunc_normal_in_(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Fills with a normal truncated at two sigma whose std is scale / sqrt(fan_in)."""
    if scale == 0.0:
        return nn.init.zeros_(weight)
    std = scale / math.sqrt(fan_in) / TRUNCATED_STD
    return nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in float32."""

    def __init__(self, dim: int, eps: float = 1e-4):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        full = x if x.dtype == torch.float64 else x.float()
        mean_square = torch.linalg.vecdot(full, full)[..., None] / full.shape[-1]  # [..., 1]
        return (full * torch.rsqrt(mean_square + self.eps) * self.scale).to(x.dtype)


class Linear(nn.Linear):
    """Affine map with truncated-normal weights (scaled by outscale) and zero bias."""

    def __init__(self, in_features: int, out_features: int, outscale: float = 1.0):
        self.outscale = outscale
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        trunc_normal_in_(self.weight, self.in_features, self.outscale)
        nn.init.zeros_(self.bias)


class NormedLinear(nn.Module):
    """Linear, RMSNorm, SiLU."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.linear = Linear(in_features, out_features)
        self.norm = RMSNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.linear(x)))

    def split(self, width: int) -> tuple[Tensor, Tensor]:
        """The weights of the first `width` inputs and of the others.

        Where some inputs do not change over a scan, their share of the product is taken once,
        outside of it, and `finish` makes the layer's output of the sum of the shares.
        """
        return self.linear.weight[:, :width], self.linear.weight[:, width:]

    def finish(self, x: Tensor) -> Tensor:
        """Bias, norm and activation for a sum of shares."""
        return F.silu(self.norm(x + self.linear.bias))


class MLP(nn.Sequential):
    """`layers` times Linear, RMSNorm, SiLU."""

    def __init__(self, in_features: int, units: int, layers: int):
        widths = [in_features] + [units] * layers
        super().__init__(*(NormedLinear(a, b) for a, b in itertools.pairwise(widths)))

    @property
    def first(self) -> Linear:
        """The first layer's affine map."""
        layer = self[0]
        assert isinstance(layer, NormedLinear)
        return layer.linear

    def after(self, x: Tensor) -> Tensor:
        """The output, from what the first layer's affine map gave."""
        layer, *others = self
        assert isinstance(layer, NormedLinear)
        x = F.silu(layer.norm(x))
        for other in others:
            x = other(x)
        return x


@torch.no_grad()
def joint_products(x: Tensor, layers: Sequence[Linear]) -> Sequence[Tensor]:
    """The affine maps of one x `[..., I]`, `[..., O]` each, as one product and without gradient."""
    weight = torch.cat([layer.weight for layer in layers])  # [sum of O, I]
    bias = torch.cat([layer.bias for layer in layers])  # [sum of O]
    return F.linear(x, weight, bias).split([layer.out_features for layer in layers], -1)


class KnownProduct(torch.autograd.Function):
    """An affine map of x `[..., I]` whose result `[..., O]` is there already; the gradient reaches
    weight and bias, but not x."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dtype = weight.dtype
        return known.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # [N, O]
        weight = rows.T @ x.flatten(0, -2).to(grad.dtype)  # [O, I]
        return None, None, weight.to(ctx.dtype), rows.to(ctx.dtype).sum(0)


def known_product(known: Tensor, x: Tensor, layer: Linear) -> Tensor:
    """`KnownProduct` of a layer: what its `joint_products` gave, with a gradient."""
    out: Tensor = KnownProduct.apply(known, x, layer.weight, layer.bias)
    return out


class BlockLinear(nn.Module):
    """Block-diagonal affine map: the feature axis in `blocks` groups, a matrix for each.

    weight `[G, I, O]`. The initialisation uses the whole input width as fan-in, as the
    official code does.
    """

    def __init__(self, in_features: int, out_features: int, blocks: int):
        super().__init__()
        self.blocks = blocks
        self.weight = nn.Parameter(
            torch.empty(blocks, in_features // blocks, out_features // blocks)
        )
        self.bias = nn.Parameter(torch.empty(out_features))  # [G*O]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_in_(self.weight, self.weight.shape[0] * self.weight.shape[1])
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return block_product(x, self.weight) + self.bias


def block_product(x: Tensor, weight: Tensor) -> Tensor:
    """x `[..., G*I]` times weight `[G, I, O]` per group, `[..., G*O]`."""
    groups = x.reshape(-1, weight.shape[0], weight.shape[1]).transpose(0, 1)  # [G, N, I]
    product = torch.bmm(groups, weight).transpose(0, 1)  # [N, G, O]
    return product.reshape(*x.shape[:-1], -1)  # [..., G*O]
