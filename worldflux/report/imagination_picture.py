"""Pictures and videos of `worldflux/report/imagination.py`: reality above what was imagined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from worldflux.report.curves import EVAL, INK, plain_title, uncluttered
from worldflux.report.imagination import CONTINUE, Imagination, PlayedEpisode, real
from worldflux.report.video import rgb, write_video
from worldflux.run_folder.disk import disk_errors, replaced

KNOWN, IMAGINED = (0, 150, 70), (200, 40, 40)  # border of a frame that is known, or imagined
DIMENSIONS = 6  # of an observation that are drawn
STRIP = 12  # frames of the film strip
LEAST_SIDE = 192  # pixels of a frame in the video
BORDER = 3
GAP = 6


def images_of(episode: PlayedEpisode) -> list[str]:
    """Keys of the picture observations."""
    return [key for key, value in episode.obs.items() if value.ndim == 4]


def draw(path: Path, episode: PlayedEpisode, imagination: Imagination, title: str) -> None:
    """A PNG of curves over the episode, real and imagined; pictures as a film strip above them."""
    panels = panels_of(episode, imagination)
    strips = [key for key in images_of(episode) if key in imagination.predicted]
    heights = [2.0] * len(strips) + [1.15] * len(panels)
    figure = Figure(figsize=(10, 1.0 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, key in zip(axes, strips, strict=False):
        draw_strip(axis, episode, imagination, key)
    for axis, (name, truth, guess) in zip(axes[len(strips) :], panels, strict=True):
        draw_panel(axis, name, truth, guess, imagination)
    for axis in axes[len(strips) : -1]:
        axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step of the episode", color=INK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = axes[len(strips)].get_legend_handles_labels()
    figure.legend(*lines, loc="upper right", frameon=False, ncols=2, fontsize=9)
    figure.suptitle(plain_title(title), x=0.01, ha="left", color=INK, fontsize=11)
    with disk_errors("picture", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            figure.savefig(temporary, dpi=130)


def panels_of(
    episode: PlayedEpisode, imagination: Imagination
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, real `[T]`, imagined `[S, 1 + H]`) of every curve."""
    panels = []
    scalars = ("reward", CONTINUE, "value")
    latents = list(episode.latent_series)
    aside = (*scalars, *latents, *images_of(episode))
    vectors = [key for key in imagination.predicted if key not in aside]
    for name in (*vectors, *(key for key in scalars if key in imagination.predicted)):
        truth = episode.series(name).reshape(len(episode), -1)
        guess = imagination.predicted[name]
        guess = guess.reshape(*guess.shape[:2], -1)
        if truth.shape[-1] != guess.shape[-1]:
            continue  # classes
        for i in range(min(DIMENSIONS, truth.shape[-1])):
            label = f"{name}[{i}]" if truth.shape[-1] > 1 else name
            panels.append((label, truth[:, i], guess[..., i]))
    return panels


def draw_panel(
    axis: Axes, name: str, truth: np.ndarray, guess: np.ndarray, imagination: Imagination
) -> None:
    """One curve: reality as a line, every imagined window as a line from its dot on."""
    axis.plot(truth, color=INK, linewidth=1.4, label="real")
    steps = np.arange(imagination.horizon + 1)
    label: str | None = f"imagined, {imagination.horizon} steps from each dot"
    for start, window in zip(imagination.starts, guess, strict=True):
        axis.plot(start + steps, window, color=EVAL, linewidth=1.4, alpha=0.9, label=label)
        axis.plot(start, window[0], "o", color=EVAL, markersize=3)
        label = None
    name = "return\nto come" if name == "value" else name
    axis.set_ylabel(name, color=INK, fontsize=8, rotation=0, ha="right", va="center")
    axis.set_xlim(0, len(truth) - 1)
    axis.tick_params(labelsize=7.5, colors=INK)
    uncluttered(axis)


def draw_strip(axis: Axes, episode: PlayedEpisode, imagination: Imagination, key: str) -> None:
    """The window in the middle of the episode: reality above, imagination below."""
    whole = np.flatnonzero(imagination.starts + imagination.horizon < len(episode))
    window = int(whole[len(whole) // 2]) if len(whole) else 0
    columns = np.linspace(0, imagination.horizon, min(STRIP, imagination.horizon + 1)).round()
    steps = [int(k) for k in columns if imagination.starts[window] + k < len(episode)]
    above = [rgb(real(episode, imagination, key)[window, k]) for k in steps]
    below = [rgb(imagination.predicted[key][window, k]) for k in steps]
    rows = [
        np.concatenate([framed(frame, KNOWN) for frame in above], 1),
        np.concatenate(
            [framed(f, IMAGINED if k else KNOWN) for f, k in zip(below, steps, strict=True)], 1
        ),
    ]
    axis.imshow(np.concatenate(rows, 0), interpolation="nearest")
    width, height = rows[0].shape[1] / len(steps), rows[0].shape[0]
    first = imagination.starts[window]
    axis.set_xticks([(i + 0.5) * width for i in range(len(steps))], [f"{first + k}" for k in steps])
    axis.set_yticks([height / 2, height * 1.5], ["real", "imagined"])
    axis.tick_params(length=0, labelsize=8, colors=INK)
    axis.spines[:].set_visible(False)


def write_film(path: Path, episode: PlayedEpisode, imagination: Imagination, key: str) -> None:
    """A video of the whole episode: reality above, below it what the model imagines, which knows
    the true frame again every `horizon` steps (green) and imagines between (red)."""
    frames = []
    for t in range(len(episode)):
        window = min(t // imagination.horizon, len(imagination.starts) - 1)
        k = t - int(imagination.starts[window])
        truth = enlarged(rgb(episode.obs[key][t]))
        guess = enlarged(rgb(imagination.predicted[key][window, k]))
        above, below = framed(truth, KNOWN), framed(guess, IMAGINED if k else KNOWN)
        gap = np.full((GAP, above.shape[1], 3), 255, np.uint8)
        frames.append(np.concatenate([above, gap, below], 0))
    write_video(path, np.stack(frames))


def enlarged(frame: np.ndarray) -> np.ndarray:
    """A small frame by a whole factor, so that its pixels stay square."""
    factor = max(1, -(-LEAST_SIDE // max(frame.shape[:2])))
    size = frame.shape[1] * factor, frame.shape[0] * factor
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST))


def framed(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The frame inside a coloured border."""
    edge = max(1, BORDER * max(frame.shape[:2]) // LEAST_SIDE)
    height, width = frame.shape[:2]
    picture = np.empty((height + 2 * edge, width + 2 * edge, 3), np.uint8)
    picture[:] = colour
    picture[edge : edge + height, edge : edge + width] = frame
    return picture
