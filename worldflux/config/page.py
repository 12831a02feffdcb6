"""Schemas of the `gameplay` and `visualization` groups: the live page of a run."""

from __future__ import annotations

from dataclasses import dataclass

from worldflux.config.base import CheckedConfig
from worldflux.config.options import option, plain_text


@dataclass(frozen=True)
class Gameplay(CheckedConfig):
    """Frames of the training environment on the dashboard. fps: frames per second at most;
    max_frames: how many are kept."""

    enabled: bool = False
    fps: int = option(8, at_least=1, at_most=1_000)
    max_frames: int = option(512, at_least=1, at_most=100_000)


@dataclass(frozen=True)
class Visualization(CheckedConfig):
    """The live dashboard. refresh_ms: how often the page asks. history_max_points: points kept."""

    enabled: bool = False
    host: str = option("127.0.0.1", check=plain_text, strip=True)
    port: int = option(8765, at_least=1, at_most=65_535)
    refresh_ms: int = option(1_000, at_least=1, at_most=3_600_000)
    history_max_points: int = option(2_000, at_least=1, at_most=10_000_000)
    open_browser: bool = False

    def __post_init__(self) -> None:
        if self.host == "":  # to a socket it means every interface
            raise self.refuse("host", "must name an address, for example 127.0.0.1")
        super().__post_init__()
