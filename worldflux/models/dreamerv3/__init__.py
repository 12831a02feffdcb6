"""DreamerV3 (Hafner et al., "Mastering diverse control tasks through world models")."""

from worldflux.models.dreamerv3.agent import DreamerV3Agent, make_agent
from worldflux.models.dreamerv3.world_model import DreamerV3

__all__ = ["DreamerV3", "DreamerV3Agent", "make_agent"]
