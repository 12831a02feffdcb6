"""DreamerV3 as a world model: the public calls on its modules.

Letters: B batch, T time, D deter, S stoch groups, K classes, F = D + S*K feat, A action.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldflux.core.distributions import gumbel_noise
from worldflux.core.state import Action, Batch, Condition, LossOutput, ModelOutput, Obs, State
from worldflux.errors import ValidationError
from worldflux.models.dreamerv3.modules import RECON, DreamerV3Modules
from worldflux.models.dreamerv3.objective import Noise, Objective
from worldflux.models.dreamerv3.rssm import Latent
from worldflux.models.world_model import prediction_name


class DreamerV3(DreamerV3Modules):
    """DreamerV3; see `DreamerV3Modules` for what it consists of."""

    latent_type = "categorical"

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do."""
        always = {"latent_dynamics", "reward_pred", "continue_pred", "representation"}
        always |= {"obs_decoder"} if self.projector is None else set()
        return frozenset(always | ({"policy", "value"} if self.has_actor else set()))

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
        target = torch.device(device) if device is not None else self.device
        latent = self.rssm.initial(batch_size, target, self.dtype)
        latent.stoch[..., 0] = 1.0
        logit = torch.zeros_like(latent.stoch)  # [B, S, K]
        tensors = {"deter": latent.deter, "stoch": latent.stoch, "logits": logit}
        tensors |= {"prior_logits": logit, "posterior_logits": logit}
        return State(tensors, {"latent_type": self.latent_type})

    def _posterior(
        self, latent: Latent, action: Tensor, obs: Obs, first: bool, deterministic: bool
    ) -> State:
        checked = self.check_obs(obs)
        rows = next(iter(checked.values())).shape[0]
        is_first = torch.full((rows, 1), first, device=self.device)
        embed = self.encoder({key: value[:, None] for key, value in checked.items()})  # [B, 1, E]
        share, action_embed = self.rssm.prepare(embed, action[:, None], is_first)  # [B, 1, U] each
        weights = self.rssm.hoisted()
        deter = self.rssm.core(*latent, action_embed[:, 0], weights)  # [B, D]
        logit = self.rssm.posterior(deter, share[:, 0], weights)  # [B, S, K]
        return self._state(Latent(deter, self._draw(logit, deterministic)), logit, True)

    def encode(self, obs: Obs, deterministic: bool = False) -> State:
        """The posterior state of first observations `[B, *obs]` or a dict of them.

        deterministic takes the mode of every group instead of a sample. Images are uint8 or in
        [0, 1]. Raises ValidationError for a wrong shape.
        """
        rows = next(iter(self.check_obs(obs).values())).shape[0]
        latent = self.rssm.initial(rows, self.device, self.dtype)
        action = torch.zeros(rows, self.action_dim, device=self.device, dtype=self.dtype)
        return self._posterior(latent, action, obs, True, deterministic)

    def transition(
        self,
        state: State,
        action: Action,
        conditions: Condition = None,
        deterministic: bool = False,
    ) -> State:
        """The prior state after an action `[B, A]` (None is the zero action)."""
        flat = self.check_action(action, state.batch_size)
        embed = self.rssm.embed_action(flat)  # [B, U]
        deter = self.rssm.core(*_latent(state), embed, self.rssm.hoisted())  # [B, D]
        logit = self.rssm.prior(deter)  # [B, S, K]
        return self._state(Latent(deter, self._draw(logit, deterministic)), logit, False)

    def update(self, state: State, action: Action, obs: Obs, conditions: Condition = None) -> State:
        """The posterior state after an action `[B, A]` and the observation it led to."""
        flat = self.check_action(action, state.batch_size)
        return self._posterior(_latent(state), flat, obs, False, False)

    def decode(self, state: State, conditions: Condition = None) -> ModelOutput:
        """Predictions for a state: each observation, reward `[B, 1]` and continue `[B, 1]`.

        continue is a probability (without the discount's share of the target's scale removed). An
        observation has its key, or `recon/<key>` where that is the name of another prediction; see
        `prediction_name`.
        """
        latent = _latent(state)
        decoded = self.decoder(latent.deter, latent.stoch.flatten(-2))
        predictions = {
            prediction_name(key): dist.pred().reshape(-1, *self._decoded_shape(key))
            for key, dist in decoded.items()
        }
        feat = latent.feat()  # [B, F]
        predictions["reward"] = self.reward(feat).pred()[:, None]  # [B, 1]
        predictions["continue"] = self.con(feat).prob()[:, None]  # [B, 1]
        if self.has_actor:
            predictions["value"] = self.critic(feat).pred()[:, None]  # [B, 1]
        return ModelOutput(predictions, state)

    def _representation(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What teaches the latent, by the guide's name."""
        if self.projector is not None:
            return {"redundancy": means["redundancy"]}
        parts = [means[RECON + key] for key in self.obs_spaces]
        return {"reconstruction": torch.stack(parts).sum()}

    def _decoded_shape(self, key: str) -> tuple[int, ...]:
        space = self.obs_spaces[key]
        return (space.flat_dim,) if space.discrete else space.shape

    def policy(self, state: State, deterministic: bool = True) -> Tensor:
        """The actor's flat action `[B, A]` in a state. ValidationError without actor_critic."""
        if not self.has_actor:
            raise ValidationError("this model has no actor: build it with actor_critic=True")
        dist = self.actor(_latent(state).feat())
        if deterministic:
            return dist.pred()
        return dist.sample(self.actor.noise((state.batch_size,), None, self.device))

    def loss(self, batch: Batch) -> LossOutput:
        """The training loss of sequences `[B, T]`, with its parts under the guide's names."""
        steps = self.step_dict(batch)
        rows, length = steps["is_first"].shape
        noise = Noise.draw(self, rows, length, None, self.device)
        action = steps["action"]
        previous = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1)  # [B, T, A]
        start = self.rssm.initial(rows, self.device, self.dtype)
        objective = Objective(self)
        step = objective(steps, start, previous, noise)
        means = {name: value.mean() for name, value in step.losses.items()}
        dyn, rep = self.config.kl_scales()
        components = {
            "kl_dynamics": means["dyn"],
            "kl_representation": means["rep"],
            "kl": dyn * means["dyn"] + rep * means["rep"],
            **self._representation(means),
            "reward": means["rew"],
            "continue": means["con"],
        }
        if self.has_actor:
            components |= {"actor": means["policy"], "critic": means["value"] + means["repval"]}
        components |= {loss.name: means[loss.name] for loss in self.own_losses}
        metrics = {name: float(value) for name, value in step.metrics.items()}
        return LossOutput(objective.total(step.losses), components, metrics)


def _latent(state: State) -> Latent:
    return Latent(state.tensors["deter"], state.tensors["stoch"])
