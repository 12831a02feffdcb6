"""TD-MPC2 against numbers of the official implementation."""

from tests.parity.comparison.tdmpc2.folder import compare_folder

__all__ = ["compare_folder"]
