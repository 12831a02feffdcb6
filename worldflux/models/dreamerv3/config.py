"""DreamerV3's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from worldflux.config.fields import near_miss
from worldflux.config.model import LAYERS, DynamicsType, LatentType, WorldModelConfig
from worldflux.config.options import option
from worldflux.models.dreamerv3.official.names import OFFICIAL_NAMES

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

    The recurrent state is deter_dim and stoch_discrete x stoch_classes; stoch_dim is their product.
    """

    official_names: ClassVar[Mapping[str, tuple[str, ...]]] = OFFICIAL_NAMES
    shortest_sequence: ClassVar[int] = 2  # the values of the replay look one step ahead
    derived: ClassVar[tuple[str, ...]] = ("stoch_dim",)
    parts: ClassVar[tuple[str, ...]] = (
        "encoder", "decoder", "reward", "continue", "actor", "critic",
    )  # fmt: skip
    tensors: ClassVar[tuple[str, ...]] = (
        "deter", "stoch", "feat", "embed", "posterior_logits", "prior_logits", "decoded", "action",
        "obs", "reward", "is_first", "is_last", "is_terminal", "model",
    )  # fmt: skip
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
    stoch_discrete: int = option(
        32, at_least=1, help="Categorical latents of the stochastic state."
    )
    stoch_classes: int = option(32, at_least=1, help="Classes of each categorical latent.")
    blocks: int = option(
        8,
        at_least=1,
        help="Blocks of the block-diagonal GRU; deter_dim must be a multiple. More blocks mean fewer parameters at one width.",
    )
    dyn_layers: int = option(
        1, at_least=1, at_most=LAYERS, help="Layers inside the recurrent core, before its gates."
    )
    obs_layers: int = option(
        1,
        at_least=1,
        at_most=LAYERS,
        help="Layers of the posterior (latent from deter and embedding).",
    )
    img_layers: int = option(
        2,
        at_least=1,
        at_most=LAYERS,
        help="Layers of the prior (latent from deter alone, as in imagination).",
    )
    unimix: float = option(
        0.01,
        at_least=0,
        below=1,
        help="Share of a uniform distribution mixed into the categorical latents, which keeps every class possible.",
    )
    encoder_type: str = option(
        "auto",
        choices=("auto", "cnn", "mlp"),
        help="auto uses a CNN for image keys and an MLP for the others; cnn and mlp insist that all keys are of that kind.",
    )
    decoder_type: str = option(
        "auto", choices=("auto", "cnn", "mlp"), help="As encoder_type, for the decoder."
    )
    encoder_layers: int = option(
        3, at_least=1, at_most=LAYERS, help="MLP layers of the encoder of vectors."
    )
    encoder_units: int | None = option(
        None, at_least=1, help="Width of the encoder's layers; null takes hidden_dim."
    )
    decoder_layers: int = option(
        3, at_least=1, at_most=LAYERS, help="MLP layers of the decoder of vectors."
    )
    decoder_units: int | None = option(
        None, at_least=1, help="Width of the decoder's layers; null takes hidden_dim."
    )
    cnn_depth: int = option(
        48, at_least=1, help="Channels of the image stages are this times cnn_mults."
    )
    cnn_mults: tuple[int, ...] = option(
        (2, 3, 4, 4),
        at_least=1,
        at_most=1_000,
        help="Multiples of cnn_depth, one for each stage; each halves height and width, so images must be divisible by 2 to their number.",
    )
    cnn_kernel: int = option(
        5, at_least=1, unit="pixels", help="Kernel size of the image stages; odd."
    )
    decoder_blocks: int = option(
        8, at_least=1, help="Blocks of the image decoder's first layer from deter."
    )
    use_symlog: bool = option(
        True,
        help="Squashes vectors with symlog before encoding, and decodes them in that space; false takes them as they are.",
    )
    use_twohot: bool = option(
        True, help="Reward and value are two-hot distributions over symexp bins; must be true."
    )
    reward_layers: int = option(
        1, at_least=1, at_most=LAYERS, help="Hidden layers of the reward head."
    )
    reward_units: int | None = option(
        None, at_least=1, help="Width of the reward head; null takes hidden_dim."
    )
    continue_layers: int = option(
        1, at_least=1, at_most=LAYERS, help="Hidden layers of the continue head."
    )
    continue_units: int | None = option(
        None, at_least=1, help="Width of the continue head; null takes hidden_dim."
    )
    actor_layers: int = option(3, at_least=1, at_most=LAYERS, help="Hidden layers of the actor.")
    actor_units: int | None = option(
        None, at_least=1, help="Width of the actor; null takes hidden_dim."
    )
    critic_layers: int = option(3, at_least=1, at_most=LAYERS, help="Hidden layers of the critic.")
    critic_units: int | None = option(
        None, at_least=1, help="Width of the critic; null takes hidden_dim."
    )
    reward_num_bins: int = option(
        255, at_least=2, help="Bins of the reward distribution, even or odd."
    )
    critic_num_bins: int | None = option(
        None, at_least=2, help="Bins of the value distribution; null takes reward_num_bins."
    )
    reward_bin_min: float = option(
        -20.0, unit="symlog of the reward", help="Lowest bin; must be -reward_bin_max."
    )
    reward_bin_max: float = option(
        20.0,
        above=0,
        unit="symlog of the reward",
        help="Highest bin; 20 stands for rewards and returns up to symexp(20), about 5e8.",
    )
    actor_min_std: float = option(
        0.1, above=0, help="Least standard deviation of continuous actions."
    )
    actor_max_std: float = option(1.0, help="Largest standard deviation of continuous actions.")
    kl_free: float = option(
        1.0,
        at_least=0,
        unit="nats",
        help="Free nats: each KL counts only above this. A KL that stays here means that the latent carries no more than that.",
    )
    kl_balance: float | None = option(
        None,
        above=0,
        below=1,
        help="Splits the sum of the two KL scales as kl_balance : 1 - kl_balance between dynamics and representation; null leaves them to loss_scales.",
    )
    loss_scales: dict[str, float] = option(
        factory=lambda: dict(LOSS_SCALES),
        keys=tuple(LOSS_SCALES),
        help="Weight of each loss; may be partial, what is absent keeps its official value.",
    )
    representation: str = option(
        "decoder",
        choices=("decoder", "redundancy_reduction"),
        help="What teaches the latent beside reward and continue: a decoder that reconstructs the observations, or, without one, R2-Dreamer's redundancy reduction between latent and embedding.",
    )
    redundancy_scale: float = option(
        0.05,
        at_least=0,
        help="Weight of that loss with representation=redundancy_reduction.",
    )
    redundancy_weight: float = option(
        5e-4,
        at_least=0,
        help="What it weighs the correlations of different entries by, against those of equal ones.",
    )
    actor_critic: bool = option(
        False, help="Behaviour learning is part of the loss; the runner always has it."
    )
    imagination_horizon: int = option(
        15,
        at_least=1,
        unit="environment steps",
        help="Length of imagined rollouts; longer sees rewards further away and costs time in proportion.",
    )
    imagination_starts: int = option(
        0,
        at_least=0,
        unit="states",
        help="Imagines from the last so many states of each sequence; 0 from all. Lower it to save time.",
    )
    discount_horizon: float = option(
        333.0,
        at_least=1,
        unit="environment steps",
        help="Effective horizon of the discount: gamma is 1 - 1 / discount_horizon.",
    )
    gamma: float | None = option(
        None,
        above=0,
        at_most=1,
        help="Discount for each step; null takes 1 - 1 / discount_horizon.",
    )
    lambda_: float = option(
        0.95,
        at_least=0,
        at_most=1,
        help="Lambda of the lambda-returns: 1 takes whole returns, 0 one step and then the critic.",
    )
    replay_lambda: float | None = option(
        None,
        at_least=0,
        at_most=1,
        help="lambda_ of the returns of replayed states; null takes lambda_.",
    )
    continue_discount: bool = option(
        True,
        help="The continue head learns the discount with the ends of episodes; false: the ends alone, and the discount is applied in imagination.",
    )
    actor_lr: float | None = option(
        None, help="Must be null: one optimizer trains all modules; set training.learning_rate."
    )
    critic_lr: float | None = option(
        None, help="Must be null: one optimizer trains all modules; set training.learning_rate."
    )
    actor_entropy_coef: float = option(
        3e-4,
        at_least=0,
        help="Weight of the actor's entropy against normalised returns; raise it where exploration ends too early.",
    )
    slow_critic_fraction: float = option(
        0.02,
        above=0,
        at_most=1,
        help="Share of the critic that flows into its slow copy at each of its updates.",
    )
    slow_critic_every: int = option(
        1, at_least=1, unit="updates", help="Updates between two of the slow critic."
    )
    slow_critic_scale: float = option(
        1.0, at_least=0, help="Weight of the loss that keeps the critic near its slow copy."
    )
    replay_slow_critic_scale: float | None = option(
        None,
        at_least=0,
        help="slow_critic_scale on replayed states; null takes slow_critic_scale.",
    )
    slow_critic_targets: bool = option(
        False,
        help="Imagined returns and advantages rest on the slow critic's values instead of the critic's.",
    )
    reward_grads: bool = option(
        True, help="The reward loss trains the world model, and not the reward head alone."
    )
    replay_value_grads: bool = option(
        True,
        help="The value loss on replayed states trains the world model, and not the critic alone.",
    )
    actor_critic_grads: bool = option(
        False,
        help="Actor and critic losses also train the world model, through the states that imagination starts from.",
    )
    return_normalization: bool = option(
        True,
        help="Divides returns by the range between two percentiles before the actor sees them.",
    )
    return_norm_impl: str = option(
        "perc",
        choices=("perc", "meanstd"),
        help="What returns are divided by: a range between percentiles, or the standard deviation.",
    )
    return_norm_debias: bool = option(
        False, help="Corrects the running statistics for their start at zero, as Adam does."
    )
    return_norm_rate: float = option(
        0.01,
        above=0,
        at_most=1,
        help="Share of a batch's percentiles that flows into the running ones.",
    )
    return_norm_limit: float = option(
        1.0,
        above=0,
        help="Least divisor of returns: smaller ranges are not blown up, so that sparse rewards stay quiet.",
    )
    return_norm_low: float = option(
        5.0, unit="percent", help="Lower percentile of the range of returns."
    )
    return_norm_high: float = option(
        95.0, unit="percent", help="Upper percentile of the range of returns."
    )
    replay_context: int = option(
        1,
        at_least=0,
        unit="environment steps",
        help="Stored steps before each trained sequence whose latents begin the recurrent state; 0 begins from zeros.",
    )

    def units(self, network: str) -> int:
        """Width of the encoder, decoder, actor, critic, reward or continue network's layers."""
        width = getattr(self, f"{network}_units")
        return self.hidden_dim if width is None else int(width)

    @property
    def discount(self) -> float:
        """Discount per step: `gamma`, or 1 - 1 / discount_horizon."""
        return 1.0 - 1.0 / self.discount_horizon if self.gamma is None else self.gamma

    @property
    def continue_target(self) -> float:
        """What the continue head learns for a step that does not end the episode."""
        return self.discount if self.continue_discount else 1.0

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
        if self.representation != "decoder" and "decoder" in self.components:
            text = f"has no place for it with representation={self.representation}"
            raise self.refuse("components.decoder", text)
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
        if images and not {"encoder", "decoder"} <= self.components.keys():
            self._check_images(images)

    def _check_images(self, images: dict[str, tuple[int, ...]]) -> None:
        stride = 2 ** len(self.cnn_mults)
        for name, (_, height, width) in images.items():
            if height % stride or width % stride:
                text = f"of image {name!r} must have height and width divisible by {stride}"
                text += f", got {height} and {width}"
                raise self.refuse("obs_shape", text, "env.image_size=[64,64] resizes")
        if len({shape[1:] for shape in images.values()}) > 1:
            text = f"all images must have one height and width, got {images}"
            raise self.refuse("", text, "env.image_size=[64,64] resizes")
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
        if not any(self.loss_scales.values()):
            raise self.refuse("loss_scales", "are all 0: nothing would be learned")
