"""Model configurations: what a model is, as typed, checked, saved and loaded data.

The dataclasses here are the schemas of the `model` group and the Python API at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from worldflux.core.config_base import ConfigBase
from worldflux.core.fields import near_miss
from worldflux.core.modalities import (
    action_spaces_from,
    action_spec_of,
    action_type_of,
    complete_modalities,
    modalities_of,
    primary_shape,
    simple_action_spaces,
    spaces_of,
)
from worldflux.core.presets import size_fields
from worldflux.core.spaces import Space, flat_action_dim
from worldflux.errors import ConfigurationError

DTYPES = ("float32", "float16", "bfloat16")
ACTION_TYPES = ("continuous", "discrete", "hybrid")
NO_ACTION_TYPES = ("none", "token", "latent", "text")


class LatentType(str, Enum):
    DETERMINISTIC = "deterministic"
    GAUSSIAN = "gaussian"
    CATEGORICAL = "categorical"
    VQ = "vq"
    SIMNORM = "simnorm"


class DynamicsType(str, Enum):
    RSSM = "rssm"
    MLP = "mlp"
    TRANSFORMER = "transformer"
    SSM = "ssm"


@dataclass
class WorldModelConfig(ConfigBase):
    """Fields that every family has, checked on construction.

    obs_shape: of the only observation key, images channels first `(C, H, W)`; with several keys
        that of the first image by name, else of the first key.
    observation_modalities: name -> {shape, kind, dtype, classes}; one key `obs` unless given.
    action_dim: width of the flat action, the number of choices if discrete.
    action_spec: {kind, dim, discrete, num_actions, keys}; keys describes multi-discrete and
        named actions.
    learning_rate, grad_clip: what a `Trainer` without a `TrainingConfig` uses.
    device: where a model made from this config lives. dtype: type of the computation; parameters
        stay float32.
    Every complaint is a ConfigurationError that begins with `[model_name] `.
    """

    model_type: str = "base"
    model_name: str = "unnamed"
    obs_shape: tuple[int, ...] = (3, 64, 64)
    action_dim: int = 6
    action_type: str = "continuous"
    observation_modalities: dict[str, Any] = field(default_factory=dict)
    action_spec: dict[str, Any] = field(default_factory=dict)
    latent_type: LatentType = LatentType.DETERMINISTIC
    latent_dim: int = 256
    deter_dim: int = 256
    stoch_dim: int = 32
    dynamics_type: DynamicsType = DynamicsType.MLP
    hidden_dim: int = 512
    learning_rate: float = 3e-4
    grad_clip: float = 100.0
    device: str = "cuda"
    dtype: str = "float32"

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> Any:
        """A preset of `conf/model/size` with `overrides`; UnknownPresetError for an unknown size."""
        model_type = cls.__dataclass_fields__["model_type"].default
        return cls(**{**size_fields(str(model_type), size), **overrides})

    def obs_spaces(self) -> dict[str, Space]:
        """Observation keys and their spaces, in the order they were declared."""
        return spaces_of(self.observation_modalities)

    def action_spaces(self) -> dict[str, Space]:
        """Action keys and their spaces."""
        return action_spaces_from(self.action_spec)

    def with_spaces(
        self, obs_spaces: Mapping[str, Space], action_spaces: Mapping[str, Space]
    ) -> Any:
        """A copy for an environment's spaces.

        What was given explicitly stays; ConfigurationError if the environment contradicts it.
        """
        modalities = modalities_of(obs_spaces)
        found = {
            "obs_shape": primary_shape(modalities),
            "observation_modalities": modalities,
            "action_dim": flat_action_dim(action_spaces),
            "action_type": action_type_of(action_spaces),
            "action_spec": action_spec_of(action_spaces),
        }
        for name, value in found.items():
            mine = getattr(self, name)
            if name in self._given and mine != value:
                raise self.refuse(f"{name} is {mine!r}, but the environment has {value!r}")
        return self.with_overrides(**found)

    def _validate(self) -> None:
        self._check_family()
        for name in ("action_dim", "hidden_dim", "latent_dim", "deter_dim", "stoch_dim"):
            self._at_least(name, 1)
        self._above("learning_rate", 0)
        self._at_least("grad_clip", 0)
        self._one_of("dtype", DTYPES)
        self._check_device()
        self._fill_observations()
        self._fill_actions()

    def _check_family(self) -> None:
        for name in ("model_type", "latent_type", "dynamics_type"):
            fixed = self.__dataclass_fields__[name].default
            value = getattr(self, name)
            if value != fixed and type(self) is not WorldModelConfig:
                value, fixed = getattr(value, "value", value), getattr(fixed, "value", fixed)
                raise self.refuse(
                    f"{name} must be {fixed!r} for {type(self).__name__}, got {value!r}"
                )

    def _fill_observations(self) -> None:
        if not self.obs_shape or min(self.obs_shape) < 1:
            raise self.refuse(f"obs_shape must hold whole numbers above 0, got {self.obs_shape}")
        shape = self.obs_shape
        if not self.observation_modalities:
            self.observation_modalities = {"obs": {"shape": shape}}
        try:
            self.observation_modalities = complete_modalities(self.observation_modalities)
        except ConfigurationError as error:
            raise self.refuse(str(error)) from None
        primary = primary_shape(self.observation_modalities)
        if "obs_shape" in self._given and shape != primary:
            raise self.refuse(f"obs_shape is {shape}, but observation_modalities make it {primary}")
        self.obs_shape = primary
        if len(primary) == 3 and primary[-1] in (1, 3, 4) and primary[0] > 4:
            warnings.warn(
                f"[{self.model_name}] obs_shape {primary} looks like (H, W, C); images are (C, H, W)",
                stacklevel=6,
            )

    def _fill_actions(self) -> None:
        if self.action_type in NO_ACTION_TYPES:
            raise self.refuse(
                f"action_type {self.action_type!r} is not built; models take {', '.join(ACTION_TYPES)}"
            )
        self._one_of("action_type", ACTION_TYPES)
        if not self.action_spec:
            if self.action_type == "hybrid":
                raise self.refuse(
                    "action_type 'hybrid' needs action_spec.keys, a description of each key"
                )
            spaces = simple_action_spaces(self.action_type, self.action_dim)
        else:
            try:
                spaces = action_spaces_from(self.action_spec)
            except ConfigurationError as error:
                raise self.refuse(str(error)) from None
        found = {"action_dim": flat_action_dim(spaces), "action_type": action_type_of(spaces)}
        for name, value in found.items():
            if name in self._given and getattr(self, name) != value:
                raise self.refuse(
                    f"{name} is {getattr(self, name)!r}, but action_spec makes it {value!r}"
                )
            setattr(self, name, value)
        self.action_spec = action_spec_of(spaces)


LOSS_SCALES = {
    "reconstruction": 1.0,
    "reward": 1.0,
    "continue": 1.0,
    "kl_dynamics": 1.0,
    "kl_representation": 0.1,
    "policy": 1.0,
    "value": 1.0,
    "replay_value": 0.3,
}


@dataclass
class DreamerV3Config(WorldModelConfig):
    """DreamerV3 (Hafner et al.). Defaults and presets are those of the current official code.

    Sizes: deter_dim and stoch_discrete x stoch_classes are the state; hidden_dim is the width of
    every layer; cnn_depth times cnn_mults the channels of the image stages. stoch_dim is always
    stoch_discrete * stoch_classes.
    encoder_type, decoder_type: `auto` uses a CNN for image keys and an MLP for all others; `cnn`
    and `mlp` insist that all keys are of that kind.
    kl_balance: splits the sum of the two KL scales as kl_balance : 1 - kl_balance between dynamics
    and representation; None keeps loss_scales (official 1.0 and 0.1).
    loss_scales: may be partial; the rest keeps its official value.
    gamma: discount per step; None takes 1 - 1 / discount_horizon.
    imagination_starts: imagine from the last so many states of a sequence; 0 from all.
    """

    model_type: str = "dreamer"
    latent_type: LatentType = LatentType.CATEGORICAL
    dynamics_type: DynamicsType = DynamicsType.RSSM
    learning_rate: float = 4e-5
    grad_clip: float = 1000.0
    stoch_discrete: int = 32
    stoch_classes: int = 32
    blocks: int = 8
    dyn_layers: int = 1
    obs_layers: int = 1
    img_layers: int = 2
    unimix: float = 0.01
    encoder_type: str = "auto"
    decoder_type: str = "auto"
    encoder_layers: int = 3
    decoder_layers: int = 3
    cnn_depth: int = 48
    cnn_mults: tuple[int, ...] = (2, 3, 4, 4)
    cnn_kernel: int = 5
    decoder_blocks: int = 8
    use_symlog: bool = True
    use_twohot: bool = True
    reward_layers: int = 1
    continue_layers: int = 1
    actor_layers: int = 3
    critic_layers: int = 3
    reward_num_bins: int = 255
    reward_bin_min: float = -20.0
    reward_bin_max: float = 20.0
    actor_min_std: float = 0.1
    actor_max_std: float = 1.0
    kl_free: float = 1.0
    kl_balance: float | None = None
    loss_scales: dict[str, float] = field(default_factory=lambda: dict(LOSS_SCALES))
    actor_critic: bool = False
    imagination_horizon: int = 15
    imagination_starts: int = 0
    discount_horizon: float = 333.0
    gamma: float | None = None
    lambda_: float = 0.95
    actor_lr: float | None = None
    critic_lr: float | None = None
    actor_entropy_coef: float = 3e-4
    slow_critic_fraction: float = 0.02
    slow_critic_every: int = 1
    slow_critic_scale: float = 1.0
    return_normalization: bool = True
    return_norm_rate: float = 0.01
    return_norm_limit: float = 1.0
    return_norm_low: float = 5.0
    return_norm_high: float = 95.0
    replay_context: int = 1

    @property
    def discount(self) -> float:
        """Discount per step: `gamma`, or 1 - 1 / discount_horizon."""
        return 1.0 - 1.0 / self.discount_horizon if self.gamma is None else self.gamma

    def kl_scales(self) -> tuple[float, float]:
        """Scales of the dynamics and the representation KL, after `kl_balance`."""
        dyn, rep = self.loss_scales["kl_dynamics"], self.loss_scales["kl_representation"]
        if self.kl_balance is None:
            return dyn, rep
        return (dyn + rep) * self.kl_balance, (dyn + rep) * (1.0 - self.kl_balance)

    def _derive(self) -> None:
        self.stoch_dim = self.stoch_discrete * self.stoch_classes

    def _validate(self) -> None:
        for name in ("stoch_discrete", "stoch_classes", "deter_dim"):
            self._at_least(name, 1)
        product = self.stoch_discrete * self.stoch_classes
        if "stoch_dim" in self._given and self.stoch_dim != product:
            raise self.refuse(
                f"stoch_dim is always stoch_discrete * stoch_classes = {product}, got {self.stoch_dim}"
            )
        self._derive()
        self._refuse_inert(
            "latent_dim", "its latent is deter_dim and stoch_discrete * stoch_classes"
        )
        super()._validate()
        self._check_layers()
        self._check_heads()
        self._check_images()
        self._fill_loss_scales()

    def _check_layers(self) -> None:
        for name in ("blocks", "dyn_layers", "obs_layers", "img_layers", "encoder_layers"):
            self._at_least(name, 1)
        for name in ("decoder_layers", "reward_layers", "continue_layers", "actor_layers"):
            self._at_least(name, 1)
        for name in ("critic_layers", "cnn_depth", "decoder_blocks", "imagination_horizon"):
            self._at_least(name, 1)
        for name in ("imagination_starts", "kl_free", "replay_context"):
            self._at_least(name, 0)
        for name in ("blocks", "decoder_blocks"):
            if self.deter_dim % getattr(self, name):
                raise self.refuse(
                    f"deter_dim must be divisible by {name}; got {self.deter_dim} and {getattr(self, name)}"
                )
        self._between("unimix", 0, 1, "[)")

    def _check_heads(self) -> None:
        if not self.use_twohot:
            raise self.refuse("use_twohot must be true: reward and value heads are symexp two-hot")
        for name in ("actor_lr", "critic_lr"):
            if getattr(self, name) is not None:
                raise self.refuse(
                    f"{name} is not supported: one optimizer trains all modules of DreamerV3;"
                    " set the learning_rate of the training configuration"
                )
        self._at_least("reward_num_bins", 2)
        self._above("reward_bin_max", 0)
        if self.reward_bin_min != -self.reward_bin_max:
            raise self.refuse(
                f"reward_bin_min must be -reward_bin_max: the bins are symmetric;"
                f" got {self.reward_bin_min:g} and {self.reward_bin_max:g}"
            )
        self._above("actor_min_std", 0)
        if self.actor_max_std <= self.actor_min_std:
            raise self.refuse("actor_max_std must be above actor_min_std")
        if self.kl_balance is not None:
            self._between("kl_balance", 0, 1, "()")
        if self.gamma is not None:
            self._between("gamma", 0, 1, "(]")
        self._at_least("discount_horizon", 1)
        self._between("lambda_", 0, 1, "[]")
        self._at_least("actor_entropy_coef", 0)
        self._at_least("slow_critic_every", 1)
        self._at_least("slow_critic_scale", 0)
        self._between("slow_critic_fraction", 0, 1, "(]")
        self._between("return_norm_rate", 0, 1, "(]")
        self._above("return_norm_limit", 0)
        if not 0 <= self.return_norm_low < self.return_norm_high <= 100:
            raise self.refuse(
                "return_norm_low and return_norm_high must be percentiles, low below high"
            )

    def _check_images(self) -> None:
        spaces = self.obs_spaces()
        images = {name: space.shape for name, space in spaces.items() if space.image}
        others = [name for name in spaces if name not in images]
        for name in others:
            if len(spaces[name].shape) > 2:
                raise self.refuse(
                    f"observation {name!r} of shape {spaces[name].shape} is neither vector nor image"
                )
        for name in ("encoder_type", "decoder_type"):
            self._one_of(name, ("auto", "cnn", "mlp"))
            if getattr(self, name) == "cnn" and others:
                raise self.refuse(
                    f"{name} 'cnn' needs images (C, H, W), but {others[0]!r} has obs_shape {spaces[others[0]].shape}"
                )
            if getattr(self, name) == "mlp" and images:
                raise self.refuse(
                    f"{name} 'mlp' needs vectors, but {next(iter(images))!r} is an image; use 'auto'"
                )
        if not self.cnn_mults or min(self.cnn_mults) < 1 or self.cnn_kernel < 1:
            raise self.refuse("cnn_mults and cnn_kernel must be above 0")
        if self.cnn_kernel % 2 == 0:
            raise self.refuse(f"cnn_kernel must be odd, got {self.cnn_kernel}")
        if not images:
            return
        stride = 2 ** len(self.cnn_mults)
        for name, shape in images.items():
            if shape[1] % stride or shape[2] % stride:
                raise self.refuse(
                    f"image height and width must be divisible by {stride}: {name!r} has obs_shape {shape}"
                )
        if len({shape[1:] for shape in images.values()}) > 1:
            raise self.refuse(f"all images must have one height and width, got {images}")
        if self.cnn_depth * self.cnn_mults[-1] % self.decoder_blocks:
            raise self.refuse(
                f"cnn_depth * {self.cnn_mults[-1]} must be divisible by decoder_blocks"
                f" ({self.decoder_blocks}), got cnn_depth {self.cnn_depth}"
            )

    def _fill_loss_scales(self) -> None:
        for name, scale in self.loss_scales.items():
            if name not in LOSS_SCALES:
                raise self.refuse(
                    f"loss_scales has no {name!r}; it takes {', '.join(LOSS_SCALES)}.{near_miss(name, LOSS_SCALES)}"
                )
            if scale < 0:
                raise self.refuse(f"loss_scales.{name} must be >= 0, got {scale:g}")
        self.loss_scales = {**LOSS_SCALES, **self.loss_scales}


DreamerV3Config.removed = {
    "cnn_kernels": "all image stages have one kernel size, cnn_kernel",
    "reference_tier": "there is one DreamerV3, the official one",
    "parity_profile": "there is one DreamerV3, the official one",
}
DreamerV3Config.legacy = {
    "cnn_kernels": [4, 4, 4, 4],
    "reference_tier": "reference",
    "parity_profile": "",
    "actor_lr": 3e-5,
    "critic_lr": 3e-5,
}


@dataclass
class TDMPC2Config(WorldModelConfig):
    """TD-MPC2 (Hansen et al.). Defaults are the official ones, those of size 5m.

    latent_dim: width of z, in groups of simnorm_dim. hidden_dim and num_hidden_layers: the MLPs of
    dynamics, reward, Q and policy. encoder_dim, encoder_layers: the encoder, whose last layer gives z.
    horizon, num_samples, num_elites, num_pi_trajs, iterations, min_std, max_std, temperature: MPPI.
    momentum: share of the previous mean that MPPI keeps in each iteration (official: 0).
    gamma: discount; None takes the official rule from the episode length: with
    f = length / discount_denom it is (f - 1) / f within [discount_min, discount_max].
    """

    model_type: str = "tdmpc2"
    latent_type: LatentType = LatentType.SIMNORM
    latent_dim: int = 512
    grad_clip: float = 20.0
    simnorm_dim: int = 8
    num_hidden_layers: int = 2
    encoder_dim: int = 256
    encoder_layers: int = 2
    num_q_networks: int = 5
    num_bins: int = 101
    bin_min: float = -10.0
    bin_max: float = 10.0
    dropout: float = 0.01
    horizon: int = 3
    iterations: int = 6
    num_samples: int = 512
    num_elites: int = 64
    num_pi_trajs: int = 24
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5
    momentum: float = 0.0
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    entropy_coef: float = 1e-4
    gamma: float | None = None
    discount_denom: float = 5.0
    discount_min: float = 0.95
    discount_max: float = 0.995
    rho: float = 0.5
    encoder_lr_scale: float = 0.3
    target_q_tau: float = 0.01
    consistency_loss_coef: float = 20.0
    reward_loss_coef: float = 0.1
    td_loss_coef: float = 0.1
    policy_loss_coef: float = 1.0
    termination_loss_coef: float = 1.0
    episodic: bool = False

    def _validate(self) -> None:
        for name in ("deter_dim", "stoch_dim"):
            self._refuse_inert(name, "its latent is latent_dim wide")
        super()._validate()
        for name in ("simnorm_dim", "num_hidden_layers", "encoder_dim", "encoder_layers"):
            self._at_least(name, 1)
        for name in ("num_q_networks", "num_bins", "horizon", "iterations", "num_samples"):
            self._at_least(name, 2 if name in ("num_q_networks", "num_bins") else 1)
        if self.latent_dim % self.simnorm_dim:
            raise self.refuse(
                f"latent_dim must be divisible by simnorm_dim; got {self.latent_dim} and {self.simnorm_dim}"
            )
        for name in ("num_elites", "num_pi_trajs"):
            self._at_least(name, 1 if name == "num_elites" else 0)
            if getattr(self, name) > self.num_samples:
                raise self.refuse(
                    f"{name} must be at most num_samples; got {getattr(self, name)} and {self.num_samples}"
                )
        for low, high in (
            ("min_std", "max_std"),
            ("bin_min", "bin_max"),
            ("log_std_min", "log_std_max"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise self.refuse(f"{low} must be below {high}")
        for name in ("min_std", "temperature", "discount_denom"):
            self._above(name, 0)
        self._between("momentum", 0, 1, "[]")
        self._between("dropout", 0, 1, "[)")
        for name in ("target_q_tau", "rho", "encoder_lr_scale", "discount_min", "discount_max"):
            self._between(name, 0, 1, "(]")
        if self.gamma is not None:
            self._between("gamma", 0, 1, "(]")
        for name in ("consistency", "reward", "td", "policy", "termination"):
            self._at_least(f"{name}_loss_coef", 0)
        self._at_least("entropy_coef", 0)
        if self.action_type == "hybrid":
            raise self.refuse(
                "action_type 'hybrid' is not built for TD-MPC2; it takes continuous or discrete"
            )


TDMPC2Config.removed = {
    "task_dim": "multi-task training is not built",
    "num_tasks": "multi-task training is not built",
    "training_tier": "there is one TD-MPC2, the official one",
    "parity_profile": "there is one TD-MPC2, the official one",
    "use_decoder": "TD-MPC2 has no decoder",
}
TDMPC2Config.legacy = {
    "task_dim": 96,
    "num_tasks": 1,
    "training_tier": "reference",
    "parity_profile": "",
    "use_decoder": False,
}

FAMILIES: dict[str, type[WorldModelConfig]] = {
    "base": WorldModelConfig,
    "dreamer": DreamerV3Config,
    "tdmpc2": TDMPC2Config,
}
WorldModelConfig.families = FAMILIES
