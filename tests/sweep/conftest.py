from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import folder, refused  # noqa: F401
from worldflux.run_folder.manifest import SCHEMA, write_manifest
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import Destination


def end(run_dir: Path, status: str, score: float | None, **facts: Any) -> None:
    """Leaves a run as the trainer does, as far as sweeps read it."""
    scores = {"last": score, "best": score}
    content = {"schema_version": SCHEMA, "status": status, "scores": scores, **facts}
    run_dir.mkdir(parents=True, exist_ok=True)
    write_manifest(run_dir, content)


@pytest.fixture
def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:  # noqa: F811
    """Replaces training: every job is completed at once, with the score 10 * seed + 1 for DreamerV3
    and 1000 more for TD-MPC2. Collects the (RunConfig, folder) of the started ones."""
    found: list[Any] = []

    def run(config: Any, run_dir: Path) -> float:
        found.append((config, run_dir))
        score = 10 * config.training.seed + 1 + 1000 * (config.model.model_type == "tdmpc2")
        logger = MetricLogger(Destination(run_dir), ())
        for step in (1, 2, 3):
            logger.scalars({"eval/return": score * step / 3}, step=step, env_steps=10 * step)
        logger.close()
        end(run_dir, "completed", score, global_step=3, env_steps=30)
        return score

    monkeypatch.setattr("worldflux.runner.run.run", run)
    return found


@pytest.fixture
def names(folder: Path) -> Callable[[str], set[str]]:  # noqa: F811
    """The job folders of a sweep."""

    def of(sweep: str) -> set[str]:
        root = folder / "outputs" / "multirun" / sweep
        return {path.name for path in root.iterdir() if (path / "run_manifest.json").exists()}

    return of
