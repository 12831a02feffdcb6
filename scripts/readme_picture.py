"""Draws the README's moving picture from a run on CartPole: the learning curve growing, and beside it an
episode of the trained agent, reality above what its model imagines under the same actions.

    worldflux-run hydra.run.dir=RUN && python scripts/readme_picture.py RUN

Every number is the run's: the curve is its metrics.jsonl; the episode is played with its best checkpoint, and the
model sees the true state only at every N-th step (green) and imagines between (red).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from worldflux.models.families import family_of_type
from worldflux.models.world_model import WorldModel
from worldflux.report.curves import EVAL, TRAIN, uncluttered
from worldflux.report.imagination import Imagination, PlayedEpisode, discount_of, imagine, play
from worldflux.report.imagination_picture import IMAGINED, KNOWN
from worldflux.report.returns import series, smooth
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.trained import open_run

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "cartpole.gif"
TRACK, POLE = 2.4, 1.0  # half the track, the pole's length (Gymnasium's CartPole, in metres)


def curve(axes: Axes, episodes: np.ndarray, evaluations: np.ndarray, share: float) -> None:
    """The first part of a learning curve, 0 to 1."""
    end = max(episodes[-1, 0], evaluations[-1, 0])
    upto = end * min(1.0, share)
    x, y = episodes.T
    shown = x <= upto
    axes.plot(x[shown], y[shown], ".", color=TRAIN, alpha=0.25, markersize=3, markeredgewidth=0)
    mean = smooth(y, max(1, len(y) // 25))
    axes.plot(x[shown], mean[shown], color=TRAIN, linewidth=1.8, label="training episodes")
    x, y, low, high = evaluations[evaluations[:, 0] <= upto].T
    axes.fill_between(x, low, high, color=EVAL, alpha=0.15, linewidth=0)
    axes.plot(x, y, "o-", color=EVAL, linewidth=1.8, markersize=4, label="evaluation")
    axes.set_xlim(0, 1.03 * end)
    axes.set_ylim(0, 520)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    uncluttered(axes)


def cart(axes: Axes, state: np.ndarray, colour: tuple[int, int, int], title: str) -> None:
    """Cart and pole of an observation `[4]`: place, speed, angle, turn."""
    place, angle = state[0], state[2]
    tint = tuple(part / 255 for part in colour)
    axes.plot([-TRACK, TRACK], [0, 0], color="0.7", linewidth=1)
    axes.add_patch(Rectangle((place - 0.25, -0.12), 0.5, 0.24, color="0.25"))
    tip = place + POLE * np.sin(angle), POLE * np.cos(angle)
    axes.plot([place, tip[0]], [0, tip[1]], color=tint, linewidth=5, solid_capstyle="round")
    axes.set_title(title, fontsize=9, color=tint, loc="left")
    axes.set_xlim(-TRACK / 2, TRACK / 2)
    axes.set_ylim(-0.3, 1.25)
    axes.set_aspect("equal")
    axes.axis("off")


def frame(figure: Figure) -> np.ndarray:
    """`[H, W, 3]` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def film(
    folder: Path, episode: PlayedEpisode, imagination: Imagination, steps: int, every: int
) -> list[np.ndarray]:
    records = read_metrics(folder)
    episodes = series(records, "episode/return")
    evaluations = series(records, "eval/return", "eval/return_low", "eval/return_high")
    frames = []
    for t in range(0, min(steps, len(episode)), every):
        window, k = divmod(t, imagination.horizon)
        figure = Figure((7.2, 2.9), dpi=100, layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
        share = (t + every) / (0.7 * steps)  # the curve is whole before the episode is over
        curve(figure.add_subplot(grid[:, 0]), episodes, evaluations, share)
        cart(figure.add_subplot(grid[0, 1]), episode.obs["obs"][t], KNOWN, f"reality, step {t}")
        guess = imagination.predicted["obs"][window, k]
        title = f"imagined, {k} steps ahead" if k else "the model sees the true state"
        cart(figure.add_subplot(grid[1, 1]), guess, IMAGINED if k else KNOWN, title)
        frames.append(frame(figure))
    return frames


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("--horizon", type=int, default=30, help="steps imagined at a time")
    options.add_argument("--steps", type=int, default=150, help="of the episode that are shown")
    options.add_argument("--every", type=int, default=2, help="step for each frame")
    options.add_argument("--seed", type=int, default=0, help="of the episode")
    options.add_argument("--out", type=Path, default=OUT)
    words = options.parse_args()
    matplotlib.use("agg")
    run = open_run(words.run)
    agent = run.agent("cpu")
    model = cast(WorldModel, agent.model)
    latent = family_of_type(run.model.model_type).latent
    episode = play(agent, run.env, seed=words.seed, discount=discount_of(model), latent=latent)
    imagination = imagine(model, episode, words.horizon, words.seed)
    frames = film(words.run, episode, imagination, words.steps, words.every)
    images = [Image.fromarray(one).quantize(64, dither=Image.Dither.NONE) for one in frames]
    duration = [80] * (len(images) - 1) + [2_500]
    images[0].save(
        words.out, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True
    )
    print(f"{words.out}: {len(images)} frames, {words.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
