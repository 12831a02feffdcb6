"""TD-MPC2's pixel encoder: random shifts, four convolutions, SimNorm.

Letters: N pictures, C channels, H height, W width, L latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflux.models.tdmpc2.networks import simnorm

SIDE = 64  # the only height and width that the layers are made for
PLACES = 16  # 4 x 4: what the last convolution leaves of 64 x 64 pixels
PAD = 3  # how far a picture may be shifted, in pixels
# Name in official files, kernel, stride. The numbers between are layers without weights.
CONVOLUTIONS = (("2", 7, 2), ("4", 5, 2), ("6", 3, 2), ("8", 3, 1))


class PixelEncoder(nn.Module):
    """Latents of pictures 64 x 64: convolutions with ReLU between, flattened into SimNorm groups.

    Every convolution has latent / 16 channels (32 at the official width 512), so that the last one
    fills the latent. Weights start as PyTorch's own, which the official code keeps.
    """

    def __init__(self, channels: int, latent: int, group: int):
        super().__init__()
        self.group = group
        for name, kernel, stride in CONVOLUTIONS:
            self.add_module(name, nn.Conv2d(channels, latent // PLACES, kernel, stride))
            channels = latent // PLACES

    def forward(self, x: Tensor) -> Tensor:
        """Latents `[N, L]` of pictures `[N, C, 64, 64]` between -0.5 and 0.5."""
        return simnorm(self.features(x), self.group)

    def features(self, x: Tensor) -> Tensor:
        """The same before SimNorm."""
        for index, layer in enumerate(self.children()):
            x = layer(F.relu(x) if index else x)  # in the end [N, L/16, 4, 4]
        keep = x if x.dtype == torch.float64 else x.float()
        # [N, L/16, 4, 4] -> [N, L], channels first as the official code flattens them
        return keep.contiguous().flatten(1)


def centred(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures between -0.5 and 0.5, of bytes or of values in [0, 1]."""
    return (x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)) - 0.5


def draw_shift(
    lead: tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Random shifts `[*lead, 2]` for `shift_pictures`."""
    return torch.randint(2 * PAD + 1, (*lead, 2), generator=generator, device=device)


def shift_pictures(x: Tensor, shift: Tensor) -> Tensor:
    """Pictures `[N, C, H, W]` moved by whole pixels, with their edges repeated.

    shift `[N, 2]`, 0 to 6: column and row of the padded picture where the result begins; 3 leaves
    it in place (the augmentation of DrQ-v2, Yarats et al. 2021).
    """
    count, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + shift[:, 1:] - PAD  # [H] + [N, 1] -> [N, H]
    columns = torch.arange(width, device=x.device) + shift[:, :1] - PAD  # [W] + [N, 1] -> [N, W]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    picture = torch.arange(count, device=x.device)[:, None, None]  # [N, 1, 1]
    moved = x[picture, :, rows[:, :, None], columns[:, None]]  # [N, H, W, C]
    return moved.permute(0, 3, 1, 2)  # [N, C, H, W], channels last in memory
