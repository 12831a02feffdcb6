"""Runs from Python: what `worldflux-run` does, without a command line.

Mistakes are raised as ConfigurationError and its relatives, with the line that the commands print.
The process is left as it was: logging, Hydra's global state and random streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.hydra_errors import translated
from worldflux.config.overrides import override, plain_paths
from worldflux.config.run import RunConfig, register
from worldflux.errors import MissingDependencyError, WorldFluxError
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.caller import (
    callers_configurations,
    callers_logging,
    callers_randomness,
    quiet_disk,
)
from worldflux.runner.job import Job
from worldflux.runner.parts import Parts
from worldflux.runner.resume import Request

if TYPE_CHECKING:
    import pandas

    from worldflux.models.world_model import WorldModel


@dataclass(frozen=True)
class Run:
    """A run by its folder, which it may stand for wherever a path is expected."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What run_manifest.json says now: status, configuration, counters, scores."""
        return read_manifest(self.folder)

    @property
    def score(self) -> float:
        """The newest evaluation: mean return of its episodes; NaN where nothing was evaluated."""
        return _number((self.manifest.get("scores") or {}).get("last"))

    def metrics(self) -> dict[str, np.ndarray]:
        """Everything that was logged, as columns `[R]` of R records, oldest first: `step` and
        `env_steps`, `timestamp` in Unix seconds, `speed` in updates per second, and each metric, with
        NaN where a record has none or its number was not finite."""
        records = read_metrics(self.folder)
        names = dict.fromkeys(name for record in records for name in record["metrics"])
        columns = {key: np.array([one[key] for one in records], np.int64) for key in COUNTERS}
        columns |= {key: _column(records, key) for key in ("timestamp", "speed")}
        return columns | {
            name: _column([one["metrics"] for one in records], name) for name in names
        }

    def frame(self) -> pandas.DataFrame:
        """`metrics` as a pandas DataFrame; MissingDependencyError without pandas."""
        try:
            import pandas
        except ImportError as error:
            text = "Run.frame() needs pandas: pip install pandas; Run.metrics() does without"
            raise MissingDependencyError(text) from error
        return pandas.DataFrame(self.metrics())


COUNTERS = ("step", "env_steps")


def compose(*overrides: str, config_dir: str | Path | None = None) -> RunConfig:
    """The configuration that `worldflux-run` would train with these overrides, checked; nothing is
    written. config_dir: a folder of your own YAML files beside ours, as --config-dir."""
    with _composing():
        return _job(overrides, config_dir).config


def train(*overrides: str, config_dir: str | Path | None = None) -> Run:
    """Trains as `worldflux-run` with these overrides does, and returns the run.

    Everything is checked before a folder is made. Ctrl-C raises KeyboardInterrupt after a checkpoint,
    which `resume` goes on from. config_dir: see `compose`.
    """
    return _train(overrides, config_dir)


def resume(folder: str | Path | Run, *overrides: str, trust: bool = False) -> Run:
    """Continues a stopped run from its newest checkpoint. overrides: single values that may change,
    such as `training.total_steps`. trust: modules that the run names may be imported although another
    user made it."""
    return _train([override("resume", str(Path(folder))), *overrides], None, trust)


def load_model(
    path: str | Path | Run,
    *,
    checkpoint: str = "best",
    device: str = "cpu",
    trust: bool = False,
) -> WorldModel:
    """The world model of a run, of one of its checkpoints, or of a model folder: its `encode`,
    `rollout` and `decode`. checkpoint: of a run, `best`, `latest` or a folder's name. Nothing is
    imported but networks of its own (`model.components`) of a model that you made, or with trust.
    CheckpointError, ConfigurationError: what is missing, damaged or wrong."""
    from worldflux.models.factory import load_saved

    return load_saved(Path(path), checkpoint, device, trust)


def _train(overrides: Sequence[str], config_dir: str | Path | None, trust: bool = False) -> Run:
    from worldflux.training.output import lasting_output

    with callers_randomness(), lasting_output(), quiet_disk(), callers_logging("worldflux"):
        with _composing():
            job = _job(overrides, config_dir, trust)
            return Run(job.start(Parts()))


def _job(words: Sequence[str], config_dir: str | Path | None, trust: bool = False) -> Job:
    folder = None if config_dir is None else str(config_dir)
    register(*([] if folder is None else [Path(folder)]))
    return Request.of(plain_paths(words), config_dir=folder, trust=trust).job()


@contextmanager
def _composing() -> Iterator[None]:
    """Hydra's state stays the caller's, and its errors become ours."""
    try:
        with callers_configurations():
            yield
    except WorldFluxError:
        raise
    except Exception as error:
        mistake = translated(error)
        if mistake is None:
            raise
        raise mistake from None


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([_number(row.get(key)) for row in rows], np.float64)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
