"""What the Python API accepts as model and data, as agents and sources of step sequences.

The sources of the runner (environments, files, random) are in worldflux/data/sources.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from worldflux.config.spaces import Space
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent
from worldflux.core.host import HostCopy
from worldflux.core.state import Batch
from worldflux.data.buffer import ReplayBuffer
from worldflux.data.collect import Episode
from worldflux.data.sources import Source
from worldflux.errors import ConfigurationError, TrainingError
from worldflux.models.world_model import WorldModel
from worldflux.training.meter import Meter
from worldflux.training.seed import isolated_rng


class Samples(Protocol):
    """Data that draws its own batches of step sequences."""

    def sample(self, *, batch_size: int, seq_len: int) -> Batch | Mapping[str, Any]: ...


Recorded = Samples | Iterable[Batch | Mapping[str, Any]]
BATCH_FIELDS = {field.name for field in fields(Batch)}


class Feed:
    """Data that is there already: objects with ``sample``, or iterables of batches.

    model: turns a Batch into a step dict. sequence_length: T, no replay context: such data holds no
    latents. The data stays the caller's: it is not saved with a run, and a finite iterable is
    started over when it ends (one epoch).
    """

    env_steps = 0
    ready = True
    should_stop: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, data: Recorded, model: nn.Module, sequence_length: int) -> None:
        self.data = data
        self.model = cast(WorldModel, model)
        self.length = sequence_length
        self.degraded_modes: list[str] = []
        self.data_mode = str(getattr(data, "data_mode", "offline"))
        self.data_provenance = getattr(data, "data_provenance", None)
        self.epoch = 0
        self.position = 0
        self._iterator: Iterator[Batch | Mapping[str, Any]] | None = None

    def advance(self, agent: Agent, updates: int) -> list[Episode]:
        return []

    def settle(self) -> list[Episode]:
        return []

    def batch(self, batch_size: int) -> dict[str, Any]:
        """The next batch as step sequences `[B, T, ...]`."""
        batch = self.raw(batch_size)
        return batch if isinstance(batch, dict) else self.model.step_dict(batch)

    def raw(self, batch_size: int) -> Batch | dict[str, Any]:
        """The next batch: a Batch, or a step dict where the data gives those."""
        data = self.data
        batch: Batch | Mapping[str, Any]
        if isinstance(data, ReplayBuffer) and type(data).sample is ReplayBuffer.sample:
            # The step dict of our recordings also holds the last reward of an episode.
            batch = data.sample_steps(batch_size, self.length)
        elif hasattr(data, "sample"):
            batch = data.sample(batch_size=batch_size, seq_len=self.length)
        else:
            batch = self._next(data)
        if isinstance(batch, Mapping) and "is_first" in batch:
            return dict(batch)
        if isinstance(batch, Mapping):
            unknown = sorted(set(batch) - BATCH_FIELDS)
            missing = sorted({"obs", "actions", "rewards"} - set(batch))
            if unknown or missing:
                raise TrainingError(
                    f"training batch: missing keys {missing}, unknown keys {unknown}; "
                    "expected obs, actions, rewards, terminations"
                )
            batch = Batch(**{key: as_tensors(value) for key, value in batch.items()})
        if not isinstance(batch, Batch):
            raise TrainingError(f"training batch: expected a Batch or a dict, got {type(batch)}")
        return batch

    def loss_batch(self, batch_size: int) -> Batch:
        """The next batch as `WorldModel.loss` takes it."""
        batch = self.raw(batch_size)
        if isinstance(batch, Batch):
            return batch
        return Batch(
            obs={key: as_tensors(batch[key]) for key in self.model.obs_spaces},
            actions=as_tensors(batch["action"]),
            rewards=as_tensors(batch["reward"]),
            terminations=as_tensors(batch["is_terminal"]),
            extras={key: as_tensors(batch[key]) for key in ("is_first", "is_last")},
            reward_convention="arrival",
        )

    def mean_losses(
        self, num_batches: int, batch_size: int, *, seed: int, step: int
    ) -> dict[str, float]:
        """Mean losses of the model, as it is after `step` updates and stays, over batches."""
        meter = Meter()
        before = {name: value.clone() for name, value in self.model.named_buffers()}
        with isolated_rng(seed), torch.no_grad():
            for _ in range(num_batches):
                output = self.model.loss(self.loss_batch(batch_size))
                meter.add({"loss": output.loss, **output.components}, step)
            for (
                name,
                value,
            ) in self.model.named_buffers():  # running scales of returns follow losses
                value.copy_(before[name])
        return meter.means()

    # Nothing of the data is kept with a run.
    def write_back(self, stepid: np.ndarray, entries: Mapping[str, np.ndarray]) -> None: ...
    def save(self, folder: Path) -> None: ...
    def keep_saves(self, folder: Path, states: list[Mapping[str, Any]]) -> None: ...
    def load(self, folder: Path) -> None: ...
    def close(self) -> None: ...
    def lent(self, seed: int) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Skips the batches of the epoch that were used before."""
        if not hasattr(self.data, "sample"):
            for _ in range(state["position"]):
                self._next(self.data)
        self.epoch = state["epoch"]

    def _next(self, data: Iterable[Batch | Mapping[str, Any]]) -> Batch | Mapping[str, Any]:
        while True:
            if self._iterator is None:
                self._iterator = iter(data)
            for item in self._iterator:
                self.position += 1
                return item
            if self.position == 0:
                raise TrainingError(
                    "the training data ended and cannot be gone through again; "
                    "give a list or an object with sample()"
                )
            self._iterator = None
            self.epoch += 1
            self.position = 0


