"""DreamerV3's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from worldflux.config.fields import near_miss
from worldflux.config.model import LAYERS, DynamicsType, LatentType, WorldModelConfig
from worldflux.config.options import option

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

    shortest_sequence: ClassVar[int] = 2  # the values of the replay look one step ahead
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
    stoch_discrete: int = option(32, at_least=1)
    stoch_classes: int = option(32, at_least=1)
    blocks: int = option(8, at_least=1)
    dyn_layers: int = option(1, at_least=1, at_most=LAYERS)
    obs_layers: int = option(1, at_least=1, at_most=LAYERS)
    img_layers: int = option(2, at_least=1, at_most=LAYERS)
    unimix: float = option(0.01, at_least=0, below=1)
    encoder_type: str = option("auto", choices=("auto", "cnn", "mlp"))
    decoder_type: str = option("auto", choices=("auto", "cnn", "mlp"))
    encoder_layers: int = option(3, at_least=1, at_most=LAYERS)
    encoder_units: int | None = option(None, at_least=1)
    decoder_layers: int = option(3, at_least=1, at_most=LAYERS)
    decoder_units: int | None = option(None, at_least=1)
    cnn_depth: int = option(48, at_least=1)
    cnn_mults: tuple[int, ...] = option((2, 3, 4, 4), at_least=1, at_most=1_000)
    cnn_kernel: int = option(5, at_least=1)
    decoder_blocks: int = option(8, at_least=1)
    use_symlog: bool = True
    use_twohot: bool = True
    reward_layers: int = option(1, at_least=1, at_most=LAYERS)
    reward_units: int | None = option(None, at_least=1)
    continue_layers: int = option(1, at_least=1, at_most=LAYERS)
    continue_units: int | None = option(None, at_least=1)
    actor_layers: int = option(3, at_least=1, at_most=LAYERS)
    actor_units: int | None = option(None, at_least=1)
    critic_layers: int = option(3, at_least=1, at_most=LAYERS)
    critic_units: int | None = option(None, at_least=1)
    reward_num_bins: int = option(255, at_least=2)
    reward_bin_min: float = -20.0
    reward_bin_max: float = option(20.0, above=0)
    actor_min_std: float = option(0.1, above=0)
    actor_max_std: float = 1.0
    kl_free: float = option(1.0, at_least=0)
    kl_balance: float | None = option(None, above=0, below=1)
    loss_scales: dict[str, float] = option(
        factory=lambda: dict(LOSS_SCALES), keys=tuple(LOSS_SCALES)
    )
    actor_critic: bool = False
    imagination_horizon: int = option(15, at_least=1)
    imagination_starts: int = option(0, at_least=0)
    discount_horizon: float = option(333.0, at_least=1)
    gamma: float | None = option(None, above=0, at_most=1)
    lambda_: float = option(0.95, at_least=0, at_most=1)
    actor_lr: float | None = None
    critic_lr: float | None = None
    actor_entropy_coef: float = option(3e-4, at_least=0)
    slow_critic_fraction: float = option(0.02, above=0, at_most=1)
    slow_critic_every: int = option(1, at_least=1)
    slow_critic_scale: float = option(1.0, at_least=0)
    return_normalization: bool = True
    return_norm_rate: float = option(0.01, above=0, at_most=1)
    return_norm_limit: float = option(1.0, above=0)
    return_norm_low: float = 5.0
    return_norm_high: float = 95.0
    replay_context: int = option(1, at_least=0)

    def units(self, network: str) -> int:
        """Width of the encoder, decoder, actor, critic, reward or continue network's layers."""
        width = getattr(self, f"{network}_units")
        return self.hidden_dim if width is None else int(width)

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
        product = self.stoch_discrete * self.stoch_classes
        if "stoch_dim" in self.explicit and self.stoch_dim != product:
            text = f"is stoch_discrete * stoch_classes = {product}; leave it out"
            raise self.refuse("stoch_dim", f"{text}, got {self.stoch_dim}")
        self.stoch_dim = product
        super()._validate()
        self._check_networks()
        self._check_behaviour()
        self._check_observations()
        self._fill_loss_scales()

    def _check_networks(self) -> None:
        for name in ("blocks", "decoder_blocks"):
            if self.deter_dim % getattr(self, name):
                text = f"must be divisible by {name} ({getattr(self, name)}), got {self.deter_dim}"
                raise self.refuse("deter_dim", text)
        if self.cnn_kernel % 2 == 0:
            raise self.refuse("cnn_kernel", f"must be odd, got {self.cnn_kernel}")
        if not self.use_twohot:
            raise self.refuse("use_twohot", "must be true: reward and value heads are two-hot")
        if self.reward_bin_min != -self.reward_bin_max:
            text = f"must be -reward_bin_max = {-self.reward_bin_max:g}"
            text += f": the bins are symmetric; got {self.reward_bin_min:g}"
            raise self.refuse("reward_bin_min", text)

    def _check_behaviour(self) -> None:
        for name in ("actor_lr", "critic_lr"):
            if getattr(self, name) is not None:
                text = "must be null: one optimizer trains all modules of DreamerV3"
                raise self.refuse(name, text, "set the training configuration's learning_rate")
        if self.actor_max_std <= self.actor_min_std:
            raise self.refuse("actor_max_std", "must be above actor_min_std")
        if not 0 <= self.return_norm_low < self.return_norm_high <= 100:
            text = "and return_norm_high must be percentiles, low first"
            raise self.refuse("return_norm_low", text)

    def _check_observations(self) -> None:
        spaces = self.obs_spaces()
        images = {name: space.shape for name, space in spaces.items() if space.image}
        others = {name: space.shape for name, space in spaces.items() if name not in images}
        for name, shape in others.items():
            if len(shape) > 2:
                raise self.refuse("obs_shape", f"{shape} of {name!r} is neither vector nor image")
        for name in ("encoder_type", "decoder_type"):
            kind = getattr(self, name)
            for key, shape in {"cnn": others, "mlp": images}.get(kind, {}).items():
                text = f"{kind!r} does not fit the observation {key!r} of shape {shape}"
                raise self.refuse(name, text, "'auto' chooses by shape")
        if images:
            self._check_images(images)

    def _check_images(self, images: dict[str, tuple[int, ...]]) -> None:
        stride = 2 ** len(self.cnn_mults)
        for name, (_, height, width) in images.items():
            if height % stride or width % stride:
                text = f"of image {name!r} must have height and width divisible by {stride}"
                text += f", got {height} and {width}"
                raise self.refuse("obs_shape", text, "env.image_size=[64,64] resizes")
        if len({shape[1:] for shape in images.values()}) > 1:
            raise self.refuse("", f"all images must have one height and width, got {images}")
        if self.cnn_depth * self.cnn_mults[-1] % self.decoder_blocks:
            text = f"* {self.cnn_mults[-1]} must be divisible by decoder_blocks"
            text += f" ({self.decoder_blocks}), got cnn_depth {self.cnn_depth}"
            raise self.refuse("cnn_depth", text)

    def _fill_loss_scales(self) -> None:
        for name, scale in self.loss_scales.items():
            if name not in LOSS_SCALES:
                text = f"has no {name!r}, only {', '.join(LOSS_SCALES)}."
                raise self.refuse("loss_scales", text, near_miss(name, LOSS_SCALES))
            if scale < 0:
                raise self.refuse(f"loss_scales.{name}", f"must be >= 0, got {scale:g}")
        self.loss_scales = {**LOSS_SCALES, **self.loss_scales}
