"""One step of a trained policy as a function of tensors alone, to leave the house with.

Letters: N environments, A flat action width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldflux.config.spaces import Space


@dataclass(frozen=True)
class Draw:
    """Random numbers that a step takes. kind: their distribution. batch: their axis of environments;
    None: they are drawn once for all."""

    kind: str
    batch: int | None = 0


class PolicyStep(nn.Module):
    """What a family exports; a subclass brings `act` and, where it has draws, `drawn`.

    obs_spaces: observation keys and their spaces. takes_first: whether `is_first` says something to
    it. carry: what it hands to its next step, before the first one, of one environment `[1, ...]`.
    draws: its random numbers; empty: it is deterministic.
    """

    def __init__(
        self,
        obs_spaces: Mapping[str, Space],
        carry: Mapping[str, Tensor],
        draws: Mapping[str, Draw],
        takes_first: bool,
    ) -> None:
        super().__init__()
        self.obs_spaces, self.takes_first = dict(obs_spaces), takes_first
        self.carry, self.draws = dict(carry), dict(draws)

    def act(
        self,
        obs: Mapping[str, Tensor],
        is_first: Tensor | None,
        carry: Mapping[str, Tensor],
        draws: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Flat actions `[N, A]` and the carry, for observations `[N, ...]` and is_first `[N]`."""
        raise NotImplementedError

    def drawn(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh draws for so many environments, by name."""
        return {}

    @property
    def input_names(self) -> list[str]:
        """The names of `forward`'s tensors, in order."""
        names = [f"obs.{key}" for key in self.obs_spaces]
        names += ["is_first"] * self.takes_first
        return names + [f"carry.{key}" for key in self.carry] + [f"draw.{k}" for k in self.draws]

    @property
    def output_names(self) -> list[str]:
        """The names of what `forward` gives, in order."""
        return ["action", *(f"next.{key}" for key in self.carry)]

    def examples(self, rows: int) -> dict[str, Tensor]:
        """Tensors to call it with, by name, for so many environments."""
        made = {}
        for key, space in self.obs_spaces.items():
            kind = torch.int64 if space.discrete else getattr(torch, space.dtype)
            made[f"obs.{key}"] = torch.zeros(rows, *space.shape, dtype=kind)
        if self.takes_first:
            made["is_first"] = torch.ones(rows, dtype=torch.bool)
        for key, start in self.carry.items():
            made[f"carry.{key}"] = start.expand(rows, *start.shape[1:]).clone()
        fresh = self.drawn(rows, torch.Generator())
        return made | {f"draw.{key}": fresh[key] for key in self.draws}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`act` on tensors in the order of `input_names`; gives them in that of `output_names`."""
        named = dict(zip(self.input_names, tensors, strict=True))
        obs, carry, draws = (
            {k.removeprefix(p): v for k, v in named.items() if k.startswith(p)}
            for p in ("obs.", "carry.", "draw.")
        )
        action, after = self.act(obs, named.get("is_first"), carry, draws)
        return (action, *(after[key] for key in self.carry))
