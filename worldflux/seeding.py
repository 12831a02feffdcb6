"""Seeds of every random number generator that training draws from."""

from __future__ import annotations

import random


def set_seed(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
