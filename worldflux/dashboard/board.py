"""Everything that the serving process knows, filled by messages from the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from worldflux.dashboard.gameplay import GameplayBuffer, PictureBuffer
from worldflux.dashboard.metrics import ENDS, MetricBuffer

WATCH_SECONDS = 4.0  # somebody looks for so long after having asked for frames
GONE = "the training process is gone without a word: killed, or the machine ran out of memory"


class Board:
    """Buffers of one run and the messages that fill them.

    settings: host, port, refresh_ms, max_points, max_frames, fps, root, linger_seconds.
    on_watch: told when somebody begins or stops to look.
    """

    def __init__(self, settings: Mapping[str, Any], on_watch: Callable[[bool], None]) -> None:
        self.settings = dict(settings)
        self.metrics = MetricBuffer(settings["max_points"])
        self.gameplay = GameplayBuffer(settings["max_frames"], settings["fps"])
        if not settings["max_frames"]:
            self.gameplay.set_phase("unavailable", "gameplay stream disabled")
            self.gameplay.set_status("unavailable")
        self.pictures = PictureBuffer()
        self._on_watch = on_watch
        self._watched_until = 0.0
        self._watched = False
        self._told_end = False
        self._lock = threading.Lock()

    def note(self, message: Mapping[str, Any], payload: bytes) -> None:
        """Takes one message."""
        event = message["event"]
        if event in ("point", "state"):
            self.metrics.note(message)
        elif event in ("frame", "gameplay"):
            self.gameplay.note(message, payload)
        elif event == "picture":
            self.pictures.keep(message, payload)
        elif event == "end":
            self._told_end = True

    def ended(self) -> None:
        """The training sends no more. A status that says it still runs is no longer true: the
        server was stopped, or, if that was not said either, the training was killed."""
        if self.metrics.summary()["status"] in ENDS:
            return
        if self._told_end:
            self.metrics.set_phase("stopped")
            self.metrics.set_status("finished")
        else:
            self.metrics.set_phase("error", GONE)
            self.metrics.set_status("error", GONE)
            self.gameplay.set_status("error")

    def summary(self) -> dict[str, Any]:
        keys = ("host", "port", "refresh_ms")
        return {
            **self.metrics.summary(),
            **{key: self.settings[key] for key in keys},
            "gameplay_fps": self.settings["fps"],
            "pictures_seq": self.pictures.index()["latest_seq"],
        }

    def frames(self, since_seq: int, *, jpeg: bool) -> dict[str, Any]:
        """The newest frames, with the run's own status and phase unless the frames have one."""
        answer = self.gameplay.frames(since_seq, jpeg=jpeg)
        if answer["status"] != "unavailable":
            state = self.metrics.summary()
            answer["status"] = state["status"]
            answer["phase"] = state["phase"] if answer["phase"] == "starting" else answer["phase"]
        return answer

    def watch(self) -> None:
        """Somebody has asked for frames."""
        with self._lock:
            self._watched_until = time.monotonic() + WATCH_SECONDS
        self.tick()

    def tick(self) -> None:
        """Tells the training when somebody begins or stops to look; to be called now and then."""
        with self._lock:
            watched = time.monotonic() < self._watched_until
            changed, self._watched = watched != self._watched, watched
        if changed:
            self._on_watch(watched)
