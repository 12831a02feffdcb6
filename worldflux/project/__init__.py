"""The newcomer's project: worldflux.toml, the files beside it, and the way to a run."""

from __future__ import annotations


class AsConfigured:
    """What a dataset.py returns as its data to train on what worldflux.toml configures."""

    def __repr__(self) -> str:
        return "AS_CONFIGURED"


AS_CONFIGURED = AsConfigured()
