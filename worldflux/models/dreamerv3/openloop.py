"""Open-loop predictions: what the model imagines beside what happened.

Letters: B batch, T time, X observed steps, A action; of pictures C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldflux.core.distributions import gumbel_noise
from worldflux.models.dreamerv3.modules import DreamerV3Modules
from worldflux.models.dreamerv3.networks import as_image
from worldflux.models.dreamerv3.rssm import Latent

GREEN, RED = (0.0, 0.8, 0.0), (0.9, 0.0, 0.0)


def openloop(
    model: DreamerV3Modules, obs: Mapping[str, Tensor], start: Latent, action: Tensor, context: int
) -> Latent:
    """Latents `[B, T]`: observed for `context` steps, imagined from there under the real actions.

    action `[B, T, A]`: the action that led to each observation.
    """
    rssm, (rows, length) = model.rssm, obs["is_first"].shape
    shape = (length, rows, model.config.stoch_discrete, model.config.stoch_classes)
    gumbel = gumbel_noise(shape, torch.Generator(action.device).manual_seed(0), action.device)
    seen = {key: value[:, :context] for key, value in obs.items()}  # [B, X, ...]
    share, embed = rssm.prepare(model.encoder(seen), action[:, :context], seen["is_first"])
    observed, _ = rssm.observe(start, share, embed, seen["is_first"], gumbel[:context])
    last = Latent(observed.deter[:, -1], observed.stoch[:, -1])  # [B, D], [B, S, K]
    imagined, _ = rssm.imagine(last, action[:, context:], gumbel[context:])
    return Latent(
        torch.cat([observed.deter, imagined.deter], 1),  # [B, X, D] and [B, T-X, D] -> [B, T, D]
        torch.cat([observed.stoch, imagined.stoch], 1),  # [B, T, S, K]
    )


def openloop_report(
    model: DreamerV3Modules, obs: Mapping[str, Tensor], start: Latent, action: Tensor
) -> dict[str, np.ndarray]:
    """Pictures `openloop/<key>`: what was observed for half of the time, then imagined.

    Image keys give a video `[1, T, 3H, B*W, 3]` uint8 of true, model and error, whose border is
    green while the model observes and red while it imagines; vectors and the reward a plot
    `[H, W, 3]` uint8 of true and predicted values.
    """
    context = max(1, action.shape[1] // 2)
    latent = openloop(model, obs, start, action, context)
    decoded = model.decoder(latent.deter, latent.stoch.flatten(-2))
    pictures = {}
    plots = {"reward": (obs["reward"], model.reward(latent.feat()).pred())}
    for key, space in model.obs_spaces.items():
        if key not in decoded:
            continue
        if space.image:
            truth, guess = as_image(obs[key]).float(), decoded[key].pred().float()
            pictures[f"openloop/{key}"] = comparison_video(truth, guess, context)
        elif not space.discrete:
            plots[key] = (obs[key].flatten(2), decoded[key].pred())  # [B, T, ...] -> [B, T, size]
    for key, (truth, guess) in plots.items():
        pictures[f"openloop/{key}"] = comparison_plot(
            first_sequence(truth), first_sequence(guess), key, context
        )
    return pictures


def first_sequence(x: Tensor) -> np.ndarray:
    """Values `[T, D]` of the first row of `[B, T]` or `[B, T, D]`."""
    return x[0].float().reshape(x.shape[1], -1).cpu().numpy()  # [T, D]


def comparison_video(truth: Tensor, guess: Tensor, context: int) -> np.ndarray:
    """True, model and error `[B, T, C, H, W]` in [0, 1] below each other, sequences side by side."""
    parts = (truth, guess, (guess - truth + 1) / 2)
    rows = [border(part, context) for part in parts]  # [B, T, 3, H, W] each
    video = torch.cat(rows, -2)  # [B, T, 3, 3*H, W]
    video = torch.cat(list(video), -1).permute(0, 2, 3, 1)  # [T, 3*H, B*W, 3]
    return (video * 255).clamp(0, 255).byte().cpu().numpy()[None]


def comparison_plot(truth: np.ndarray, guess: np.ndarray, name: str, context: int) -> np.ndarray:
    """True and predicted values `[T, D]` over time, the first eight dimensions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dims = min(8, truth.shape[1])
    figure = Figure(figsize=(6, 0.6 + 1.1 * dims), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(dims, 1, sharex=True, squeeze=False)[:, 0]
    for index, axis in enumerate(axes):
        axis.axvspan(0, context - 0.5, color=GREEN, alpha=0.08, linewidth=0)
        axis.plot(truth[:, index], color="0.25", label="true")
        axis.plot(guess[:, index], color=RED, linestyle="--", label="model")
        axis.set_ylabel(f"{name}[{index}]" if dims > 1 else name, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].legend(fontsize=7, loc="upper right", frameon=False)
    axes[0].set_title("observed (green), then imagined", fontsize=8)
    axes[-1].set_xlabel("step", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


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
