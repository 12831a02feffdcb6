"""An optimizer that the user made, with learning rates of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from worldflux.errors import ConfigurationError

KEY = "given"  # of the saved tensor
PLAIN = (bool, int, float, str, list, tuple, type(None))


class ExternalOptimizer:
    """An optimizer over a model's parameters, and perhaps a torch scheduler of it, which is stepped
    after every update. Together they set the learning rate, whatever the training's configuration.

    Both survive a resume: the moments like any optimizer's, the settings of its groups and the
    scheduler as `state_dict`. Raises ConfigurationError where it does not fit the model.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None,
        scheduler: LRScheduler | None,
        model: nn.Module,
    ) -> None:
        if optimizer is None:
            raise ConfigurationError("scheduler: give the optimizer that it belongs to, too")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
        if missing:
            raise ConfigurationError(
                f"optimizer: it lacks {len(missing)} of the model's parameters, such as {missing[0]}"
            )
        if held - {id(p) for p in model.parameters()}:
            raise ConfigurationError("optimizer: it holds parameters that are not the model's")
        if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
            raise ConfigurationError("scheduler: it is not one of the given optimizer")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigurationError(
                "scheduler: ReduceLROnPlateau waits for a metric; give one that counts updates"
            )
        self.optimizer = optimizer
        self.scheduler = scheduler

    def after_update(self) -> None:
        """Moves the learning rate on."""
        if self.scheduler is not None:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Settings of the groups and the scheduler, as the bytes of a JSON text."""
        content = {
            "groups": [_settings(group) for group in self.optimizer.param_groups],
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }
        try:
            text = json.dumps(content).encode()
        except TypeError as error:
            raise ConfigurationError(f"scheduler: its state cannot be saved: {error}") from error
        return {KEY: torch.tensor(list(text), dtype=torch.uint8)}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Restores `state_dict`."""
        content = json.loads(bytes(saved[KEY].tolist()))
        for group, settings in zip(self.optimizer.param_groups, content["groups"], strict=True):
            group.update(settings)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(content["scheduler"])


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group that JSON holds; numbers in tensors as numbers."""
    values = {
        key: value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
        for key, value in group.items()
        if key != "params"
    }
    return {key: value for key, value in values.items() if isinstance(value, PLAIN)}
