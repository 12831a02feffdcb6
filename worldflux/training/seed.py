"""The global random streams: seeding, saving, restoring, and keeping evaluation out of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

EVALUATION, TRAINING, RANK, MEASUREMENT, VIDEO = (
    0,
    1,
    2,
    3,
    4,
)  # first numbers of the paths of derived seeds


def set_seed(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch (every device). The same seed gives the same run, bit for
    bit, on one machine with one thread count."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derive_seed(seed: int, *path: int) -> int:
    """An independent 31-bit seed for a named part of a run, such as the evaluation at one step."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0] >> 1)


def rng_state() -> dict[str, Any]:
    """State of all global streams, as numbers and arrays (no pickle needed to store it)."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": {"version": version, "internal": np.array(internal, np.int64), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": np.asarray(keys).astype(np.int64),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        streams = torch.cuda.get_rng_state_all()
        state["cuda"] = {str(index): stream for index, stream in enumerate(streams)}
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restores what `rng_state` gave. CUDA streams are restored for the devices that exist."""
    python, numpy = state["python"], state["numpy"]
    internal = tuple(int(value) for value in python["internal"])
    random.setstate((python["version"], internal, python["gauss"]))
    keys = np.asarray(numpy["keys"]).astype(np.uint32)
    np.random.set_state(
        (numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(torch.as_tensor(state["torch"]))
    if torch.cuda.is_available():
        for index, cuda in state.get("cuda", {}).items():
            if int(index) < torch.cuda.device_count():
                torch.cuda.set_rng_state(torch.as_tensor(cuda), int(index))


@contextmanager
def isolated_rng(seed: int, generator: torch.Generator | None = None) -> Iterator[None]:
    """Runs its body on separate streams, so that looking at a run never changes it.

    generator: an agent's stream, seeded and restored like the global ones.
    """
    before = rng_state()
    stream = None if generator is None else generator.get_state()
    set_seed(seed)
    if generator is not None:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        set_rng_state(before)
        if generator is not None and stream is not None:
            generator.set_state(stream)
