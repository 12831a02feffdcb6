"""Stopping a run from outside without losing anything."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

from worldflux.envs.waiting import longest

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,
)
HANGS = 1.0  # seconds that a call into an environment has lasted, when it is taken to hang
STOPPING = "stopping after this update, with a checkpoint; a second signal ends a step that hangs"
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
    stop, and a line says so. A second Ctrl-C interrupts at once, and any second signal a call into an
    environment that hangs. `received` holds the signal, or None. speaks: whether to say so."""

    def __init__(self, speaks: bool = True) -> None:
        self.received: signal.Signals | None = None
        self._speaks = speaks
        self._at = 0.0  # when the first one came

    def catching(self) -> AbstractContextManager[None]:
        return handling(self._receive)

    def leave(self) -> None:
        """Ends the process as the signal requests: KeyboardInterrupt for Ctrl-C, else Stopped."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        before, self.received = self.received, signal.Signals(number)
        if before is None:
            self._at = time.monotonic()
            if self._speaks:
                _say(f"{self.received.name}: {STOPPING}")
            return
        # A scheduler may send a signal twice at once.
        later = time.monotonic() - self._at >= HANGS
        if before == number == signal.SIGINT or (later and longest() >= HANGS):
            raise KeyboardInterrupt


def _say(text: str) -> None:
    """A line on stderr, past buffers that the signal may have interrupted."""
    with suppress(OSError):
        os.write(2, f"\nworldflux: {text}\n".encode())
