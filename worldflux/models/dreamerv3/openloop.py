"""Open-loop predictions: what the model imagines beside what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from worldflux.core.distributions import gumbel_noise
from worldflux.models.dreamerv3.networks import as_image
from worldflux.models.dreamerv3.rssm import Latent

if TYPE_CHECKING:
    from worldflux.models.dreamerv3.world_model import DreamerV3

GREEN, RED = (0.0, 0.8, 0.0), (0.9, 0.0, 0.0)


def openloop(
    model: DreamerV3, obs: Mapping[str, Tensor], start: Latent, action: Tensor, context: int
) -> Latent:
    """Latents `[B, T]`: observed for `context` steps, imagined from there under the real actions.

    action `[B, T, A]`: the action that led to each observation.
    """
    rssm, (rows, length) = model.rssm, obs["is_first"].shape
    shape = (length, rows, model.config.stoch_discrete, model.config.stoch_classes)
    gumbel = gumbel_noise(shape, torch.Generator(action.device).manual_seed(0), action.device)
    seen = {key: value[:, :context] for key, value in obs.items()}
    share, embed = rssm.prepare(model.encoder(seen), action[:, :context], seen["is_first"])
    observe_step, rssm.observe_step = rssm.observe_step, rssm._observe_step
    observed, _ = rssm.observe(start, share, embed, seen["is_first"], gumbel[:context])
    rssm.observe_step = observe_step
    last = Latent(observed.deter[:, -1], observed.stoch[:, -1])
    imagined, _ = rssm.imagine(last, action[:, context:], gumbel[context:])
    return Latent(
        torch.cat([observed.deter, imagined.deter], 1),
        torch.cat([observed.stoch, imagined.stoch], 1),
    )


def openloop_report(
    model: DreamerV3, obs: Mapping[str, Tensor], start: Latent, action: Tensor
) -> dict[str, np.ndarray]:
    """A video `openloop/<key>` `[1, T, 3H, B*W, 3]` uint8 per image key: true, model, error.

    The border is green while the model observes and red while it imagines.
    """
    context = max(1, action.shape[1] // 2)
    latent = openloop(model, obs, start, action, context)
    decoded = model.decoder(latent.deter, latent.stoch.flatten(-2))
    videos = {}
    for key, space in model.obs_spaces.items():
        if not space.image:
            continue
        truth, guess = as_image(obs[key]).float(), decoded[key].pred().float()
        rows = [truth, guess, (guess - truth + 1) / 2]
        rows = [border(row, context) for row in rows]
        video = torch.cat(rows, -2)  # [B, T, C, 3H, W]
        video = torch.cat(list(video), -1).permute(0, 2, 3, 1)  # [T, 3H, B*W, C]
        videos[f"openloop/{key}"] = (video * 255).clamp(0, 255).byte().cpu().numpy()[None]
    return videos


def border(video: Tensor, context: int) -> Tensor:
    """RGB video `[B, T, 3, H, W]` with a coloured frame."""
    if video.shape[2] != 3:
        video = video[:, :, :1].expand(-1, -1, 3, -1, -1)
    video = video.clone()
    for steps, colour in ((slice(0, context), GREEN), (slice(context, None), RED)):
        paint = torch.tensor(colour, device=video.device)[:, None, None]
        part = video[:, steps]
        for edge in (slice(0, 2), slice(-2, None)):
            part[..., edge, :] = paint
            part[..., edge] = paint
    return video
