"""Convolutions of DreamerV3's image networks, on channels-last pictures.

The encoder convolves and then pools pairs of pixels; the decoder doubles every pixel and then
convolves. Both are one convolution at the low resolution with a channel for each place in a 2x2
square (its phase), which saves most of the arithmetic and of the memory traffic. Weights have
the layout of the plain convolution throughout.

Letters: N pictures, C and O channels, H height, W width (of the low resolution where there are two), k
taps of a kernel, p its taps at the low resolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflux.models.dreamerv3.layers import trunc_normal_in_


class Conv(nn.Module):
    """Convolution with stride 1 and 'same' padding on channels-last images."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_in_(self.weight, self.weight[0].numel())
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding="same")

    def doubled(self, x: Tensor) -> Tensor:
        """This convolution of x `[N, C, H, W]` with every pixel doubled both ways, by phase:
        `[N, H, W, 2, 2, O]`."""
        rows = torch.stack([taps.sum(3) for taps in phases(self.weight, 2)])  # [2, O, C, p, k]
        both = torch.stack([taps.sum(5) for taps in phases(rows, 4)], 1)  # [2, 2, O, C, p, p]
        return self._by_phase(x, both.flatten(0, 2))

    def squares(self, x: Tensor) -> Tensor:
        """This convolution of x `[N, C, 2H, 2W]`, by phase: `[N, H, W, 2, 2, O]`."""
        rows = torch.stack(phases(self.weight, 2))  # [2, O, C, p, 2, k]
        both = torch.stack(phases(rows, 5), 1)  # [2, 2, O, C, p, 2, p, 2]
        weight = (
            both.permute(0, 1, 2, 3, 5, 7, 4, 6).flatten(3, 5).flatten(0, 2)
        )  # [4*O, 4*C, p, p]
        packed = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        return self._by_phase(packed, weight)  # of [N, 4*C, H, W]

    def _by_phase(self, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, weight, self.bias.repeat(4), padding="same")  # [N, 4*O, H, W]
        return y.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))  # [N, H, W, 2, 2, O]


def phases(weight: Tensor, dim: int) -> list[Tensor]:
    """The k taps of axis `dim` as the even and the odd output of a pair sees them: `[..., p, 2, ...]`.

    The inputs are taken in pairs too: the two entries are a pair's first and second one. Where both
    are the same, as of a doubled pixel, their sum is what counts.
    """
    taps = weight.shape[dim]
    half = taps // 2
    reach = (half + 1) // 2  # pairs to either side
    width, after = 2 * (2 * reach + 1), (0, 0) * (weight.ndim - 1 - dim)
    left = [2 * reach - half + place for place in (0, 1)]
    padded = [F.pad(weight, (*after, before, width - taps - before)) for before in left]
    return [x.unflatten(dim, (-1, 2)) for x in padded]


def interleaved(x: Tensor) -> Tensor:
    """Phases `[N, H, W, 2, 2, C]` as channels-last pictures `[N, C, 2H, 2W]`."""
    x = x.permute(0, 1, 3, 2, 4, 5)  # [N, H, 2, W, 2, C]
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # [N, C, 2H, 2W]


class LargestInSquare(torch.autograd.Function):
    """The largest entry of every 2x2 square, of phases `[N, H, W, 2, 2, C]`.

    Of equal ones the gradient goes to the first, as that of a max-pool. One byte per square says
    which it was; nothing is gathered or scattered.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b, c, d = x.flatten(3, 4).unbind(3)  # [N, H, W, C] each
        left, right = torch.maximum(a, b), torch.maximum(c, d)
        low = torch.where(a >= b, 0, 1).to(torch.uint8)
        high = torch.where(c >= d, 2, 3).to(torch.uint8)
        ctx.save_for_backward(torch.where(left >= right, low, high))  # [N, H, W, C]
        return torch.maximum(left, right)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (place,) = ctx.saved_tensors
        places = torch.arange(4, dtype=torch.uint8, device=grad.device).view(2, 2, 1)
        return grad[..., None, None, :] * (place[..., None, None, :] == places)


def largest_in_square(x: Tensor) -> Tensor:
    """`LargestInSquare` of phases `[N, H, W, 2, 2, C]`: `[N, H, W, C]`."""
    out: Tensor = LargestInSquare.apply(x)
    return out


def by_square(x: Tensor) -> Tensor:
    """Channels-last pictures `[N, C, 2H, 2W]` as phases `[N, H, W, 2, 2, C]`, a view."""
    squares = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return squares.permute(0, 1, 3, 2, 4, 5)  # of [N, H, 2, W, 2, C]
