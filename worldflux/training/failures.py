"""What the errors that end a training are told as."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldflux.errors import CheckpointError, DiskError, TrainingError


@contextmanager
def refused_at_the_start() -> Iterator[None]:
    """A disk that refuses before anything was trained: the folder given is the mistake."""
    try:
        yield
    except DiskError as error:
        raise CheckpointError(str(error)) from error


def out_of_memory(error: Exception) -> TrainingError | None:
    """The one line for an error that means no memory is left; None for any other."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return TrainingError(f"out of memory; a smaller training.batch_size needs less ({text})")
    return None
