"""TD-MPC2 (Hansen et al., "TD-MPC2: Scalable, robust world models for continuous control")."""

from worldflux.models.tdmpc2.agent import TDMPC2Agent, make_agent
from worldflux.models.tdmpc2.world_model import TDMPC2

__all__ = ["TDMPC2", "TDMPC2Agent", "make_agent"]
