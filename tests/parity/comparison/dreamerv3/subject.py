"""The agent under comparison, and official arrays in the shapes it takes and gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.comparison.compare import Computation
from tests.parity.comparison.dreamerv3.official import (
    STEP_KEYS,
    action_space,
    from_official_image,
    observation_space,
    training_from_official,
)
from worldflux.config.spaces import Space
from worldflux.config.training import TrainingConfig
from worldflux.core.math import one_hot_flat
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.dreamerv3.objective import Noise
from worldflux.models.dreamerv3.official.config import config_from_official
from worldflux.models.dreamerv3.rssm import Latent
from worldflux.models.dreamerv3.world_model import DreamerV3


def read_config(path: Path) -> dict[str, Any]:
    """A set's config.json; ConfigurationError if it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None


class Subject:
    """Our agent for the spaces and sizes of a recorded set. B batch, T time, A flat action."""

    def __init__(
        self,
        config: Mapping[str, Any],
        how: Computation,
        model: DreamerV3 | None = None,
    ):
        obs = {key: entry for key, entry in config["obs"].items() if key not in STEP_KEYS}
        self.obs_spaces = {key: observation_space(entry) for key, entry in obs.items()}
        self.action_shapes = {key: tuple(e["shape"]) for key, e in sorted(config["act"].items())}
        self.action_spaces: dict[str, Space] = {
            key: action_space(entry) for key, entry in sorted(config["act"].items())
        }
        self.dtype, self.device, self.tensor = how.dtype, how.device, how.tensor
        if model is None:
            model = DreamerV3(
                config_from_official(
                    config["agent"],
                    self.obs_spaces,
                    self.action_spaces,
                    replay_context=config["context"],
                )
            )
        self.model = model.to(how.device, how.dtype)
        training = TrainingConfig(
            **training_from_official(config["agent"]),
            device=str(how.device),
            compile_model=how.compile,
        )
        self.agent = DreamerV3Agent(self.model, training)

    def observations(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Recorded observation keys (and reward, is_*) as our step tensors."""
        steps = {}
        for key, array in arrays.items():
            if key in self.obs_spaces and self.obs_spaces[key].image:
                image = torch.from_numpy(from_official_image(array)).to(self.device)
                # Our own scaling of bytes gives float32; other types take images in [0, 1].
                steps[key] = image if self.dtype == torch.float32 else image.to(self.dtype) / 255
            else:
                steps[key] = self.tensor(array)
        return steps

    def latent(self, arrays: Mapping[str, np.ndarray]) -> Latent:
        return Latent(self.tensor(arrays["deter"]), self.tensor(arrays["stoch"]))

    def flat_action(self, arrays: Mapping[str, np.ndarray]) -> Tensor:
        """Recorded actions by key as flat actions `[..., A]`."""
        parts = []
        for key, space in self.action_spaces.items():
            value, shape = self.tensor(arrays[key]), self.action_shapes[key]
            value = value.reshape(*value.shape[: value.ndim - len(shape)], -1)
            parts.append(
                one_hot_flat(value, space.classes).to(self.dtype) if space.discrete else value
            )
        return torch.cat(parts, -1)

    def split_action(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat values `[..., A]` by key, still flat."""
        widths = [space.flat_dim for space in self.action_spaces.values()]
        return dict(zip(self.action_spaces, flat.split(widths, -1), strict=True))

    def official_actions(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat actions `[..., A]` as recorded: class indices or values, in the key's shape."""
        values = {}
        for key, part in self.split_action(flat).items():
            space, shape = self.action_spaces[key], self.action_shapes[key]
            if space.discrete:
                pieces = part.split(space.classes, -1)
                part = torch.stack([piece.argmax(-1) for piece in pieces], -1)
            values[key] = part.reshape(*part.shape[:-1], *shape)
        return values

    def action_noise(self, arrays: Mapping[str, np.ndarray], lead: int) -> Tensor:
        """Recorded action noise by key as `[..., A]`; `lead` dimensions are kept."""
        parts = [self.tensor(arrays[key]).flatten(lead) for key in self.action_spaces]
        return torch.cat(parts, -1)

    def noise(
        self, observe: np.ndarray, imagine: np.ndarray, act: Mapping[str, np.ndarray]
    ) -> Noise:
        """Every recorded draw of one update."""
        return Noise(self.tensor(observe), self.tensor(imagine), self.action_noise(act, 2))
