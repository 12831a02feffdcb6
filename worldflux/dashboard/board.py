"""Everything that the serving process knows, filled by messages from the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from worldflux.dashboard.events import Event, Payload
from worldflux.dashboard.gameplay import GameplayBuffer, PictureBuffer
from worldflux.dashboard.metrics import ENDS, MetricBuffer

WATCH_SECONDS = 4.0  # a page watches for so long after it got frames
KILLED = "the training process is gone without a word: killed, or the machine ran out of memory"


class Board:
    """Buffers of one run and the messages that fill them.

    settings: host, port, refresh_ms, max_points, max_frames, fps, root, linger_seconds.
    on_watch: called when a page begins (True) or stops to watch.
    """

    def __init__(self, settings: Mapping[str, Any], on_watch: Callable[[bool], None]) -> None:
        self.settings = dict(settings)
        self.metrics = MetricBuffer(settings["max_points"])
        self.gameplay = GameplayBuffer(settings["max_frames"], settings["fps"])
        if not settings["max_frames"]:
            self.gameplay.set_phase("unavailable", "gameplay stream disabled")
            self.gameplay.set_status("unavailable")
        self.pictures = PictureBuffer()
        self.killed = False
        self._on_watch = on_watch
        self._watched_until = 0.0
        self._watched = False
        self._stopped = False  # by the training itself
        self._lock = threading.Lock()

    def note(self, message: Event, payload: Payload) -> None:
        """Takes one message."""
        event = message["event"]
        if event in ("point", "state"):
            self.metrics.note(message)
        elif event in ("frame", "gameplay"):
            self.gameplay.note(message, payload)
        elif event == "picture":
            self.pictures.keep(message, payload)
        elif event == "end":
            self._stopped = True

    def ended(self) -> None:
        """The training sends no more. A status `running` is no longer true: the server
        was stopped, or, without a message of that, the training was killed."""
        if self.metrics.summary()["status"] in ENDS:
            return
        if self._stopped:
            self.metrics.set_phase("stopped")
            self.metrics.set_status("finished")
        else:
            self.killed = True
            self.metrics.set_phase("error", KILLED)
            self.metrics.set_status("error", KILLED)
            self.gameplay.set_status("error")

    def summary(self) -> dict[str, Any]:
        return {
            **self.metrics.summary(),
            **{key: self.settings[key] for key in ("host", "port", "refresh_ms")},
            "gameplay_fps": self.settings["fps"],
            "pictures_seq": self.pictures.index()["latest_seq"],
        }

    def frames(self, since_seq: int, *, jpeg: bool) -> dict[str, Any]:
        """The newest frames, with the run's status, and its phase unless the frames have one. The
        page that gets them watches."""
        with self._lock:
            self._watched_until = time.monotonic() + WATCH_SECONDS
        self.tick()
        answer = self.gameplay.frames(since_seq, jpeg=jpeg)
        if answer["status"] != "unavailable":
            run = self.metrics.summary()
            answer["status"] = run["status"]
            answer["phase"] = run["phase"] if answer["phase"] == "starting" else answer["phase"]
        return answer

    def tick(self) -> None:
        """Notes when a page begins or stops to watch; to be called now and then."""
        with self._lock:
            watched = time.monotonic() < self._watched_until
            changed, self._watched = watched != self._watched, watched
        if changed:
            self._on_watch(watched)
