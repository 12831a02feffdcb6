"""What the dashboard knows of a run: its curves, its counters and its state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from worldflux.dashboard.events import Buffer, Event, Payload

if TYPE_CHECKING:
    import numpy as np

ENDS = ("finished", "error")


def kind_of(metrics: Mapping[str, Any]) -> str:
    """Which curve a record belongs to: evaluations, training episodes or updates."""
    for kind in ("eval", "episode"):
        if f"{kind}/return" in metrics:
            return kind
    return "train"


class MetricBuffer(Buffer):
    """Curves and state of one run.

    max_points: points kept over all curves. When there are more, the longest curve loses every
    second point but its newest, so that a long run keeps its beginning at a coarser grain.
    """

    state_event = "state"

    def __init__(self, max_points: int = 2000) -> None:
        super().__init__(
            phase_message="",
            gameplay_available=False,
            started_at=time.time(),
            ended_at=None,
            latest_step=0,
            target_steps=None,
            latest_speed=None,
            error=None,
        )
        self.max_points = max(2, max_points)
        self._curves: dict[str, list[dict[str, Any]]] = {}
        self._latest: dict[str, float | None] = {}

    # Written by the training

    def append(
        self,
        step: int,
        metrics: Mapping[str, float | None],
        *,
        env_steps: int = 0,
        speed: float | None = None,
        timestamp: float | None = None,
    ) -> None:
        """One record of named values after `step` updates, as in ``metrics.jsonl``."""
        point = {
            "step": int(step),
            "env_steps": int(env_steps),
            "timestamp": time.time() if timestamp is None else timestamp,
            "speed": speed,
            # JSON has no numbers that are not finite.
            "metrics": {
                name: value if value is not None and math.isfinite(value) else None
                for name, value in metrics.items()
            },
        }
        self.note({"event": "point", "point": point})

    def set_target_steps(self, steps: int | None) -> None:
        """How many updates the run is to make."""
        self.set(target_steps=steps)

    def set_gameplay_available(self, available: bool) -> None:
        """Whether frames of the environment will come."""
        self.set(gameplay_available=bool(available))

    def set_phase(self, phase: str, message: str = "") -> None:
        """What the run does now: starting, collecting, training, evaluating, finished, error…"""
        self.set(phase=phase, phase_message=message)

    def set_status(self, status: str, error: str | None = None) -> None:
        """``running``, ``finished`` or ``error`` with its text."""
        ended = {"ended_at": time.time()} if status in ENDS else {}
        self.set(status=status, error=error, **ended)

    def picture(self, name: str, frames: np.ndarray, *, step: int, env_steps: int) -> None:
        """Frames `[T, H, W, 3]` uint8 of what the model imagines; without a server they are not
        kept."""
        facts = {"event": "picture", "name": name, "step": step, "env_steps": env_steps}
        shape = dict(zip(("frames", "height", "width"), frames.shape, strict=False))
        self.note({**facts, **shape}, frames.data.cast("B"))

    def _events(self) -> Iterator[Event]:
        yield from super()._events()
        for point in self._merged():
            yield {"event": "point", "point": point}

    def _keep(self, event: Event, payload: Payload) -> None:
        if event["event"] != "point":
            return
        self._seq += 1
        point = {**event["point"], "seq": self._seq}
        self._curves.setdefault(kind_of(point["metrics"]), []).append(point)
        self._latest.update(point["metrics"])
        self._state["latest_step"] = max(self._state["latest_step"], point["step"])
        if point["speed"] is not None:
            self._state["latest_speed"] = point["speed"]
        if sum(map(len, self._curves.values())) > self.max_points:
            longest = max(self._curves.values(), key=len)
            del longest[1:-1:2]

    # Read by the page

    def summary(self) -> dict[str, Any]:
        """State, counters and the newest value of every metric."""
        with self._lock:
            state = dict(self._state)
            state["latest_metrics"] = dict(self._latest)
            state["total_points"] = sum(map(len, self._curves.values()))
            state["latest_seq"] = self._seq
        target, fraction = state["target_steps"], state.pop("fraction", None)
        if fraction is None:
            fraction = min(state["latest_step"] / target, 1.0) if target else 0.0
        state["progress_percent"] = 100.0 * fraction
        state["now"] = time.time()
        state["elapsed_seconds"] = (state["ended_at"] or state["now"]) - state["started_at"]
        return state

    def points(self, since_step: int = -1, since_seq: int = -1) -> dict[str, Any]:
        """Points after an update, or after a point: the sequence number ``seq`` sets apart those
        of one update, which may come at different times."""
        with self._lock:
            points = self._merged()
            return {
                **{key: self._state[key] for key in ("status", "phase", "latest_step")},
                "latest_seq": self._seq,
                "points": [p for p in points if p["step"] > since_step and p["seq"] > since_seq],
            }

    def _merged(self) -> list[dict[str, Any]]:
        points = [point for curve in self._curves.values() for point in curve]
        return sorted(points, key=lambda point: point["seq"])
