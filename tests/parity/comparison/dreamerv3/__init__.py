"""DreamerV3 against numbers of the official implementation."""

from tests.parity.comparison.dreamerv3.folder import compare_folder

__all__ = ["compare_folder"]
