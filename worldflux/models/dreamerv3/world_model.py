"""DreamerV3 as a world model: its networks and the public calls on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldflux.core.distributions import gumbel_noise
from worldflux.core.normalize import RunningScale
from worldflux.core.optim import move_target_
from worldflux.core.state import Batch, LossOutput, ModelOutput, State
from worldflux.errors import ValidationError
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.networks import Actor, ContinueHead, Decoder, Encoder, TwoHotHead
from worldflux.models.dreamerv3.objective import Noise, Objective
from worldflux.models.dreamerv3.rssm import RSSM, Latent
from worldflux.models.world_model import WorldModel


class DreamerV3(WorldModel):
    """Encoder, RSSM, decoder, reward and continue head; with `actor_critic` actor and critic too.

    B batch, T time, D deter, S stoch groups, K classes, F = D + S*K feat, A action width.
    """

    config_class = DreamerV3Config
    config: DreamerV3Config
    latent_type = "categorical"
    # These four exist only with `actor_critic`; see `has_actor`.
    actor: Actor
    critic: TwoHotHead
    slow_critic: TwoHotHead
    return_norm: RunningScale

    def __init__(self, config: DreamerV3Config):
        super().__init__(config)
        self._build_world_model(config)
        if self.has_actor:
            self._build_actor_critic(config)

    def _build_world_model(self, config: DreamerV3Config) -> None:
        obs = config.obs_spaces()
        images = {key: space for key, space in obs.items() if space.image}
        vectors = {key: space for key, space in obs.items() if not space.image}
        cnn: dict[str, Any] = dict(
            depth=config.cnn_depth,
            mults=tuple(config.cnn_mults),
            kernel=config.cnn_kernel,
            squash=config.use_symlog,
        )
        flat = config.stoch_discrete * config.stoch_classes
        self.encoder = Encoder(
            vectors, images, units=config.units("encoder"), layers=config.encoder_layers, **cnn
        )
        self.rssm = RSSM(
            deter=config.deter_dim,
            stoch=config.stoch_discrete,
            classes=config.stoch_classes,
            hidden=config.hidden_dim,
            blocks=config.blocks,
            embed=self.encoder.embed_dim,
            action=self.action_dim,
            dyn_layers=config.dyn_layers,
            obs_layers=config.obs_layers,
            img_layers=config.img_layers,
            unimix=config.unimix,
        )
        self.decoder = Decoder(
            vectors,
            images,
            deter=config.deter_dim,
            stoch=flat,
            units=config.units("decoder"),
            layers=config.decoder_layers,
            blocks=config.decoder_blocks,
            **cnn,
        )
        self.feat_dim = config.deter_dim + flat
        self.reward = self._two_hot_head(config.units("reward"), config.reward_layers)
        self.con = ContinueHead(self.feat_dim, config.units("continue"), config.continue_layers)

    def _two_hot_head(self, units: int, layers: int) -> TwoHotHead:
        config = self.config
        return TwoHotHead(
            self.feat_dim, units, layers, config.reward_num_bins, config.reward_bin_max
        )

    def _build_actor_critic(self, config: DreamerV3Config) -> None:
        self.actor = Actor(
            self.feat_dim,
            self.action_spaces,
            units=config.units("actor"),
            layers=config.actor_layers,
            min_std=config.actor_min_std,
            max_std=config.actor_max_std,
        )
        shape = config.units("critic"), config.critic_layers
        self.critic = self._two_hot_head(*shape)
        self.slow_critic = self._two_hot_head(*shape).requires_grad_(False)
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.return_norm = RunningScale(
            "perc" if config.return_normalization else "none",
            rate=config.return_norm_rate,
            limit=config.return_norm_limit,
            low=config.return_norm_low,
            high=config.return_norm_high,
        )

    @property
    def has_actor(self) -> bool:
        """Whether the model holds actor and critic, and not the world model alone."""
        return self.config.actor_critic

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do."""
        always = {"latent_dynamics", "obs_decoder", "reward_pred", "continue_pred"}
        always |= {"representation"}
        return frozenset(always | ({"policy", "value"} if self.has_actor else set()))

    @property
    def scales(self) -> dict[str, float]:
        """Scale of every loss, by the official names."""
        scales = self.config.loss_scales
        dyn, rep = self.config.kl_scales()
        named = {"dyn": dyn, "rep": rep, "rew": scales["reward"], "con": scales["continue"]}
        named |= dict.fromkeys(self.obs_spaces, scales["reconstruction"])
        if self.has_actor:
            named |= {key: scales[key] for key in ("policy", "value")}
            named["repval"] = scales["replay_value"]
        return named

    def starts(self, length: int) -> int:
        """K: from how many states of a sequence of this length imagination starts."""
        return min(self.config.imagination_starts or length, length)

    def update_slow_critic(self, updates: int) -> None:
        """Moves the slow critic towards the critic after update number `updates` (from 0)."""
        if not self.has_actor:
            return
        slow: list[Tensor] = list(self.slow_critic.parameters())
        fast: list[Tensor] = list(self.critic.parameters())
        rate, every = self.config.slow_critic_fraction, self.config.slow_critic_every
        move_target_(slow, fast, rate, every=every, count=updates)

    # === Public world-model calls =======================================================

    def _state(self, latent: Latent, logit: Tensor, posterior: bool) -> State:
        tensors = {"deter": latent.deter, "stoch": latent.stoch, "logits": logit}
        tensors["prior_logits"] = self.rssm.prior(latent.deter) if posterior else logit
        if posterior:
            tensors["posterior_logits"] = logit
        return State(tensors, {"latent_type": self.latent_type})

    def _draw(self, logit: Tensor, deterministic: bool) -> Tensor:
        """A sample of stoch `[B, S, K]`, or its mode."""
        dist = self.rssm.dist(logit)
        if deterministic:
            return dist.pred()
        return dist.sample(gumbel_noise(logit.shape, None, logit.device))

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """Zero deter `[B, D]` and, in every group of stoch `[B, S, K]`, the first class."""
        config = self.config
        target = torch.device(device) if device is not None else self.device
        latent = self.rssm.initial(batch_size, target, self.dtype)
        latent.stoch[..., 0] = 1.0
        shape = (batch_size, config.stoch_discrete, config.stoch_classes)
        logit = torch.zeros(shape, device=target, dtype=self.dtype)
        tensors = {"deter": latent.deter, "stoch": latent.stoch, "logits": logit}
        tensors |= {"prior_logits": logit, "posterior_logits": logit}
        return State(tensors, {"latent_type": self.latent_type})

    def _posterior(
        self, latent: Latent, action: Tensor, obs: Any, first: bool, deterministic: bool
    ) -> State:
        obs = self.check_obs(obs)
        rows = next(iter(obs.values())).shape[0]
        is_first = torch.full((rows, 1), first, device=self.device)
        embed = self.encoder({key: value[:, None] for key, value in obs.items()})
        share, action_embed = self.rssm.prepare(embed, action[:, None], is_first)
        keep = (latent.deter, latent.stoch)
        weights = self.rssm.hoisted()
        deter = self.rssm.core(*keep, action_embed[:, 0], weights)
        logit = self.rssm.posterior(deter, share[:, 0], weights)
        return self._state(Latent(deter, self._draw(logit, deterministic)), logit, True)

    def encode(self, obs: Any, deterministic: bool = False) -> State:
        """The posterior state of first observations `[B, *obs]` or a dict of them.

        deterministic takes the mode of every group instead of a sample. Images are uint8 or in
        [0, 1]. Raises ValidationError for a wrong shape.
        """
        rows = next(iter(self.check_obs(obs).values())).shape[0]
        latent = self.rssm.initial(rows, self.device, self.dtype)
        action = torch.zeros(rows, self.action_dim, device=self.device, dtype=self.dtype)
        return self._posterior(latent, action, obs, True, deterministic)

    def transition(
        self, state: State, action: Any, conditions: Any = None, deterministic: bool = False
    ) -> State:
        """The prior state after an action `[B, A]` (None is the zero action)."""
        flat = self.check_action(action, state.batch_size)
        embed = self.rssm.embed_action(flat)
        latent = Latent(state.tensors["deter"], state.tensors["stoch"])
        deter = self.rssm.core(*latent, embed, self.rssm.hoisted())
        logit = self.rssm.prior(deter)
        return self._state(Latent(deter, self._draw(logit, deterministic)), logit, False)

    def update(self, state: State, action: Any, obs: Any, conditions: Any = None) -> State:
        """The posterior state after an action `[B, A]` and the observation it led to."""
        flat = self.check_action(action, state.batch_size)
        latent = Latent(state.tensors["deter"], state.tensors["stoch"])
        return self._posterior(latent, flat, obs, False, False)

    def decode(self, state: State, conditions: Any = None) -> ModelOutput:
        """Predictions for a state: each observation, reward `[B, 1]` and continue `[B, 1]`.

        continue is a probability (without the discount's share of the target's scale removed).
        """
        latent = Latent(state.tensors["deter"], state.tensors["stoch"])
        decoded = self.decoder(latent.deter, latent.stoch.flatten(-2))
        predictions = {}
        for key, dist in decoded.items():
            predictions[key] = dist.pred().reshape(-1, *self._decoded_shape(key))
        feat = latent.feat()
        predictions["reward"] = self.reward(feat).pred()[:, None]
        predictions["continue"] = self.con(feat).prob()[:, None]
        if self.has_actor:
            predictions["value"] = self.critic(feat).pred()[:, None]
        return ModelOutput(predictions, state)

    def _decoded_shape(self, key: str) -> tuple[int, ...]:
        space = self.obs_spaces[key]
        return (space.flat_dim,) if space.discrete else space.shape

    def policy(self, state: State, deterministic: bool = True) -> Tensor:
        """The actor's flat action `[B, A]` in a state. ValidationError without actor_critic."""
        if not self.has_actor:
            raise ValidationError("this model has no actor: build it with actor_critic=True")
        dist = self.actor(Latent(state.tensors["deter"], state.tensors["stoch"]).feat())
        if deterministic:
            return dist.pred()
        return dist.sample(self.actor.noise((state.batch_size,), None, self.device))

    def loss(self, batch: Batch) -> LossOutput:
        """The training loss of sequences `[B, T]`, with its parts under the guide's names."""
        steps = self.step_dict(batch)
        rows, length = steps["is_first"].shape
        noise = Noise.draw(self, rows, length, None, self.device)
        previous = torch.cat([torch.zeros_like(steps["action"][:, :1]), steps["action"][:, :-1]], 1)
        start = self.rssm.initial(rows, self.device, self.dtype)
        objective = Objective(self)
        step = objective(steps, start, previous, noise)
        means = {name: value.mean() for name, value in step.losses.items()}
        dyn, rep = self.config.kl_scales()
        components = {
            "kl_dynamics": means["dyn"],
            "kl_representation": means["rep"],
            "kl": dyn * means["dyn"] + rep * means["rep"],
            "reconstruction": torch.stack([means[key] for key in self.obs_spaces]).sum(),
            "reward": means["rew"],
            "continue": means["con"],
        }
        if self.has_actor:
            components |= {"actor": means["policy"], "critic": means["value"] + means["repval"]}
        metrics = {name: float(value) for name, value in step.metrics.items()}
        return LossOutput(objective.total(step.losses), components, metrics)

    def make_agent(
        self,
        training: Any,
        device: torch.device | str | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any | None = None,
    ) -> Any:
        """The agent that trains this model as a TrainingConfig says; a given optimizer, and torch
        scheduler of it, take the place of the configured ones."""
        from worldflux.models.dreamerv3.agent import DreamerV3Agent

        return DreamerV3Agent(self, training, device, optimizer, scheduler)
