"""The end of a command's process, where something that an environment started would keep it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable

GRACE = 20.0  # seconds that threads and processes have to end by themselves


def leaving(command: Callable[[], int]) -> int:
    """Runs the command that this process is for and returns its exit code. After it, where threads
    or child processes are left for which Python would wait for ever, the process ends without them
    and says so."""
    code = 1
    try:
        code = command()
        return code
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        threading.Thread(target=_end_anyway, args=(code,), daemon=True).start()


def _end_anyway(code: int) -> None:
    threading.main_thread().join()  # Python itself ends it, before it waits for the others
    time.sleep(GRACE)  # a daemon, which is no more where nothing was left
    here = threading.current_thread()
    left = [f"thread {t.name}" for t in threading.enumerate() if t.is_alive() and t is not here]
    children = multiprocessing.active_children()
    names = ", ".join(left + [f"process {child.name}" for child in children])
    text = f"worldflux: ends without waiting for what an environment left: {names}\n"
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
    for child in children:
        child.kill()
    os._exit(code)
