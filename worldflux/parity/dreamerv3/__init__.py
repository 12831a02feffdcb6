"""DreamerV3 against numbers of the official implementation."""

from worldflux.parity.dreamerv3.folder import compare_folder

__all__ = ["compare_folder"]
