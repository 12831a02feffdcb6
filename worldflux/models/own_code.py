"""Parts and loss terms of the user's own, which a model's configuration names.

Letters: N rows that a part is tried with, T steps of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldflux.config.model import WorldModelConfig
from worldflux.config.targets import TARGET, Target
from worldflux.errors import ConfigurationError, WorldFluxError, described

Widths = int | dict[str, tuple[int, ...]]  # of one tensor's last axis, or shapes of named tensors
LEAD = (2, 3)  # N and T of the tensors that a part is tried with
SCALE = "scale"  # of a loss term's entry


def own_part(config: WorldModelConfig, name: str, inputs: Widths, outputs: Widths) -> nn.Module:
    """The module that ``components.<name>`` names, called with `inputs` and `outputs` and tried once.

    It takes a float tensor `[..., inputs]`, or a dict of `[..., *shape]`, and gives `[..., outputs]`
    likewise. ConfigurationError names the key and both shapes where it does not.
    """
    target = Target.of(f"model.components.{name}", config.components[name], leading=2)
    part = target(inputs, outputs)
    if not isinstance(part, nn.Module):
        text = f"must give a torch.nn.Module, got {type(part).__name__}"
        raise ConfigurationError(text, key=target.key)
    if torch.empty(0).device.type != "meta":  # where only shapes of weights are looked at
        _try(target.key, part, _zeros(inputs), _zeros(outputs))
    return part


def _zeros(widths: Widths) -> Any:
    if isinstance(widths, int):
        return torch.zeros(*LEAD, widths)
    return {key: torch.zeros(*LEAD, *shape) for key, shape in widths.items()}


def _try(key: str, part: nn.Module, inputs: Any, expected: Any) -> None:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = part(inputs)
        except (KeyboardInterrupt, WorldFluxError):
            raise
        except BaseException as error:  # foreign code: sys.exit() too
            text = f"cannot take {_shapes(inputs)}: {described(error)}"
            raise ConfigurationError(text, key=key) from error
    if _shapes(outputs) != _shapes(expected):
        text = f"gives {_shapes(outputs)} for {_shapes(inputs)}, must give {_shapes(expected)}"
        raise ConfigurationError(text, key=key)


def _shapes(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shapes(part)}" for key, part in sorted(value.items()))
    return type(value).__name__


@dataclass(frozen=True)
class OwnLoss:
    """A loss term of the user's own. key: as the user writes it. takes: the names of the tensors
    that the function wants. scale: what its mean counts in the sum."""

    key: str
    name: str
    scale: float
    takes: tuple[str, ...]
    target: Target

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any], tensors: Collection[str]) -> OwnLoss:
        """The term of an entry; ConfigurationError: its function cannot be had, or takes something
        that neither the entry nor `tensors` has."""
        key = f"model.losses.{name}"
        values = {word: value for word, value in entry.items() if word != SCALE}
        try:
            target = Target.of(key, values, supplied=tensors)
            names = inspect.signature(target.make).parameters
        except (TypeError, ValueError) as error:
            text = f"={entry[TARGET]} has no signature"
            raise ConfigurationError(text, key=f"{key}.{TARGET}") from error
        takes = tuple(word for word in names if word in tensors and word not in values)
        if not takes or inspect.isclass(target.make):
            text = f"={entry[TARGET]} must be a function of some of {', '.join(tensors)}"
            raise ConfigurationError(text, key=f"{key}.{TARGET}")
        return cls(key, f"own/{name}", float(entry.get(SCALE, 1.0)), takes, target)

    def __call__(self, tensors: Mapping[str, Callable[[], Any]], shape: Collection[int]) -> Tensor:
        """The term, one value per element of `shape`; ConfigurationError for another shape."""
        values = {name: tensors[name]() for name in self.takes}
        loss = self.target.make(**values, **self.target.arguments)
        if _shapes(loss) != str(list(shape)):
            text = f"gives {_shapes(loss)}, must give a value for each step {list(shape)}"
            raise ConfigurationError(text, key=self.key)
        return loss


def own_losses(config: WorldModelConfig) -> list[OwnLoss]:
    """The terms that a configuration names, in its order."""
    return [OwnLoss.of(name, entry, config.tensors) for name, entry in config.losses.items()]


def own_terms(
    losses: Iterable[OwnLoss], tensors: Mapping[str, Callable[[], Any]], shape: Collection[int]
) -> dict[str, Tensor]:
    """Every term by its name in the sum, ``own/<name>``, one value per element of `shape`."""
    return {one.name: one(tensors, shape) for one in losses}
