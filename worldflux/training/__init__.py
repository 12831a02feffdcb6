"""Training: configuration, the loop, replay buffers and callbacks, imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldflux.config.training import TrainingConfig
    from worldflux.data.buffer import ReplayBuffer, TrajectoryDataset
    from worldflux.training.callbacks import (
        Callback,
        CheckpointCallback,
        EarlyStoppingCallback,
        LoggingCallback,
        ProgressCallback,
    )
    from worldflux.training.shortcut import train
    from worldflux.training.trainer import Trainer

_HOME = {
    "worldflux.data.buffer": ("ReplayBuffer", "TrajectoryDataset"),
    "worldflux.training.callbacks": (
        "Callback",
        "CheckpointCallback",
        "EarlyStoppingCallback",
        "LoggingCallback",
        "ProgressCallback",
    ),
    "worldflux.config.training": ("TrainingConfig",),
    "worldflux.training.shortcut": ("train",),
    "worldflux.training.trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Callback",
    "CheckpointCallback",
    "EarlyStoppingCallback",
    "LoggingCallback",
    "ProgressCallback",
    "ReplayBuffer",
    "Trainer",
    "TrainingConfig",
    "TrajectoryDataset",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'worldflux.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
