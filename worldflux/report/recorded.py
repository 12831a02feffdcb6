"""The picture of a set of recorded episodes: returns, lengths, and what one episode looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldflux.data.recorded.opening import RecordedSet
from worldflux.data.recorded.survey import Survey
from worldflux.run_folder.disk import replaced

FRAMES, LINES, ROWS = 8, 6, 1_000  # of the episode that is shown


def draw_set(recorded: RecordedSet, seen: Survey, out: Path) -> None:
    """Writes a PNG. The episode is that whose return is the median."""
    from matplotlib.figure import Figure  # a third of a second

    figure = Figure(figsize=(9, 7), layout="constrained")
    rows = figure.subplots(3, 2)
    _histogram(rows[0, 0], seen.returns, "return of an episode")
    _histogram(rows[0, 1], seen.lengths, "steps of an episode")
    part, episode = recorded.episodes[np.argsort(seen.returns)[len(seen.returns) // 2]]
    whole = recorded.parts[part]
    steps = whole.read(int(episode), 0, min(int(whole.lengths[episode]), ROWS))
    rows[1, 0].plot(steps["reward"], lw=1)
    rows[1, 0].set_title("reward of the episode of median return", fontsize=9)
    for line in steps["action"].T[:LINES]:
        rows[1, 1].plot(line, lw=1)
    rows[1, 1].set_title("its actions" + _first(steps["action"].shape[1]), fontsize=9)
    pictures = [key for key, space in recorded.obs_spaces.items() if space.image]
    others = [key for key in recorded.obs_spaces if key not in pictures]
    _observation(rows[2, 0], recorded, steps, (others or pictures)[0])
    _observation(rows[2, 1], recorded, steps, (pictures or others)[-1])
    with replaced(out) as draft:
        figure.savefig(draft, format="png", dpi=110)


def _first(width: int) -> str:
    return f" (the first {LINES} of {width})" if width > LINES else ""


def _histogram(axes: Any, values: Any, title: str) -> None:
    axes.hist(values, bins=min(40, max(5, len(values) // 4)))
    axes.set_title(title, fontsize=9)


def _observation(axes: Any, recorded: RecordedSet, steps: Any, key: str) -> None:
    space = recorded.obs_spaces[key]
    if not space.image:
        flat = steps[key].reshape(len(steps[key]), -1)
        for line in flat.T[:LINES]:
            axes.plot(line, lw=1)
        axes.set_title(f"its {key}{_first(flat.shape[1])}", fontsize=9)
        return
    shown = steps[key][np.linspace(0, len(steps[key]) - 1, FRAMES).astype(int)]
    frames = shown[:, -3:] if space.shape[0] >= 3 else shown[:, -1:]
    strip = np.concatenate(list(frames.transpose(0, 2, 3, 1)), 1)
    axes.imshow(strip if strip.shape[2] == 3 else strip[..., 0], cmap="gray")
    axes.set_axis_off()
    axes.set_title(f"its {key}", fontsize=9)
