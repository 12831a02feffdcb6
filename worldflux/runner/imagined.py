"""Pictures of what the model of a finished run imagines of episodes that it plays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np

from worldflux.config.env import EnvConfig
from worldflux.core.agent import Agent
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.models.world_model import WorldModel
from worldflux.report.imagination import errors, imagine, layout_of_env, play, tasks_of
from worldflux.report.imagination_picture import draw, images_of, write_film
from worldflux.runner.trained import TrainedRun


def imagine_run(
    run: TrainedRun, agent: Agent, *, horizon: int, episodes: int, seed: int, out: Path
) -> Iterator[str]:
    """Plays greedy episodes of each task and writes into `out` how they go on in imagination, from
    every `horizon`-th step; yields lines that report it."""
    for (env, discount), number in product(tasks_of(run.env, agent), range(episodes)):
        task = f"_{env.id.replace('/', '_')}" if run.env.tasks else ""
        name = f"imagination{task}" + (f"_{number}" if episodes > 1 else "")
        yield from _imagine_episode(run, agent, env, discount, horizon, seed + number, out / name)


def _imagine_episode(
    run: TrainedRun,
    agent: Agent,
    env: EnvConfig,
    discount: float,
    horizon: int,
    seed: int,
    path: Path,
) -> Iterator[str]:
    latent = family_of_type(run.model.model_type).latent
    layout = layout_of_env(run.env)
    episode = play(agent, env, seed=seed, discount=discount, layout=layout, latent=latent)
    if len(episode) < 2:
        raise ConfigurationError(f"env.id={env.id}: an episode has only one step")
    imagination = imagine(cast(WorldModel, agent.model), episode, horizon, seed)
    title = f"{env.id} · {run.folder.name} · {run.checkpoint.name}"
    yield f"{title} · {len(episode) - 1} steps, return {np.sum(episode.reward):.4g}"
    for key, (off, guess) in errors(episode, imagination).items():
        yield (
            f"  {key}: off by {off:.3g} on average over {imagination.horizon} imagined steps"
            f" (its mean would be off by {guess:.3g})"
        )
    if episode.truncated:
        yield "  the episode was cut off, so real values near its end are too low"
    still = path.with_suffix(".png")
    draw(still, episode, imagination, title)
    yield f"  {still}"
    keys = [key for key in images_of(episode) if key in imagination.predicted]
    for key in keys:
        film = path.with_name(f"{path.name}_{key}.gif" if len(keys) > 1 else f"{path.name}.gif")
        write_film(film, episode, imagination, key)
        yield f"  {film}"
