"""WorldFlux: train world-model agents from one typed configuration.

Public names are imported on first use, so that ``import worldflux`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldflux.config.model import DynamicsType, LatentType, WorldModelConfig
    from worldflux.core.state import (
        ActionPayload,
        Batch,
        ConditionPayload,
        LossOutput,
        ModelOutput,
        State,
        Trajectory,
    )
    from worldflux.errors import ConfigurationError, WorldFluxError
    from worldflux.models.dreamerv3.config import DreamerV3Config
    from worldflux.models.factory import create_world_model, get_config, get_model_info, list_models
    from worldflux.models.tdmpc2.config import TDMPC2Config
    from worldflux.runner.api import Run, compose, load_model, resume, train
    from worldflux.runner.policy import Policy, load_policy
    from worldflux.training.seed import set_seed

__version__ = "0.1.0"

_HOME = {
    "worldflux.config.model": ("DynamicsType", "LatentType", "WorldModelConfig"),
    "worldflux.models.dreamerv3.config": ("DreamerV3Config",),
    "worldflux.models.tdmpc2.config": ("TDMPC2Config",),
    "worldflux.core.state": (
        "ActionPayload",
        "Batch",
        "ConditionPayload",
        "LossOutput",
        "ModelOutput",
        "State",
        "Trajectory",
    ),
    "worldflux.errors": ("ConfigurationError", "WorldFluxError"),
    "worldflux.models.factory": (
        "create_world_model",
        "get_config",
        "get_model_info",
        "list_models",
    ),
    "worldflux.runner.api": ("Run", "compose", "load_model", "resume", "train"),
    "worldflux.runner.policy": ("Policy", "load_policy"),
    "worldflux.training.seed": ("set_seed",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ActionPayload",
    "Batch",
    "ConditionPayload",
    "ConfigurationError",
    "DreamerV3Config",
    "DynamicsType",
    "LatentType",
    "LossOutput",
    "ModelOutput",
    "Policy",
    "Run",
    "State",
    "TDMPC2Config",
    "Trajectory",
    "WorldFluxError",
    "WorldModelConfig",
    "compose",
    "create_world_model",
    "get_config",
    "get_model_info",
    "list_models",
    "load_model",
    "load_policy",
    "resume",
    "set_seed",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'worldflux' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
