"""The manifest of a run in progress."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldflux.config.training import TrainingConfig
from worldflux.data.sources import Source
from worldflux.run_folder.manifest import SCHEMA, classification
from worldflux.run_folder.state import RunState
from worldflux.training.bookkeeping import Bookkeeping

PACKAGES = ("worldflux", "torch", "numpy", "gymnasium", "hydra-core", "omegaconf")


def environment_facts() -> dict[str, Any]:
    """Versions, machine and source state, constant over a process."""
    return {
        "versions": {
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
    """Commit of this package's checkout, with ``-dirty`` when files differ; None outside one. Git
    runs nothing that the folder's configuration names, and is asked of no other folder."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    command += ["describe", "--always", "--dirty", "--abbrev=40", "--match="]
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, cwd=checkout, env=env
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def run_manifest(
    config: TrainingConfig,
    model: nn.Module,
    source: Source | None,
    books: Bookkeeping,
    degraded_modes: Sequence[str],
    status: RunState,
    error: BaseException | None,
) -> dict[str, Any]:
    """The manifest of a run as it stands, without the facts that only its maker knows."""
    state, profile = books.state, books.runtime_profile()
    state.elapsed = books.clock.elapsed()
    data_mode = getattr(source, "data_mode", "unknown")
    provenance: Mapping[str, Any] | None = getattr(source, "data_provenance", None)
    return {
        "schema_version": SCHEMA,
        "checkpoint_schema_version": 1,
        "status": status,
        "error": None if error is None else f"{type(error).__name__}: {error}",
        "backend": config.backend,
        "device": str(torch.device(config.resolve_device())),
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
        "seed": config.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_config": config,
        "runtime_profile": profile,
        "train_start_time": state.started,
        "train_end_time": None if status == RunState.RUNNING else time.time(),
        "ttfi_sec": profile["ttfi_sec"],
        "support_surface": "supported",
        "data_mode": data_mode,
        "degraded_modes": degraded_modes,
        "run_classification": classification(data_mode, degraded_modes, state.global_step),
        "damaged_checkpoints": state.damaged_checkpoints,
        **({} if provenance is None else {"data_provenance": provenance}),
    }
