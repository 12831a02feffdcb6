"""What an environment changes for its whole process, kept from everything else in the process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

log = logging.getLogger(__name__)


class ProcessState:
    """Around calls into environments: each side of them has its own settings.

    The environments' own come back with the next call (torch's default type and device, its
    gradients and deterministic mode, NumPy's floating-point errors, the working directory). What
    the rest of the process needs even during a call is only put back after it (signal handlers,
    standard streams, logging, torch's threads, the recursion limit, that a warning is no error).
    """

    def __init__(self) -> None:
        self._depth = 0
        self._ours: tuple[Any, ...] = ()
        self._kept: tuple[Any, ...] = ()
        self._theirs: tuple[Any, ...] | None = None  # None: the same as ours

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._ours, self._kept = _settings(), _process()
        if self._theirs is not None:
            _set(self._theirs, self._ours)

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        now = _settings()
        self._theirs = None if now == self._ours else now
        _set(self._ours, now)
        _put_back(self._kept)


# All environments of a process share its settings.
process_state = ProcessState()


def _settings() -> tuple[Any, ...]:
    import torch  # not at the top: what only looks at environments' configuration needs none

    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        np.geterr(),
        _cwd(),
    )


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _set(wanted: tuple[Any, ...], now: tuple[Any, ...]) -> None:
    import torch

    if wanted == now:
        return
    dtype, device, grad, deterministic, errors, cwd = wanted
    if dtype != now[0]:
        torch.set_default_dtype(dtype)
    if device != now[1]:
        # A device that is set stands in the way of every call and of the compiler; the CPU is none.
        torch.set_default_device(None if device.type == "cpu" else device)
    torch.set_grad_enabled(grad)
    if deterministic != now[3]:
        torch.use_deterministic_algorithms(deterministic)
    np.seterr(**errors)
    if cwd not in (None, now[5]):
        with contextlib.suppress(OSError):
            os.chdir(cwd)


def _process() -> tuple[Any, ...]:
    import torch

    root = logging.getLogger()
    handlers = [signal.getsignal(number) for number in SIGNALS]
    logs = root.level, tuple(root.handlers), logging.root.manager.disable
    streams = sys.stdout, sys.stderr
    limits = torch.get_num_threads(), sys.getrecursionlimit()
    return handlers, streams, logs, limits, tuple(warnings.filters)


def _put_back(kept: tuple[Any, ...]) -> None:
    import torch

    handlers, streams, logs, (threads, depth), filters = kept
    now = _process()
    if sys.getrecursionlimit() != depth:
        sys.setrecursionlimit(depth)
    if now[0] != handlers and threading.current_thread() is threading.main_thread():
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    sys.stdout, sys.stderr = streams
    if now[2] != logs:
        root = logging.getLogger()
        root.setLevel(logs[0])
        root.handlers[:] = logs[1]
        logging.disable(logs[2])
    if log.disabled:  # as logging.config does with all that are there
        for name, logger in logging.root.manager.loggerDict.items():
            if name.startswith("worldflux") and isinstance(logger, logging.Logger):
                logger.disabled = False
    if now[3][0] != threads:
        torch.set_num_threads(threads)
    if now[4] != filters:  # other ones may stay: to change them shows every warning once more
        for row in now[4]:
            if row[0] == "error" and row not in filters:
                warnings.filters.remove(row)  # type: ignore[attr-defined]
                warnings._filters_mutated()  # type: ignore[attr-defined]
