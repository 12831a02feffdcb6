"""Memory that a machine does not give is one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldflux.errors import ConfigurationError

# What PyTorch says on the CPU, and where a size has more digits than a number.
TEXTS = ("can't allocate memory", "calculation overflowed", "invalid dimension")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is less memory than was needed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Raises ConfigurationError where `what` needs more memory than there is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = f"{what} needs more memory than this machine has"
        raise ConfigurationError(f"{text} ({' '.join(str(error).split())[:160]})") from error
