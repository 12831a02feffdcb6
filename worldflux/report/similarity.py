"""How alike pictures are: PSNR and SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of Wang et al., for pixels in [0, 1]
MOST = 100.0  # dB of equal pictures


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio `[N]` in dB of pictures `[N, C, H, W]` in [0, 1], at most MOST."""
    error = (first - second).square().mean((1, 2, 3))
    return (-10 * torch.log10(error.clamp_min(10 ** (-MOST / 10)))).clamp_max(MOST)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity `[N]` of pictures `[N, C, H, W]` in [0, 1] (Wang et al. 2004): the mean
    over channels and over all windows that lie within the picture, 11 × 11 with Gaussian weights of
    standard deviation 1.5; a smaller picture has a window of its own size, if that is odd, else of
    one less."""
    channels = first.shape[1]
    sides = [_weights(size, first) for size in first.shape[-2:]]
    kernel = (sides[0][:, None] * sides[1])[None, None].expand(channels, 1, -1, -1)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=channels)

    mean1, mean2 = blurred(first), blurred(second)
    variance1 = blurred(first * first) - mean1.square()
    variance2 = blurred(second * second) - mean2.square()
    covariance = blurred(first * second) - mean1 * mean2
    luminance = (2 * mean1 * mean2 + C1) / (mean1.square() + mean2.square() + C1)
    structure = (2 * covariance + C2) / (variance1 + variance2 + C2)
    return (luminance * structure).mean((1, 2, 3))


def _weights(side: int, like: Tensor) -> Tensor:
    size = min(WINDOW, side - 1 + side % 2)
    at = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    weights = torch.exp(-at.square() / (2 * SIGMA**2))
    return weights / weights.sum()
