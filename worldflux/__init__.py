"""WorldFlux: train world-model agents from one typed configuration.

Public names are imported on first use, so that ``import worldflux`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldflux.core.config import (
        DreamerV3Config,
        DynamicsType,
        LatentType,
        TDMPC2Config,
        WorldModelConfig,
    )
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
    from worldflux.factory import create_world_model, get_config, get_model_info, list_models
    from worldflux.training.seed import set_seed

__version__ = "0.1.0"

_HOME = {
    "worldflux.core.config": (
        "DreamerV3Config",
        "DynamicsType",
        "LatentType",
        "TDMPC2Config",
        "WorldModelConfig",
    ),
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
    "worldflux.factory": ("create_world_model", "get_config", "get_model_info", "list_models"),
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
    "State",
    "TDMPC2Config",
    "Trajectory",
    "WorldFluxError",
    "WorldModelConfig",
    "create_world_model",
    "get_config",
    "get_model_info",
    "list_models",
    "set_seed",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'worldflux' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
