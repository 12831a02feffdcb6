"""DreamerV3's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from worldflux.config.fields import near_miss
from worldflux.config.model import DynamicsType, LatentType, WorldModelConfig

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

    deter_dim, stoch_discrete x stoch_classes: the recurrent state; stoch_dim is their product.
    hidden_dim: width of every layer; encoder_units, decoder_units, reward_units, continue_units,
        actor_units, critic_units: that of one network, where it is another.
    cnn_depth: times cnn_mults, channels of the image stages.
    encoder_type, decoder_type: `auto` uses a CNN for image keys and an MLP for the others; `cnn`
        and `mlp` insist that all keys are of that kind.
    kl_balance: splits the sum of the two KL scales as kl_balance : 1 - kl_balance between dynamics
        and representation; None leaves them to loss_scales (official: 1.0 and 0.1).
    loss_scales: may be partial; what is absent keeps its official value.
    gamma: discount per step; None takes 1 - 1 / discount_horizon.
    imagination_starts: imagine from the last so many states of each sequence; 0 from all.
    actor_critic: behaviour learning is part of `loss`; the runner always has it.
    """

    mappings: ClassVar[dict[str, tuple[str, ...]]] = {"loss_scales": tuple(LOSS_SCALES)}
    derived: ClassVar[tuple[str, ...]] = ("stoch_dim",)
    inert: ClassVar[dict[str, str]] = {
        "latent_dim": "its latent is deter_dim and stoch_discrete * stoch_classes",
    }
    removed: ClassVar[dict[str, str]] = {
        "cnn_kernels": "all image stages have one kernel size, cnn_kernel",
        "reference_tier": "there is one DreamerV3, the official one",
        "parity_profile": "there is one DreamerV3, the official one",
    }
    legacy: ClassVar[dict[str, Any]] = {
        "cnn_kernels": [4, 4, 4, 4],
        "reference_tier": "reference",
        "parity_profile": "",
        "actor_lr": 3e-5,
        "critic_lr": 3e-5,
    }

    model_type: str = "dreamer"
    latent_type: LatentType = LatentType.CATEGORICAL
    dynamics_type: DynamicsType = DynamicsType.RSSM
    learning_rate: float = 4e-5
    grad_clip: float = 0.0
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
    encoder_units: int | None = None
    decoder_layers: int = 3
    decoder_units: int | None = None
    cnn_depth: int = 48
    cnn_mults: tuple[int, ...] = (2, 3, 4, 4)
    cnn_kernel: int = 5
    decoder_blocks: int = 8
    use_symlog: bool = True
    use_twohot: bool = True
    reward_layers: int = 1
    reward_units: int | None = None
    continue_layers: int = 1
    continue_units: int | None = None
    actor_layers: int = 3
    actor_units: int | None = None
    critic_layers: int = 3
    critic_units: int | None = None
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

    def units(self, network: str) -> int:
        """Width of the encoder, decoder, actor, critic, reward or continue network's layers."""
        given = getattr(self, f"{network}_units")
        return self.hidden_dim if given is None else int(given)

    @property
    def discount(self) -> float:
        """Discount per step: `gamma`, or 1 - 1 / discount_horizon."""
        return 1.0 - 1.0 / self.discount_horizon if self.gamma is None else self.gamma

    def kl_scales(self) -> tuple[float, float]:
        """Scales of the dynamics and of the representation KL, with `kl_balance` applied."""
        dyn, rep = self.loss_scales["kl_dynamics"], self.loss_scales["kl_representation"]
        if self.kl_balance is None:
            return dyn, rep
        return (dyn + rep) * self.kl_balance, (dyn + rep) * (1.0 - self.kl_balance)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: enumerations as text, tuples as lists."""
        self.stoch_dim = self.stoch_discrete * self.stoch_classes
        return super().to_dict()

    def _validate(self) -> None:
        self._at_least(1, "stoch_discrete", "stoch_classes")
        product = self.stoch_discrete * self.stoch_classes
        if "stoch_dim" in self._given and self.stoch_dim != product:
            text = f"stoch_dim is stoch_discrete * stoch_classes = {product}; leave it out"
            raise self.refuse(f"{text}, got {self.stoch_dim}")
        self.stoch_dim = product
        super()._validate()
        self._check_networks()
        self._check_heads()
        self._check_behaviour()
        self._check_observations()
        self._fill_loss_scales()

    def _check_networks(self) -> None:
        self._at_least(1, "blocks", "dyn_layers", "obs_layers", "img_layers", "cnn_depth")
        self._at_least(1, "encoder_layers", "decoder_layers", "decoder_blocks", "cnn_kernel")
        for name in ("blocks", "decoder_blocks"):
            if self.deter_dim % getattr(self, name):
                text = f"deter_dim must be divisible by {name} ({getattr(self, name)})"
                raise self.refuse(f"{text}, got {self.deter_dim}")
        if not self.cnn_mults or min(self.cnn_mults) < 1:
            raise self.refuse(f"cnn_mults must hold whole numbers above 0, got {self.cnn_mults}")
        if self.cnn_kernel % 2 == 0:
            raise self.refuse(f"cnn_kernel must be odd, got {self.cnn_kernel}")
        self._between("unimix", 0, 1, "[)")
        for network in ("encoder", "decoder", "reward", "continue", "actor", "critic"):
            if self.units(network) < 1:
                raise self.refuse(f"{network}_units must be >= 1, got {self.units(network)}")

    def _check_heads(self) -> None:
        if not self.use_twohot:
            raise self.refuse("use_twohot must be true: reward and value heads are two-hot")
        self._at_least(1, "reward_layers", "continue_layers", "actor_layers", "critic_layers")
        self._at_least(2, "reward_num_bins")
        self._above(0, "reward_bin_max", "actor_min_std")
        if self.reward_bin_min != -self.reward_bin_max:
            text = f"reward_bin_min must be -reward_bin_max = {-self.reward_bin_max:g}"
            raise self.refuse(f"{text}: the bins are symmetric; got {self.reward_bin_min:g}")
        if self.actor_max_std <= self.actor_min_std:
            raise self.refuse("actor_max_std must be above actor_min_std")

    def _check_behaviour(self) -> None:
        for name in ("actor_lr", "critic_lr"):
            if getattr(self, name) is not None:
                text = f"{name} must be null: one optimizer trains all modules of DreamerV3"
                raise self.refuse(f"{text}; set the training configuration's learning_rate")
        self._between("kl_balance", 0, 1, "()")
        self._between("gamma", 0, 1, "(]")
        self._between("lambda_", 0, 1, "[]")
        self._between("slow_critic_fraction", 0, 1, "(]")
        self._between("return_norm_rate", 0, 1, "(]")
        self._at_least(1, "imagination_horizon", "discount_horizon", "slow_critic_every")
        self._at_least(0, "imagination_starts", "kl_free", "replay_context")
        self._at_least(0, "actor_entropy_coef", "slow_critic_scale")
        self._above(0, "return_norm_limit")
        if not 0 <= self.return_norm_low < self.return_norm_high <= 100:
            raise self.refuse("return_norm_low, return_norm_high must be percentiles, low first")

    def _check_observations(self) -> None:
        spaces = self.obs_spaces()
        images = {name: space.shape for name, space in spaces.items() if space.image}
        others = {name: space.shape for name, space in spaces.items() if name not in images}
        for name, shape in others.items():
            if len(shape) > 2:
                raise self.refuse(f"obs_shape {shape} of {name!r} is neither vector nor image")
        for name in ("encoder_type", "decoder_type"):
            self._one_of(name, ("auto", "cnn", "mlp"))
            wrong = {"cnn": others, "mlp": images}.get(getattr(self, name))
            if wrong:
                (key, shape), kind = next(iter(wrong.items())), getattr(self, name)
                text = f"{name} {kind!r} does not fit the observation {key!r} of shape {shape}"
                raise self.refuse(f"{text}; 'auto' chooses by shape")
        if images:
            self._check_images(images)

    def _check_images(self, images: dict[str, tuple[int, ...]]) -> None:
        stride = 2 ** len(self.cnn_mults)
        for name, (_, height, width) in images.items():
            if height % stride or width % stride:
                text = f"obs_shape of image {name!r} must have height and width divisible by"
                raise self.refuse(
                    f"{text} {stride}, got {height} and {width}; env.image_size=[64,64] resizes"
                )
        if len({shape[1:] for shape in images.values()}) > 1:
            raise self.refuse(f"all images must have one height and width, got {images}")
        if self.cnn_depth * self.cnn_mults[-1] % self.decoder_blocks:
            text = f"cnn_depth * {self.cnn_mults[-1]} must be divisible by decoder_blocks"
            raise self.refuse(f"{text} ({self.decoder_blocks}), got cnn_depth {self.cnn_depth}")

    def _fill_loss_scales(self) -> None:
        for name, scale in self.loss_scales.items():
            if name not in LOSS_SCALES:
                text = f"loss_scales has no {name!r}, only {', '.join(LOSS_SCALES)}."
                raise self.refuse(text + near_miss(name, LOSS_SCALES))
            if scale < 0:
                raise self.refuse(f"loss_scales.{name} must be >= 0, got {scale:g}")
        self.loss_scales = {**LOSS_SCALES, **self.loss_scales}
