"""Stopping a run from outside without losing anything."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(SystemExit):
    """A run was stopped by a signal, and has written its checkpoint. It ends the process with 0."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(0)
        self.signal = received


class StopSignals:
    """While entered, SIGTERM, SIGUSR1, SIGUSR2 and the first Ctrl-C only request the loop to stop.

    `received` holds the signal, or None. A second Ctrl-C interrupts at once. The
    handlers that were in place come back on exit. Outside the main thread, where Python allows no
    handlers, nothing is installed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def leave(self) -> None:
        """Ends the process as the signal requests: KeyboardInterrupt for Ctrl-C, else Stopped."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
