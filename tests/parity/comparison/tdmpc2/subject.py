"""The agent under comparison, and recorded arrays in the shapes it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.parity.comparison.compare import (
    Comparison,
    Computation,
    Recorded,
    compare,
    flatten_json,
)
from worldflux.config.training import TrainingConfig
from worldflux.errors import ConfigurationError
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.official.weights import official_names
from worldflux.models.tdmpc2.world_model import TDMPC2

# Official setting -> our field.
FIELDS = {
    "episodic": "episodic",
    "reward_coef": "reward_loss_coef",
    "value_coef": "td_loss_coef",
    "termination_coef": "termination_loss_coef",
    "consistency_coef": "consistency_loss_coef",
    "rho": "rho",
    "enc_lr_scale": "encoder_lr_scale",
    "tau": "target_q_tau",
    "discount_denom": "discount_denom",
    "discount_min": "discount_min",
    "discount_max": "discount_max",
    "iterations": "iterations",
    "num_samples": "num_samples",
    "num_elites": "num_elites",
    "num_pi_trajs": "num_pi_trajs",
    "horizon": "horizon",
    "min_std": "min_std",
    "max_std": "max_std",
    "temperature": "temperature",
    "log_std_min": "log_std_min",
    "log_std_max": "log_std_max",
    "entropy_coef": "entropy_coef",
    "num_bins": "num_bins",
    "vmin": "bin_min",
    "vmax": "bin_max",
    "num_enc_layers": "encoder_layers",
    "enc_dim": "encoder_dim",
    "mlp_dim": "hidden_dim",
    "latent_dim": "latent_dim",
    "num_q": "num_q_networks",
    "dropout": "dropout",
    "simnorm_dim": "simnorm_dim",
    "action_dim": "action_dim",
    "episode_length": "episode_length",
}
# Settings of the optimizer, of the batch, and those that say what made the numbers.
TRAINING = {"lr": "learning_rate", "grad_clip_norm": "grad_clip", "batch_size": "batch_size"}
FACTS = ("obs", "obs_dim", "bin_size", "discount", "total_params")
ORIGIN = ("torch", "official_commit", "tensordict")


class RecordingAgent(TDMPC2Agent):
    """The agent, whose gradients before clipping are kept."""

    gradients: dict[str, Tensor]

    def _step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rate: float
    ) -> Tensor:
        kept = {id(parameter) for parameter in parameters}
        for name, param in self.model.named_parameters():
            if id(param) in kept and param.grad is not None:
                self.gradients[name] = param.grad.clone()
        return super()._step(optimizer, parameters, rate)


class Subject:
    """Our agent with the settings of a recorded folder."""

    def __init__(
        self,
        config: Mapping[str, Any],
        how: Computation,
        model: TDMPC2 | None = None,
    ):
        if config.get("obs") != "state":
            raise ConfigurationError(f"config.json: obs is {config.get('obs')!r}, expected 'state'")
        missing = [key for key in (*FIELDS, *TRAINING, *FACTS) if key not in config]
        if missing:
            raise ConfigurationError(f"config.json: {', '.join(missing)} missing")
        self.config, self.dtype, self.tensor = config, how.dtype, how.tensor
        if model is None:
            fields = {ours: config[theirs] for theirs, ours in FIELDS.items()}
            model = TDMPC2(TDMPC2Config(obs_shape=(config["obs_dim"],), **fields))
        self.model = model.to(how.device, how.dtype)
        bins = torch.linspace(config["vmin"], config["vmax"], config["num_bins"], dtype=how.dtype)
        self.model.bins.copy_(bins)  # the model's own were rounded to float32
        training = {ours: config[theirs] for theirs, ours in TRAINING.items()}
        self.agent = RecordingAgent(
            self.model,
            TrainingConfig(
                **training,
                sequence_length=config["horizon"],
                optimizer="adam",
                device=str(how.device),
                compile_model=how.compile,
            ),
        )
        self.agent.gradients = {}
        self.names = official_names(self.model)

    def batch(self, recorded: Recorded) -> dict[str, Tensor]:
        """The recorded batch as the replay gives it: batch first, rewards with what they led to."""
        obs, action = self.tensor(recorded["in_obs"]), self.tensor(recorded["in_action"])
        zeros = torch.zeros_like(obs[:1, :, 0])
        reward = self.tensor(recorded["in_reward"])[..., 0]
        ended = self.tensor(recorded["in_terminated"])[..., 0]
        ended = torch.cat([zeros, ended]).T.bool()
        first = torch.zeros_like(ended)
        first[:, 0] = True
        return {
            "obs": obs.transpose(0, 1),
            "action": torch.cat([action, torch.zeros_like(action[:1])]).transpose(0, 1),
            "reward": torch.cat([zeros, reward]).T,
            "is_first": first,
            "is_last": ended,
            "is_terminal": ended,
        }


def compare_settings(subject: Subject, comparison: Comparison) -> None:
    """What our model made of the settings."""
    model, config = subject.model, subject.config
    values = {
        "discount": model.discount,
        "total_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bin_size": float(model.bins[1] - model.bins[0]),
        "obs_dim": model.obs_spaces["obs"].size,
    }
    for name, value in values.items():
        label, tolerance = f"config.json/{name}", 1e-6 if name == "bin_size" else 1e-12
        comparison.rows.append(compare(label, np.asarray(config[name]), value, tolerance))
    known = (*FIELDS, *TRAINING, *FACTS, *ORIGIN)
    for name in config:
        if name not in known:
            comparison.fail(f"config.json/{name}", "no such setting is known")


class Doubles(Recorded):
    """Outputs in float64. rounding: by how much the official float32 ones differ from them, by
    `name/max_abs`, `name/max_rel` and `name/max_abs_value`."""

    rounding: Mapping[str, np.ndarray] = MappingProxyType({})

    @classmethod
    def of(cls, folder: Path) -> Doubles:
        """Those of a recorded folder, where it has some."""
        numbers, rounding = folder / "float64_outputs.npz", folder / "float32_vs_float64.json"
        doubles = cls({}, "float64_outputs/")
        if numbers.is_file():
            doubles = cls(Recorded.load(numbers).arrays, doubles.prefix)
        if rounding.is_file():
            doubles.rounding = flatten_json(rounding)
        return doubles

    def floor(self, name: str, elementwise: bool) -> float:
        """What float32 alone makes of an output's error, in the measure of its tolerance."""
        if f"{name}/max_abs" not in self.rounding:
            return 0.0
        absolute, relative, largest = (
            float(self.rounding[f"{name}/{key}"]) for key in ("max_abs", "max_rel", "max_abs_value")
        )
        return min(absolute, relative) if elementwise else absolute / (largest or 1.0)


