"""TD-MPC2 against numbers of the official implementation."""

from worldflux.parity.tdmpc2.folder import compare_folder

__all__ = ["compare_folder"]
