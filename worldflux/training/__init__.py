"""Training: configuration, the loop, replay buffers and callbacks, imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldflux.config.training import TrainingConfig as TrainingConfig
    from worldflux.data.buffer import ReplayBuffer as ReplayBuffer
    from worldflux.data.buffer import TrajectoryDataset as TrajectoryDataset
    from worldflux.training.callbacks import Callback as Callback
    from worldflux.training.callbacks import CheckpointCallback as CheckpointCallback
    from worldflux.training.callbacks import EarlyStoppingCallback as EarlyStoppingCallback
    from worldflux.training.callbacks import LoggingCallback as LoggingCallback
    from worldflux.training.callbacks import ProgressCallback as ProgressCallback
    from worldflux.training.trainer import Trainer as Trainer
    from worldflux.training.trainer import train as train

_NAMES_OF = {
    "worldflux.data.buffer": "ReplayBuffer TrajectoryDataset",
    "worldflux.training.callbacks": "Callback CheckpointCallback EarlyStoppingCallback "
    "LoggingCallback ProgressCallback",
    "worldflux.config.training": "TrainingConfig",
    "worldflux.training.trainer": "Trainer train",
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'worldflux.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
