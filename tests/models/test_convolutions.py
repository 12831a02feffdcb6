"""DreamerV3's convolutions at the low resolution, against plain ones at the high resolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldflux.models.dreamerv3.convolutions import (
    Conv,
    by_square,
    interleaved,
    largest_in_square,
)

KERNELS = (1, 3, 5, 7)


def case(kernel: int, height: int, width: int) -> tuple[Conv, Tensor]:
    torch.manual_seed(kernel)
    conv = Conv(3, 4, kernel).double()
    torch.nn.init.normal_(conv.bias)
    return conv, torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)


def same(ours: Tensor, plain: Tensor, conv: Conv, x: Tensor) -> None:
    """Values and all gradients agree to 1e-12, at the borders too."""
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    upstream = torch.randn_like(plain)
    inputs = (x, conv.weight, conv.bias)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(plain, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_convolving_doubled_pixels_is_a_convolution_before_doubling(kernel: int) -> None:
    conv, x = case(kernel, 5, 3)
    plain = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    same(interleaved(conv.doubled(x)), plain, conv, x)


@pytest.mark.parametrize("kernel", KERNELS)
def test_convolving_squares_is_the_plain_convolution(kernel: int) -> None:
    conv, x = case(kernel, 6, 4)
    same(interleaved(conv.squares(x)), conv(x), conv, x)


def test_one_pixel_spreads_as_its_kernel_does() -> None:
    conv = Conv(1, 1, 5).double()
    torch.nn.init.zeros_(conv.bias)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(25.0).view(1, 1, 5, 5))
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    x[0, 0, 0, 0] = 1.0  # in the corner: pixels (0, 0) to (1, 1) of the doubled picture
    corner = interleaved(conv.doubled(x))[0, 0]
    # Output (0, 0) sees them through the taps 2 and 3 both ways, (2, 2) and (3, 2) where they end.
    assert corner[0, 0] == 12 + 13 + 17 + 18
    assert corner[2, 2] == 0 + 1 + 5 + 6 and corner[3, 2] == 0 + 1


def test_the_largest_in_a_square_is_max_pooling_and_ties_go_to_the_first() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 3, (2, 5, 8, 6)).double().requires_grad_()  # many ties
    ours = largest_in_square(by_square(x)).permute(0, 3, 1, 2)
    plain = F.max_pool2d(x, 2)
    assert torch.equal(ours, plain)
    upstream = torch.randn_like(plain)
    (a,), (b,) = (torch.autograd.grad(y, x, upstream) for y in (ours, plain))
    assert torch.equal(a, b)


def test_squares_and_pictures_are_inverse() -> None:
    x = torch.randn(2, 3, 6, 4)
    assert torch.equal(interleaved(by_square(x)), x)
