"""A line about calls into an environment that do not come back."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Any

PATIENCE = 60.0  # seconds

_ALL: weakref.WeakSet[Waiting] = weakref.WeakSet()

log = logging.getLogger(__name__)


class Waiting:
    """Around calls into an environment: warns, once for each, of one that has lasted PATIENCE
    seconds. name: of the environment."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None  # None between calls
        self._warned: float | None = None
        self._closed = threading.Event()
        _ALL.add(self)
        arguments = weakref.ref(self), self._closed
        threading.Thread(target=_watch, args=arguments, name="waiting", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *error: Any) -> None:
        self._since = None

    def close(self) -> None:
        self._closed.set()

    @property
    def seconds(self) -> float:
        """How long the present call has lasted; 0 between calls."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def look(self) -> None:
        """Warns if it is time to."""
        since = self._since
        if since in (None, self._warned) or time.monotonic() - float(since or 0) < PATIENCE:
            return
        self._warned = since
        log.warning("environment %s has not answered for %g s; waiting on", self._name, PATIENCE)


def longest() -> float:
    """Seconds that the longest of this process's calls into environments has lasted by now."""
    return max((waiting.seconds for waiting in list(_ALL)), default=0.0)


def _watch(reference: weakref.ref[Waiting], closed: threading.Event) -> None:
    while not closed.wait(PATIENCE / 6):
        if (waiting := reference()) is None:
            return
        waiting.look()
        del waiting
