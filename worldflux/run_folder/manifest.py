"""run_manifest.json: what a run is, what it used and how far it came."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.errors import CheckpointError
from worldflux.run_folder.disk import disk_errors, write_atomic

if TYPE_CHECKING:
    from worldflux.training.trainer import Trainer

SCHEMA = "worldflux.training.run_manifest.v1"
FILE = "run_manifest.json"
# Degraded modes of what is only looked at: the training is the same without it.
ONLY_SHOWN = ("dashboard_port_taken", "dashboard_unavailable", "gameplay_unavailable")
PACKAGES = ("torch", "numpy", "gymnasium", "hydra-core", "omegaconf")


def plain(value: Any) -> Any:
    """JSON content of a value: dataclasses and mappings as objects, numbers that are not finite as
    null (JSON has none), enums as their values, anything unknown as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Sequence | set | frozenset | np.ndarray):
        return [plain(item) for item in value]
    return str(value)


def degrading(modes: Iterable[str]) -> list[str]:
    """The degraded modes that the training depends on, without those of what is only shown."""
    return [mode for mode in modes if mode not in ONLY_SHOWN]


def classification(data_mode: str, degraded_modes: Sequence[str], steps: int) -> str:
    """What a run may be cited as: `meaningful_local_training` only for updates on real data with
    nothing degraded that the training depends on, else `contract_smoke`."""
    real = data_mode in ("online", "offline") and not degrading(degraded_modes) and steps > 0
    return "meaningful_local_training" if real else "contract_smoke"


def environment_facts() -> dict[str, Any]:
    """Versions, machine and source state, constant over a process."""
    return {
        "versions": {
            "worldflux": package_version("worldflux"),
            "python": platform.python_version(),
            **{name: package_version(name) for name in PACKAGES},
        },
        "git_commit": git_commit(),
        "host": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cpu_count": os.cpu_count(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the working directory's checkout, with ``-dirty`` when files differ; None outside
    one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def run_manifest(
    trainer: Trainer, status: str, ended: float | None, error: str | None
) -> dict[str, Any]:
    """The manifest of a run as it stands. status: running, completed, stopped or failed."""
    state, source = trainer.state, trainer.source
    data_mode = getattr(source, "data_mode", "unknown")
    degraded = trainer.all_degraded_modes()
    profile = trainer.record.runtime_profile()
    content = {
        **trainer.facts,
        "schema_version": SCHEMA,
        "checkpoint_schema_version": 1,
        "status": status,
        "error": error,
        "backend": trainer.config.backend,
        "device": str(trainer.device),
        "global_step": state.global_step,
        "env_steps": state.env_steps,
        "episodes": state.episodes,
        "best_loss": state.best_loss,
        "scores": {
            "last": state.last_score,
            "last_step": state.last_eval_step if state.last_eval_step >= 0 else None,
            "best": state.best_score,
            "best_step": state.best_step,
            "recent_training_return": state.mean_return,
        },
        "seed": trainer.config.seed,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "training_config": trainer.config,
        "runtime_profile": profile,
        "train_start_time": state.started,
        "train_end_time": ended,
        "ttfi_sec": profile["ttfi_sec"],
        "support_surface": "supported",
        "data_mode": data_mode,
        "degraded_modes": degraded,
        "run_classification": classification(data_mode, degraded, state.global_step),
        "damaged_checkpoints": state.damaged_checkpoints,
    }
    provenance = getattr(source, "data_provenance", None)
    if provenance is not None:
        content["data_provenance"] = provenance
    return content


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes ``run_manifest.json`` atomically; valid JSON whatever the values."""
    text = json.dumps(plain(content), indent=2, sort_keys=True, allow_nan=False) + "\n"
    with disk_errors("run manifest", folder / FILE):
        write_atomic(folder / FILE, text)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; CheckpointError says what is missing or wrong."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a run folder: it has no {FILE}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA:
        raise CheckpointError(f"{path}: not a manifest of schema {SCHEMA!r}")
    return content