def as_tensors(value: Any) -> Any:
    """Arrays, also inside a mapping, as tensors; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: as_tensors(item) for key, item in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def default_training(model: object) -> TrainingConfig:
    """TrainingConfig's defaults with the learning rate and clipping of the model's configuration."""
    config = getattr(model, "config", None)
    names = [name for name in ("learning_rate", "grad_clip") if hasattr(config, name)]
    return TrainingConfig(**{name: getattr(config, name) for name in names})


def as_agent(
    model: nn.Module | Agent,
    config: TrainingConfig,
    device: torch.device,
    optimizer: torch.optim.Optimizer | None,
    scheduler: LRScheduler | None,
) -> Agent:
    """The agent of a world model; an agent is returned as it is."""
    options = {"optimizer": optimizer, "scheduler": scheduler}
    options = {name: value for name, value in options.items() if value is not None}
    make = getattr(model, "make_agent", None)
    taken = inspect.signature(make).parameters if make else {}
    for name in options:
        if name not in taken:
            raise ConfigurationError(
                f"{name}: this agent makes its own; set TrainingConfig.{name} and its fields"
            )
    if make is not None:
        return make(config, device, **options)
    if not (hasattr(model, "update") and hasattr(model, "act")):
        raise ConfigurationError(
            f"model: expected a world model or an agent, got {type(model).__name__}"
        )
    return cast(Agent, model)


def as_source(data: Source | Recorded, agent: Agent, config: TrainingConfig) -> Source:
    """The source that `data` is or stands for."""
    if hasattr(data, "advance") and hasattr(data, "batch"):
        return cast(Source, data)
    if hasattr(data, "sample") or isinstance(data, Iterable):
        return Feed(data, agent.model, config.sequence_length)
    raise ConfigurationError(
        "data: expected an object with sample(batch_size=, seq_len=, device=) or an iterable of "
        f"batches, got {type(data).__name__}"
    )


def to_device(arrays: Mapping[str, np.ndarray | Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch as tensors on a device."""
    tensors = {key: torch.as_tensor(value) for key, value in arrays.items()}
    if device.type == "cuda":
        # From pinned memory the copy runs beside the computation.
        tensors = {k: v if v.is_cuda else v.pin_memory() for k, v in tensors.items()}
    return {key: value.to(device, non_blocking=True) for key, value in tensors.items()}


def to_host(entries: Mapping[str, Tensor], spaces: Mapping[str, Space]) -> dict[str, np.ndarray]:
    """Entries of the replay as arrays, in the types in which it keeps them: one-hot latents cross
    as bytes."""
    types = {key: getattr(torch, spaces[key].dtype) for key in entries}
    copies = {key: HostCopy(value.to(types[key])) for key, value in entries.items()}
    return {key: copy.read().numpy() for key, copy in copies.items()}
