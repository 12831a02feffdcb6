"""Leaves the process that a run is started in as it was: logging, threads' errors, Hydra's store of
configurations, random streams."""

from __future__ import annotations

import copy
import logging
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins


@contextmanager
def callers_logging(program: str) -> Iterator[None]:
    """Leaves logging to the caller as it was: Hydra replaces the handlers of every logger and closes
    them, and may disable loggers. program: whose warnings they are before that."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    loggers = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    disabled = [one for one in loggers if one.disabled]
    levels = {one: one.level for one in loggers}
    # What is in the list when logging is configured anew is closed.
    closing: list[Any] = logging._handlerList  # type: ignore[attr-defined]
    kept = list(closing)
    closing.clear()
    early = (
        logging.StreamHandler()
    )  # until Hydra replaces it: warnings before the run's log is there
    early.setFormatter(logging.Formatter(f"{program}: %(message)s"))
    root.addHandler(early)
    try:
        yield
    finally:
        for handler in [one for one in root.handlers if one not in handlers]:
            root.removeHandler(handler)
            with suppress(OSError):  # a full disk, of which the run has told
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        closing[:] = kept
        for one in root.manager.loggerDict.values():
            if isinstance(one, logging.Logger):
                one.disabled = one in disabled
                one.setLevel(levels.get(one, logging.NOTSET))


@contextmanager
def short_warnings(program: str) -> Iterator[None]:
    """A warning is one line, without the place in a library that gave it."""
    before = warnings.showwarning

    def show(message: Warning | str, *_: Any) -> None:
        print(f"{program}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def quiet_disk() -> Iterator[None]:
    """A full disk is reported once, by the run that ends with it, not also by everyone who tries
    to write there: log files print a traceback of their own, and so does TensorBoard's thread, whose
    error the run meets at its next write."""
    before = logging.raiseExceptions, threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            before[1](failed)

    logging.raiseExceptions, threading.excepthook = False, hook
    try:
        yield
    finally:
        logging.raiseExceptions, threading.excepthook = before


@contextmanager
def callers_configurations() -> Iterator[None]:
    """Leaves Hydra's store of configurations to the caller: another application may keep nodes there
    under the names of ours."""
    Plugins.instance()  # which store their own once, as they are imported
    store = ConfigStore.instance()
    before = copy.deepcopy(store.repo)
    try:
        yield
    finally:
        store.repo = before


@contextmanager
def callers_randomness() -> Iterator[None]:
    """Leaves the caller's random streams on the CPU as they were."""
    import numpy as np
    import torch  # nothing for commands that only print

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
