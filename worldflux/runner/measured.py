"""Measuring the world model of a run on episodes that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from worldflux.config.env import EnvConfig
from worldflux.core.agent import Agent
from worldflux.envs.tasks import TaskLayout
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.models.world_model import WorldModel
from worldflux.report.imagination import layout_of_env, play, tasks_of
from worldflux.report.measurement import Measurement, measure, scalars
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.run_folder.manifest import plain
from worldflux.training.seed import MEASUREMENT, derive_seed
from worldflux.training.session import Callback, TrainingSession
from worldflux.training.trainer import due

GREEDY, RANDOM = "policy", "random actions"
EPISODES, HORIZON = 20, 15


def measured(
    agent: Agent,
    env: EnvConfig,
    *,
    episodes: int,
    horizon: int,
    seed: int,
    discount: float,
    layout: TaskLayout | None = None,
    policies: Sequence[str] = (GREEDY, RANDOM),
) -> list[Measurement]:
    """The model of an agent on fresh episodes of its greedy policy and of random actions."""
    model = cast(WorldModel, agent.model)
    latent = family_of_type(model.config.model_type).latent
    results = []
    for policy in policies:
        random = policy == RANDOM
        played = [
            play(
                agent,
                env,
                seed=seed + number + random * episodes,
                discount=discount,
                layout=layout,
                latent=latent,
                random=random,
            )
            for number in range(episodes)
        ]
        if max(map(len, played)) < 2:
            raise ConfigurationError(f"env.id={env.id}: an episode has only one step")
        kept = [episode for episode in played if len(episode) > 1]
        values = 0.0 if random else discount
        results.append(
            measure(model, kept, policy=policy, horizon=horizon, seed=seed, discount=values)
        )
    return results


class ModelMeasure(Callback):
    """Measures the world model in training, every so many updates, and logs the numbers. It leaves
    the training as it is: episodes and random streams are its own."""

    def __init__(self, env: EnvConfig, layout: TaskLayout | None) -> None:
        self._env, self._layout = env, layout

    def on_step_end(self, trainer: TrainingSession) -> None:
        config, step = trainer.config, trainer.state.global_step
        if not due(step, config.model_eval_interval):
            return
        with trainer.pausing("measuring the model"):
            of_tasks = []
            for env, discount in tasks_of(self._env, trainer.agent):
                (one,) = measured(
                    trainer.agent,
                    env,
                    episodes=config.eval_episodes,
                    horizon=HORIZON,
                    seed=derive_seed(config.seed, MEASUREMENT, step),
                    discount=discount,
                    layout=self._layout,
                    policies=(GREEDY,),
                )
                of_tasks.append(scalars(one))
            names = dict.fromkeys(name for one in of_tasks for name in one)
            trainer.log({n: float(np.mean([o[n] for o in of_tasks if n in o])) for n in names})


def measure_tasks(
    of: EnvConfig, agent: Agent, *, horizon: int, episodes: int, seed: int
) -> Iterator[tuple[str, list[Measurement]]]:
    """Task after task of an environment."""
    layout = layout_of_env(of)
    for env, discount in tasks_of(of, agent):
        yield (
            env.id,
            measured(
                agent,
                env,
                episodes=episodes,
                horizon=horizon,
                seed=seed,
                discount=discount,
                layout=layout,
            ),
        )


def measurement_document(
    checkpoint: Path, of_tasks: dict[str, list[Measurement]], seed: int
) -> dict[str, Any]:
    """The measurements as one JSON object."""
    return {
        "checkpoint": str(checkpoint),
        "confidence": 0.95,
        "seed": seed,
        "tasks": {task: [plain(asdict(one)) for one in many] for task, many in of_tasks.items()},
    }


def write_measurement(
    out: Path, of_tasks: dict[str, list[Measurement]], title: str, text: str
) -> list[Path]:
    """Writes `measurement.json` and a figure for each task."""
    from worldflux.report.measurement_picture import draw_measurement

    path = out / "measurement.json"
    with disk_errors("measurement", path):
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text + "\n")
    files = [path]
    for task, many in of_tasks.items():
        name = f"_{task.replace('/', '_')}" if len(of_tasks) > 1 else ""
        files.append(out / f"measurement{name}.png")
        draw_measurement(files[-1], many, f"{task} · {title}")
    return files
