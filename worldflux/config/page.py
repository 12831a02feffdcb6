"""Schemas of the `gameplay` and `visualization` groups: the live page of a run."""

from __future__ import annotations

from dataclasses import dataclass

from worldflux.config.base import CheckedConfig
from worldflux.config.options import option, plain_text


@dataclass(frozen=True)
class Gameplay(CheckedConfig):
    """Frames of the training environment on the dashboard."""

    enabled: bool = option(False, help="Shows frames of the training environment on the dashboard.")
    fps: int = option(
        8,
        at_least=1,
        at_most=1_000,
        unit="frames per second",
        help="Frames taken at most; fewer cost the training less.",
    )
    max_frames: int = option(
        512,
        at_least=1,
        at_most=100_000,
        unit="frames",
        help="Frames that are kept; the oldest are dropped.",
    )


@dataclass(frozen=True)
class Visualization(CheckedConfig):
    """The live dashboard."""

    enabled: bool = option(
        False,
        help="Serves a live page of the run while it lasts (dashboard=live turns it on with the frames).",
    )
    host: str = option(
        "127.0.0.1",
        check=plain_text,
        strip=True,
        help="Address that the page listens on; anything but 127.0.0.1 shows it to other machines, without a password.",
    )
    port: int = option(
        8765,
        at_least=1,
        at_most=65_535,
        help="First port that is tried; the next free one is taken and printed.",
    )
    refresh_ms: int = option(
        1_000,
        at_least=1,
        at_most=3_600_000,
        unit="milliseconds",
        help="How often the page asks for news.",
    )
    history_max_points: int = option(
        2_000,
        at_least=1,
        at_most=10_000_000,
        unit="points",
        help="Points that the page keeps of all curves together; metrics.jsonl has all.",
    )
    open_browser: bool = option(False, help="Opens the page in a browser when training begins.")

    def __post_init__(self) -> None:
        if self.host == "":  # to a socket it means every interface
            raise self.refuse("host", "must name an address, for example 127.0.0.1")
        super().__post_init__()