class Twice:
    """Checks an output against the recorded float32 number and against its float64 twin.

    exact64: what our numbers may differ from the float64 ones, if we compute in float64 ourselves;
    in float32 it is the tolerance and what the official float32 numbers differ by.
    """

    def __init__(
        self,
        recorded: Recorded,
        doubles: Doubles,
        comparison: Comparison,
        dtype: torch.dtype,
        exact64: float = 1e-8,
    ):
        self.recorded, self.doubles, self.comparison = recorded, doubles, comparison
        self.dtype, self.exact64 = dtype, exact64

    def __call__(
        self,
        name: str,
        ours: Tensor | np.ndarray | float,
        tolerance: float | None = None,
        *,
        double: str | None = None,
        absolute: bool = False,
    ) -> None:
        """double: its name among the float64 outputs. absolute: the tolerance is of values of
        size 1, and grows with larger ones element by element."""
        allowed = self.comparison.tolerances.forward if tolerance is None else tolerance
        twin = double or name
        exact = min(allowed, self.exact64)
        if self.dtype != torch.float64:
            exact = allowed + self.doubles.floor(twin, absolute)
        for recorded, key, limit in (
            (self.recorded, f"out_{name}", allowed),
            (self.doubles, twin, exact),
        ):
            if recorded is self.doubles and key not in recorded:
                continue  # planning has no float64 numbers
            if absolute and key in recorded:
                self._elementwise(recorded, key, ours, limit)
            else:
                self.comparison.check(recorded, key, ours, tolerance=limit)

    def _elementwise(
        self, recorded: Recorded, key: str, ours: Tensor | np.ndarray | float, tolerance: float
    ) -> None:
        expected = recorded[key].astype(np.float64)
        value = (
            ours.detach().double().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
        )
        size = 1 + np.abs(expected)
        scaled = value / size if value.shape == expected.shape else value
        label = recorded.prefix + key
        self.comparison.rows.append(compare(label, expected / size, scaled, tolerance, scale=1.0))
