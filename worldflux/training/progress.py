"""One live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worldflux.training.output import Output

log = logging.getLogger("worldflux.progress")

REFRESH_SECONDS = 0.25
PLAIN_SECONDS = 15.0


@dataclass
class Status:
    """How far a run is. Rates are per second over this process; None where nothing is known yet."""

    step: int
    total_steps: int
    env_steps: int
    total_env_steps: int | None = None
    rate: float | None = None
    episode_return: float | None = None
    loss: float | None = None
    eta: float | None = None
    phase: str = ""

    @property
    def fraction(self) -> float:
        """Share of the run that is done, by whichever end is nearer."""
        updates = self.step / max(self.total_steps, 1)
        if not self.total_env_steps:
            return min(updates, 1.0)
        return min(max(updates, self.env_steps / self.total_env_steps), 1.0)

    def fields(self) -> list[str]:
        parts = [f"{self.step:,}/{self.total_steps:,} updates", f"{self.env_steps:,} env steps"]
        if self.rate:
            parts.append(f"{self.rate:.3g} updates/s")
        if self.episode_return is not None:
            parts.append(f"return {self.episode_return:.4g}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        if self.phase:
            parts.append(self.phase)
        elif self.eta is not None:
            parts.append(f"ETA {duration(self.eta)}")
        return parts


class Clock:
    """Times a run. Rates leave out pauses (evaluation, saving) and everything up to the first
    finished update, which compiles and collects; `elapsed` includes them.

    before: seconds spent in earlier processes of a resumed run.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self.ttfi: float | None = None
        self.start(0, 0)

    def start(self, step: int, env_steps: int) -> None:
        """Begins to time, at these counters."""
        self._began = time.perf_counter()
        self._paused = 0.0
        self._first: tuple[float, float, int] | None = None  # wall, busy seconds, update
        self._window = (self._busy(), step, env_steps)

    def elapsed(self) -> float:
        return self.before + time.perf_counter() - self._began

    @contextmanager
    def pause(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began

    def tick(self, step: int) -> None:
        """Notes that update `step` is done; only the first call since `start` counts."""
        if self._first is None:
            self._first = time.perf_counter(), self._busy(), step
            if self.ttfi is None:
                self.ttfi = time.perf_counter() - self._began

    def rates(self, step: int, env_steps: int) -> tuple[float, float]:
        """Updates and environment steps per second since the last call."""
        now = self._busy()
        then, old_step, old_env_steps = self._window
        self._window = (now, step, env_steps)
        seconds = max(now - then, 1e-9)
        return (step - old_step) / seconds, (env_steps - old_env_steps) / seconds

    def throughput(self, step: int) -> float | None:
        """Updates per second of this process; None before its second update."""
        if self._first is None or step <= self._first[2]:
            return None
        return (step - self._first[2]) / max(self._busy() - self._first[1], 1e-9)

    def eta(self, step: int, updates_left: float) -> float | None:
        """Seconds that so many updates will take, with evaluations and saves as so far."""
        if self._first is None or step <= self._first[2]:
            return None
        seconds = time.perf_counter() - self._first[0]
        return updates_left * seconds / (step - self._first[2])

    def _busy(self) -> float:
        return time.perf_counter() - self._began - self._paused


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows `Status` objects: a live line when standard output is a terminal, else a log line every
    15 seconds."""

    def __init__(self, title: str = "Training", console: Console | None = None) -> None:
        self.title = title
        terminal = None if sys.stdout is not None and sys.stdout.isatty() else False
        # Rich takes FORCE_COLOR for a terminal, also where the output goes into a file.
        self.console = console or Console(force_terminal=terminal)
        self._live: Live | None = None
        self._streams: list[tuple[logging.StreamHandler, object]] = []
        self._shown = float("-inf")

    def start(self) -> None:
        self._shown = time.monotonic()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
            self._redirect_handlers()

    def update(self, status: Status, *, force: bool = False) -> None:
        if not force and not self.due():
            return
        self._shown = time.monotonic()
        if self._live:
            self._live.update(self._line(status), refresh=True)
        else:
            log.info("%s: %s", self.title, " · ".join(status.fields()))

    def due(self) -> bool:
        """Whether an update would be shown: lets the caller skip the work of making a status."""
        interval = REFRESH_SECONDS if self._live else PLAIN_SECONDS
        return time.monotonic() - self._shown >= interval

    def stop(self) -> None:
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams.clear()
        if self._live:
            self._live.stop()
            self._live = None

    def _line(self, status: Status) -> Table:
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=status.fraction, width=24)
        text = Text(" · ".join(status.fields()), no_wrap=True, overflow="ellipsis")
        line.add_row(Text(self.title, "bold"), bar, f"{status.fraction:4.0%}", text)
        return line

    def _redirect_handlers(self) -> None:
        # Log handlers hold the stream of before; the live line's is the one that writes above it.
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler and (
                handler.stream in (sys.__stdout__, sys.__stderr__)
                or isinstance(handler.stream, Output)
            ):
                self._streams.append((handler, handler.stream))
                handler.setStream(sys.stdout)
