"""Run folders as the trainer leaves them, with returns of one's choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldflux.run_folder.manifest import SCHEMA, write_manifest
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import Destination

Points = Sequence[tuple[int, float]]  # (environment steps, return)


def write_run(
    folder: Path,
    evaluations: Points = (),
    episodes: Points = (),
    *,
    seed: int = 0,
    family: str = "dreamer",
    size: str = "ci",
    env: str = "CartPole-v1",
    suite: str = "gym",
    repeat: int = 1,
    training: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:
    logger = MetricLogger(Destination(folder), ())
    both = [(x, "eval/return", y) for x, y in evaluations]
    both += [(x, "episode/return", y) for x, y in episodes]
    for x, name, y in sorted(both):
        logger.scalars({name: y, "train/loss/total": 1 / (1 + x)}, step=x, env_steps=x)
    logger.close()
    config = {
        "env": {"id": env, "suite": suite, "obs": "state", "tasks": [], "action_repeat": repeat},
        "training": {"seed": seed, "learning_rate": 1e-3, "device": "cpu", **(training or {})},
        "data": {"source": "gym"},
        "run": run or {},
    }
    last = evaluations[-1][1] if evaluations else None
    content = {
        "schema_version": SCHEMA,
        "status": "completed",
        "scores": {"last": last, "best": last},
        "seed": seed,
        "env": {"id": env, "suite": suite, "action_repeat": repeat, "num_envs": 1},
        "config": config,
        "model_config": {"model_type": family, "model_name": size, **(model or {})},
        "degraded_modes": [],
        "global_step": 10,
        "env_steps": 10,
        **facts,
    }
    write_manifest(folder, content)
    return folder
