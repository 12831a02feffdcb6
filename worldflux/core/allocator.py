"""How the C library's allocator treats memory that this process frees."""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 * 2**20  # bytes that the heap grows by at least


def keep_freed_memory() -> bool:
    """Lets malloc keep what is freed for the next allocation, where the C library is glibc.

    By default large tensors are mapped anew for every update and unmapped after it, and the system
    fills their pages with zeros each time: a third of the time of an update on pictures. It holds
    for this process and those that it forks, from now on to its end; the process then keeps the
    largest amount of memory that it has needed. Returns whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all([mallopt(name, value) for name, value in settings])
