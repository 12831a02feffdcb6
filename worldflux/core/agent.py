"""The one interface that trainer, collector and evaluation know of a model family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from worldflux.config.spaces import Space
from worldflux.core.ranks import Ranks

Carry = dict[str, Tensor]  # state between calls, leading dimension N environments or B rows
Entries = dict[str, np.ndarray]  # what the replay stores beside a step, leading dimension N


class Policy(Protocol):
    """Acts in environments."""

    def initial_carry(self, n: int) -> Carry:
        """Carry for n environments before their first step."""
        ...

    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        """One action per environment.

        obs: observation keys `[N, ...]` and `is_first [N]`. explore: sample the policy; else its
        mode. Returns the carry, the flat action `[N, A]` float32 (one-hot, or values that the
        environment clips to [-1, 1]; keys sorted by name) and the entries to store with this step.
        """
        ...


class Agent(Policy, Protocol):
    """Acts in environments and learns from replayed sequences."""

    model: nn.Module
    entry_spaces: dict[str, Space]  # keys that `act` returns for the replay (may be empty)
    replay_context: int  # C: steps in front of the T trained ones

    def join(self, ranks: Ranks, seed: int) -> None:
        """From now on `update` is made by several processes together, each with its share of the
        rows; seed: of this one's own draws."""
        ...

    def update(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Carry]:
        """One gradient update on `[B, C+T, ...]` step sequences.

        batch: observation keys, `action [B, C+T, A]`, `reward`, `is_first`, `is_last`,
        `is_terminal` `[B, C+T]`, the entry keys and, where sequences are trained in chunks, which
        chunk this is (`consec [B, C+T]`). carry: what the update before it returned, of the same
        rows; nothing of it is kept. Returns scalar metrics (tensors, not synced), fresh entries
        `[B, T, ...]` to write back to the replay, and the carry `[B, ...]` of the next update.
        """
        ...

    def report(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> dict[str, np.ndarray]:
        """Pictures: videos `[B, T, H, W, 3]` or images `[H, W, 3]`, uint8, by name; arguments as
        those of `update`."""
        ...

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Groups of flat name-to-tensor dicts: `model`, `optimizer` (moments, counters, RNG)."""
        ...

    def rank_state(self) -> dict[str, Tensor]:
        """What differs between ranks, under the names it has in the `optimizer` group."""
        ...

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restores what `state_dict` gave, in place."""
        ...
