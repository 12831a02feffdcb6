"""Plain records that models take and give. B batch, T time, A action width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldflux.errors import ValidationError

Array = Tensor | np.ndarray
Tensors = Tensor | dict[str, Tensor]  # one, or several by name


@dataclass
class State:
    """A latent state: named tensors with leading dimension B."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    def get(self, key: str, default: Tensor | None = None) -> Tensor | None:
        return self.tensors.get(key, default)

    def to(self, device: torch.device | str) -> State:
        return State({k: v.to(device) for k, v in self.tensors.items()}, dict(self.meta))

    def detach(self) -> State:
        return State({k: v.detach() for k, v in self.tensors.items()}, dict(self.meta))

    def clone(self) -> State:
        return State({k: v.clone() for k, v in self.tensors.items()}, dict(self.meta))

    def validate(self) -> None:
        """Raises ValidationError if the tensors do not share batch size and device."""
        if not self.tensors:
            raise ValidationError("state holds no tensors")
        for key, value in self.tensors.items():
            if value.shape[0] != self.batch_size or value.device != self.device:
                raise ValidationError(
                    f"state tensor {key!r} has batch {value.shape[0]} on {value.device}, "
                    f"expected batch {self.batch_size} on {self.device}"
                )


@dataclass
class Trajectory:
    """States and predictions of a rollout of T actions."""

    states: list[State]  # T + 1
    actions: Tensor  # [T, B, A]
    rewards: Tensor | None = None  # [T, B]
    values: Tensor | None = None  # [T + 1, B]
    continues: Tensor | None = None  # [T, B], probabilities

    @property
    def horizon(self) -> int:
        return self.actions.shape[0]

    def to_tensor(self, key: str) -> Tensor:
        """Stacks one state tensor over time, `[T + 1, B, ...]`."""
        return torch.stack([state.tensors[key] for state in self.states])


@dataclass
class Batch:
    """Replayed sequences. Element t holds obs_t, action_t and what `reward_convention` says.

    With convention ``arrival`` rewards[t] and terminations[t] arrived with obs_t; with
    ``after_action`` they followed action_t, as most collectors store them.
    """

    obs: Tensors | None = None  # [B, T, ...] or a dict of them
    actions: Tensor | None = None  # [B, T, A]
    rewards: Tensor | None = None  # [B, T]
    terminations: Tensor | None = None  # [B, T]
    next_obs: Tensors | None = None
    mask: Tensor | None = None
    context: Tensors | None = None
    target: Tensors | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    reward_convention: str = "after_action"

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor, also inside dicts, on the device."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, dict):
                return {k: move(v) for k, v in value.items()}
            return value

        return Batch(**{name: move(value) for name, value in vars(self).items()})


@dataclass
class ActionPayload:
    """An action with its kind: continuous values, a class index or a one-hot."""

    kind: str = "continuous"
    tensor: Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class ConditionPayload:
    """Optional conditions of a model; DreamerV3 takes none."""

    text_condition: Tensor | None = None
    goal: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)


# What the public calls of a model take.
Obs = Array | Mapping[str, Array]  # `[B, ...]` of the only key, or by key
Action = Array | ActionPayload | None  # `[B, A]`; None: zeros
Condition = ConditionPayload | None


@dataclass
class ModelOutput:
    """Predictions by name, each with leading dimension B."""

    predictions: dict[str, Tensor] = field(default_factory=dict)
    state: State | None = None
    uncertainty: Tensor | None = None
    aux: dict[str, Any] = field(default_factory=dict)

    @property
    def preds(self) -> dict[str, Tensor]:
        return self.predictions


@dataclass
class LossOutput:
    """A scalar loss to differentiate, its parts and figures to log."""

    loss: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
