"""Training in one call."""

from __future__ import annotations

from typing import Any

from torch import nn

from worldflux.config.training import TrainingConfig
from worldflux.training.trainer import Trainer


def train(
    model: nn.Module,
    data: Any,
    total_steps: int | None = None,
    batch_size: int = 16,
    sequence_length: int = 50,
    learning_rate: float = 3e-4,
    grad_clip: float = 100.0,
    output_dir: str = "./outputs",
    device: str = "auto",
    **kwargs: Any,
) -> nn.Module:
    """Trains a model on data and returns it; further keywords are TrainingConfig fields."""
    if total_steps is not None:
        kwargs["total_steps"] = total_steps
    config = TrainingConfig(
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        grad_clip=grad_clip,
        output_dir=output_dir,
        device=device,
        **kwargs,
    )
    return Trainer(model, config).train(data)
