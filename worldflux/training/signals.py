"""Stopping a run from outside without losing anything."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,
)
# Ignored in what a shell starts in the background or by nohup: it is not meant then.
OF_THE_TERMINAL = (signal.SIGINT, signal.SIGHUP)


class Stopped(SystemExit):
    """A run was stopped by a signal, and has written its checkpoint. It ends the process with 0."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(0)
        self.signal = received


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that stop this process: not Ctrl-C and the end of the terminal where it ignores them."""
    return tuple(
        number
        for number in STOP_SIGNALS
        if number not in OF_THE_TERMINAL or signal.getsignal(number) != signal.SIG_IGN
    )


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `handler` for stop signals; the handlers that were in place come back on exit. Outside
    the main thread, where Python allows no handlers, nothing is installed."""
    possible = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in stop_signals() if possible}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class StopSignals:
    """While `catching`, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP and the first Ctrl-C only request the loop to
    stop; a second Ctrl-C interrupts at once. `received` holds the signal, or None."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def catching(self) -> AbstractContextManager[None]:
        return handling(self._receive)

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
