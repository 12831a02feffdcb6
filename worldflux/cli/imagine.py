"""`worldflux imagine`: plays episodes and pictures what the model imagines of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from worldflux.cli.evaluate import SEED
from worldflux.cli.guarded import guarded
from worldflux.config.env import EnvConfig
from worldflux.core.agent import Agent
from worldflux.envs.make import make_envs
from worldflux.envs.tasks import TaskLayout, task_configs
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.project.schema import FILE, load_config
from worldflux.report.imagination import (
    Imagination,
    PlayedEpisode,
    discount_of,
    errors,
    imagine,
    play,
)
from worldflux.report.imagination_picture import draw, images_of, write_film
from worldflux.run_folder.checkpoints import checkpoint_at
from worldflux.run_folder.names import REPORT
from worldflux.runner.trained import TrainedRun, open_run

HORIZON = 15


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux imagine",
        description="Plays greedy episodes with a checkpoint and pictures reality and, from every"
        " N-th step, what the model imagines under the same actions. Pictures give a video too.",
    )
    made.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="a run folder or one checkpoint of it (default: [inference] checkpoint)",
    )
    made.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a project's file, whose [inference] holds (default: {FILE}, without RUN)",
    )
    made.add_argument(
        "--horizon", type=_positive, metavar="N", help="steps that are imagined (default: 15)"
    )
    made.add_argument(
        "--episodes", type=_positive, default=1, metavar="N", help="of each task; default: 1"
    )
    made.add_argument("--seed", type=int, default=SEED, help="of environment and imagination")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0…")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="where pictures go (default: RUN/report)"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, 2 wrong input)."""
    options = parser().parse_args(argv)
    return guarded("worldflux imagine", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    run, horizon = chosen(options)
    agent, layout = run.agent(options.device), layout_in(run)
    out = options.out or run.folder / REPORT
    latent = family_of_type(run.model.model_type).latent
    for (env, discount), number in product(played(run, agent), range(options.episodes)):
        seed, one = options.seed + number, replace(run, env=env)
        episode = play(agent, env, seed=seed, discount=discount, layout=layout, latent=latent)
        if len(episode) < 2:
            raise ConfigurationError(f"env.id={env.id}: an episode has only one step")
        task = f"_{env.id.replace('/', '_')}" if run.env.tasks else ""
        name = f"imagination{task}" + (f"_{number}" if options.episodes > 1 else "")
        for line in picture(one, agent, episode, horizon, seed, out / name):
            print(line)
    return 0


def played(run: TrainedRun, agent: Agent) -> list[tuple[EnvConfig, float]]:
    """The environment of each task of a run, and the discount that its values have."""
    if not run.env.tasks:
        return [(run.env, discount_of(agent.model))]
    envs, model = task_configs(run.env), agent.model
    discounts = getattr(model, "discounts", None) or [discount_of(model)] * len(envs)
    return list(zip(envs, discounts, strict=True))


def layout_in(run: TrainedRun) -> TaskLayout | None:
    """The tasks among which one of them takes its place; None with a single task."""
    if not run.env.tasks:
        return None
    envs = make_envs(run.env)
    envs.close()
    return TaskLayout.of(envs.tasks)


def chosen(options: argparse.Namespace) -> tuple[TrainedRun, int]:
    """The run and the horizon: flags come first, then the project's file, then the default."""
    if options.config is None and options.run is not None:
        return open_run(options.run), options.horizon or HORIZON
    config = load_config(options.config or FILE)
    path = options.run or checkpoint_at(config.inference.checkpoint)
    return open_run(path), options.horizon or config.inference.horizon


def picture(
    run: TrainedRun, agent: Agent, episode: PlayedEpisode, horizon: int, seed: int, path: Path
) -> list[str]:
    """Writes the pictures of one episode; returns what to say about it."""
    imagination = imagine(agent.model, episode, horizon, seed)
    title = f"{run.env.id} · {run.folder.name} · {run.checkpoint.name}"
    lines = [f"{title} · {len(episode) - 1} steps, return {np.sum(episode.reward):.4g}"]
    lines += said(episode, imagination)
    still = path.with_suffix(".png")
    draw(still, episode, imagination, title)
    written = [still]
    keys = [key for key in images_of(episode) if key in imagination.predicted]
    for key in keys:
        film = path.with_name(f"{path.name}_{key}.gif" if len(keys) > 1 else f"{path.name}.gif")
        write_film(film, episode, imagination, key)
        written.append(film)
    return [*lines, *(f"  {file}" for file in written)]


def said(episode: PlayedEpisode, imagination: Imagination) -> list[str]:
    """How far imagination and reality are apart, in words."""
    lines = [
        f"  {name}: off by {off:.3g} on average over {imagination.horizon} imagined steps"
        f" (its mean would be off by {guess:.3g})"
        for name, (off, guess) in errors(episode, imagination).items()
    ]
    if episode.truncated:
        lines.append("  the episode was cut off, so real values near its end are too low")
    return lines


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
