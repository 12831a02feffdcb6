"""The trained modules of DreamerV3: what its objective computes with, below the public model.

Letters: D deter, S stoch groups, K classes, F = D + S*K feat.
"""

from __future__ import annotations

from torch import Tensor, nn

from worldflux.core.optim import move_target_
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.layers import trunc_normal_in_
from worldflux.models.dreamerv3.networks import (
    Actor,
    ContinueHead,
    Decoder,
    Encoder,
    NoDecoder,
    TwoHotHead,
)
from worldflux.models.dreamerv3.normalize import RunningScale
from worldflux.models.dreamerv3.own import (
    OwnActor,
    OwnContinueHead,
    OwnDecoder,
    OwnEncoder,
    OwnTwoHotHead,
)
from worldflux.models.dreamerv3.rssm import RSSM
from worldflux.models.own_code import own_losses
from worldflux.models.world_model import WorldModel, name_among

# Losses by the official names. Those of the observations stand beside them as `recon/<key>`.
LOSSES = ("dyn", "rep", "rew", "con", "policy", "value", "repval", "redundancy")
RECON = "recon/"
ENTRIES = ("dyn/deter", "dyn/stoch")  # what the replay stores of a step's latent


def metric_name(loss: str) -> str:
    """What a loss is logged as: `loss/<name>`, for an observation `loss/<key>`, or
    `loss/recon/<key>` where the key has the name of a loss (`LOSSES`, `total`)."""
    key = loss.removeprefix(RECON)
    return f"loss/{loss if key == loss else name_among(key, (*LOSSES, 'total'))}"


class DreamerV3Modules(WorldModel):
    """Encoder, RSSM, decoder, reward and continue head; with `actor_critic` actor and critic too."""

    config_class = DreamerV3Config
    config: DreamerV3Config
    step_keys = (*WorldModel.step_keys, *ENTRIES)
    # These four exist only with `actor_critic`; see `has_actor`.
    actor: Actor
    critic: TwoHotHead
    slow_critic: TwoHotHead
    return_norm: RunningScale

    def __init__(self, config: DreamerV3Config):
        super().__init__(config)
        replaced = config.components
        self.own_losses = own_losses(config)
        self.encoder = (OwnEncoder if "encoder" in replaced else Encoder)(config, self.obs_spaces)
        self.rssm = RSSM(config, self.encoder.embed_dim, self.action_dim)
        self.feat_dim = config.deter_dim + config.stoch_discrete * config.stoch_classes  # F
        self.decoder: Decoder | NoDecoder
        self.projector: nn.Linear | None = None
        if config.representation != "decoder":
            self.decoder = NoDecoder()
            self.projector = nn.Linear(self.feat_dim, self.encoder.embed_dim, bias=False)
            trunc_normal_in_(self.projector.weight, self.feat_dim)
        elif "decoder" in replaced:
            self.decoder = OwnDecoder(config, self.obs_spaces, self.feat_dim)
        else:
            self.decoder = Decoder(config, self.obs_spaces)
        self.reward = self._two_hot_head("reward", config.reward_layers, config.reward_num_bins)
        self.con: ContinueHead
        if "continue" in replaced:
            self.con = OwnContinueHead(config, self.feat_dim)
        else:
            self.con = ContinueHead(self.feat_dim, config.units("continue"), config.continue_layers)
        if not self.has_actor:
            return
        actor = OwnActor if "actor" in replaced else Actor
        self.actor = actor(config, self.action_spaces, self.feat_dim)
        bins = config.critic_num_bins or config.reward_num_bins
        shape = "critic", config.critic_layers, bins
        self.critic = self._two_hot_head(*shape)
        self.slow_critic = self._two_hot_head(*shape).requires_grad_(False)
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.return_norm = RunningScale(
            config.return_norm_impl if config.return_normalization else "none",
            rate=config.return_norm_rate,
            limit=config.return_norm_limit,
            low=config.return_norm_low,
            high=config.return_norm_high,
            debias=config.return_norm_debias,
        )

    def _two_hot_head(self, name: str, layers: int, bins: int) -> TwoHotHead:
        if name in self.config.components:
            return OwnTwoHotHead(self.config, name, self.feat_dim, bins)
        units = self.config.units(name)
        return TwoHotHead(self.feat_dim, units, layers, bins, self.config.reward_bin_max)

    @property
    def has_actor(self) -> bool:
        """Whether the model holds actor and critic, and not the world model alone."""
        return self.config.actor_critic

    @property
    def scales(self) -> dict[str, float]:
        """Scale of every loss, by the names of `LOSSES`, `recon/<key>` and `own/<name>`."""
        scales = self.config.loss_scales
        dyn, rep = self.config.kl_scales()
        named = {"dyn": dyn, "rep": rep, "rew": scales["reward"], "con": scales["continue"]}
        named["redundancy"] = self.config.redundancy_scale
        named |= {RECON + key: scales["reconstruction"] for key in self.obs_spaces}
        if self.has_actor:
            named |= {key: scales[key] for key in ("policy", "value")}
            named["repval"] = scales["replay_value"]
        return named | {loss.name: loss.scale for loss in self.own_losses}

    def starts(self, length: int) -> int:
        """From how many states of a sequence of this length imagination starts."""
        return min(self.config.imagination_starts or length, length)

    def update_slow_critic(self, updates: int) -> None:
        """Moves the slow critic towards the critic after update number `updates` (from 0)."""
        if not self.has_actor:
            return
        slow: list[Tensor] = list(self.slow_critic.parameters())
        fast: list[Tensor] = list(self.critic.parameters())
        rate, every = self.config.slow_critic_fraction, self.config.slow_critic_every
        move_target_(slow, fast, rate, every=every, count=updates)
