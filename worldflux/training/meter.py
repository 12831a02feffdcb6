"""Means of training metrics, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldflux.errors import TrainingError

TOTAL_LOSS = "loss/total"
NEVER = torch.iinfo(torch.int64).max


class Meter:
    """Running means over a log interval, the lowest total loss, and the first loss or gradient
    norm that was not finite.

    On the CPU a value that is not finite raises at its update. On an accelerator that would cost a
    synchronisation for each update, so the device remembers the update and `check` raises.

    check_gradients: also watch ``*grad_norm`` metrics; off under float16 loss scaling, where an
    overflowing gradient is normal and its update is skipped.
    """

    def __init__(self, check_gradients: bool = True) -> None:
        self.check_gradients = check_gradients
        self.best_loss: Tensor | None = None
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}
        self._first_bad: dict[tuple[str, ...], Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor], step: int) -> None:
        """Adds the scalar metrics of one update."""
        names = tuple(metrics)
        if not names:
            return
        values = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
        finite = torch.isfinite(values)
        if names not in self._first_bad:
            self._first_bad[names] = torch.full_like(finite, NEVER, dtype=torch.int64)
        at = self._first_bad[names]
        self._first_bad[names] = torch.where(finite, at, at.clamp(max=step))
        if values.device.type == "cpu":
            self.check()
        if names in self._sums:
            self._sums[names] += values
            self._counts[names] += 1
        else:
            self._sums[names], self._counts[names] = values, 1
        if TOTAL_LOSS in metrics:
            loss = values[names.index(TOTAL_LOSS)]
            self.best_loss = loss if self.best_loss is None else self.best_loss.minimum(loss)

    def check(self) -> None:
        """Raises TrainingError with the name and update of the first value that was not finite."""
        first: tuple[int, str] | None = None
        for names, steps in self._first_bad.items():
            for name, step in zip(names, steps.tolist(), strict=True):
                if step != NEVER and self._watched(name) and (first is None or step < first[0]):
                    first = step, name
        if first is not None:
            raise TrainingError(f"{first[1]} is not finite at update {first[0]}")

    def means(self) -> dict[str, float]:
        """Means since the last `clear`, synced."""
        self.check()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, total in self._sums.items():
            for name, value in zip(names, total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._counts[names]
        return {name: value / counts[name] for name, value in sums.items()}

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any]:
        parts = [
            {"names": list(names), "sum": total, "count": self._counts[names]}
            for names, total in self._sums.items()
        ]
        return {"parts": parts, "best_loss": self.best_loss}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.clear()
        self._first_bad.clear()
        for part in state["parts"]:
            names = tuple(part["names"])
            self._sums[names] = part["sum"].to(device)
            self._counts[names] = part["count"]
        best = state["best_loss"]
        self.best_loss = None if best is None else best.to(device)

    def _watched(self, name: str) -> bool:
        if name.rsplit("/", 1)[-1] == "grad_norm":
            return self.check_gradients
        return name.split("/", 1)[0] == "loss"
