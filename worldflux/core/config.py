"""The model configurations, at the import path of the configuration guide."""

from worldflux.config.model import DynamicsType, LatentType, WorldModelConfig
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.tdmpc2.config import TDMPC2Config

__all__ = ["DreamerV3Config", "DynamicsType", "LatentType", "TDMPC2Config", "WorldModelConfig"]
