"""Room for arrays that must be unpacked to be read at random: in memory where the budget allows it,
else in a file that has no name and goes with the process."""

from __future__ import annotations

import math
import shutil
import tempfile
from typing import Any

import numpy as np

from worldflux.data.recorded.encoding import Budget
from worldflux.errors import BufferError


def room_for(shape: tuple[int, ...], dtype: np.dtype[Any], budget: Budget, name: str) -> np.ndarray:
    """An array to fill; BufferError: neither memory nor the disk has room for it."""
    size = math.prod(shape) * dtype.itemsize
    if size == 0 or budget.take(size):
        return np.empty(shape, dtype)
    folder = tempfile.gettempdir()
    if size > shutil.disk_usage(folder).free:
        text = f"{name}: needs {size / 2**30:,.1f} GiB unpacked, more than {folder} has"
        raise BufferError(f"{text}; TMPDIR names another folder")
    with tempfile.TemporaryFile(prefix="worldflux-") as file:
        file.truncate(size)
        return np.memmap(file, dtype, "r+", 0, shape)
