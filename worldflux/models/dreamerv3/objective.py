"""DreamerV3's whole objective on one batch of replayed sequences.

Three parts, as in the paper: the world model on the replayed sequences, actor and critic on
trajectories imagined from every replayed state, and the critic on the replayed states themselves.
Each part is a method whose heavy section can be compiled; the short scalar recursions stay outside.

Letters: B batch, T time, L imagination's starts (the last L states of each sequence), N = B*L
imagined rows, H imagined steps, D deter, S stoch groups, K classes, F = D + S*K feat, U units,
E embed, A action.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldflux.core.compile import Compiler, eager
from worldflux.core.distributions import gumbel_noise
from worldflux.core.ranks import ALONE, Ranks
from worldflux.models.dreamerv3.layers import joint_products, known_product
from worldflux.models.dreamerv3.losses import (
    continue_target,
    imagined_returns,
    kl_losses,
    policy_loss,
    redundancy_loss,
    replay_returns,
    value_loss,
)
from worldflux.models.dreamerv3.modules import RECON, DreamerV3Modules
from worldflux.models.dreamerv3.networks import ActionDist
from worldflux.models.dreamerv3.rssm import Latent, ScanWeights
from worldflux.models.own_code import own_terms


@dataclass
class Noise:
    """Every random draw of one update.

    observe `[T, B, S, K]` is Gumbel, imagine `[H, N, S, 1]` uniform, or `[H, N, S, K]` Gumbel; act
    `[H+1, N, A]` is Gumbel for discrete and normal for continuous action keys.
    """

    observe: Tensor
    imagine: Tensor | None = None
    act: Tensor | None = None

    @staticmethod
    def draw(
        model: DreamerV3Modules,
        batch: int,
        length: int,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> Noise:
        """Fresh noise for sequences `[B, T]`."""
        config = model.config
        groups = (config.stoch_discrete, config.stoch_classes)
        observe = gumbel_noise((length, batch, *groups), generator, device)
        if not model.has_actor:
            return Noise(observe)
        steps = config.imagination_horizon
        rows = batch * model.starts(length)
        imagine = torch.rand((steps, rows, groups[0], 1), generator=generator, device=device)
        return Noise(observe, imagine, model.actor.noise((steps + 1, rows), generator, device))

    def chunk(self, parts: int) -> list[Noise]:
        """The draws of equal parts of the rows B, whose imagined rows N follow each other."""
        fields = (self.observe, self.imagine, self.act)
        cuts = [[None] * parts if x is None else x.chunk(parts, 1) for x in fields]
        return [Noise(*draws) for draws in zip(*cuts, strict=True)]


@dataclass
class Imagined:
    """Imagined trajectories, time first: feat `[H+1, N, F]` and action `[H+1, N, A]`."""

    feat: Tensor
    action: Tensor


@dataclass
class Step:
    """What one pass over the objective gives."""

    losses: dict[str, Tensor]  # by `LOSSES` and `recon/<key>`: [B, T], [B, L] or (repval) [B, L-1]
    metrics: dict[str, Tensor]  # scalars
    latent: Latent  # posterior states [B, T, ...]
    logit: Tensor  # posterior logits [B, T, S, K]
    arrays: dict[str, Tensor]  # detached intermediate results, by the official names


class Objective:
    """The objective of one model; `compile` is applied to its heavy sections."""

    def __init__(self, model: DreamerV3Modules, compile: Compiler = eager):
        self.model = model
        self.ranks: Ranks = ALONE
        self.prepare = compile(self._prepare)
        self.model_terms = compile(self._model_terms)
        self.imagine_step = compile(self._imagine_step)
        self.predict = compile(self._predict)
        self.behaviour_terms = compile(self._behaviour_terms)
        self.observe_step = compile(model.rssm.observe_step)

    def __call__(
        self, obs: Mapping[str, Tensor], start: Latent, prev_action: Tensor, noise: Noise
    ) -> Step:
        """Losses of sequences.

        obs: observation keys, `reward`, `is_first`, `is_last`, `is_terminal` `[B, T, ...]`.
        start: latent before the first step. prev_action `[B, T, A]`: the action that led to each
        observation.
        """
        embed_share, action_embed, embed = self.prepare(obs, prev_action)  # [B, T, U] each
        latent, logit = self.model.rssm.observe(
            start, embed_share, action_embed, obs["is_first"], noise.observe, self.observe_step
        )
        if not self.model.has_actor:
            losses, _, arrays = self.model_terms(obs, latent, logit)
            losses |= self.redundancy(latent, embed)
            losses |= self.own_terms(obs, prev_action, latent, logit)
            return Step(losses, {}, latent, logit, arrays)
        imagined = self.imagine(latent, noise)
        behaviour, metrics, boot, arrays = self.behaviour(imagined, logit.shape[0])
        losses, value_logits, model_arrays = self.model_terms(obs, latent, logit)
        assert value_logits is not None  # there is a critic
        losses |= behaviour
        slow_value = model_arrays["rep/slowval"]
        losses["repval"], replay_arrays = self.replay_value(obs, value_logits, boot, slow_value)
        losses |= self.redundancy(latent, embed)
        losses |= self.own_terms(obs, prev_action, latent, logit)
        metrics |= {name: model_arrays[name].mean() for name in ("dyn_ent", "rep_ent")}
        return Step(losses, metrics, latent, logit, model_arrays | arrays | replay_arrays)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The scalar to differentiate: the sum over losses of scale times mean."""
        scales = self.model.scales
        means = [scales[name] * loss.mean() for name, loss in losses.items()]  # scalars
        return torch.stack(means).sum()

    # === World model on replayed sequences =========================================

    def _prepare(
        self, obs: Mapping[str, Tensor], prev_action: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What feeds the recurrence, and without a decoder the embed, held fixed."""
        embed = self.model.encoder(obs)  # [B, T, E]
        share, action_embed = self.model.rssm.prepare(embed, prev_action, obs["is_first"])
        fixed = None if self.model.projector is None else embed.detach()  # [B, T, E]
        return share, action_embed, fixed

    def redundancy(self, latent: Latent, embed: Tensor | None) -> dict[str, Tensor]:
        """Without a decoder the loss of the latents' redundancy reduction, of all rows together, as
        `[B, T]`."""
        model = self.model
        if model.projector is None or embed is None:
            return {}
        projected = model.projector(latent.feat())  # [B, T, E]
        loss = redundancy_loss(projected, embed, model.config.redundancy_weight)
        return {"redundancy": loss.expand(embed.shape[:2])}

    def _model_terms(
        self, obs: Mapping[str, Tensor], latent: Latent, logit: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None, dict[str, Tensor]]:
        """World-model losses `[B, T]`, the critic's logits on the replayed states and details."""
        model, config = self.model, self.model.config
        posterior = model.rssm.dist(logit)  # of [B, T, S, K]
        prior = model.rssm.dist(model.rssm.prior(latent.deter))  # of [B, T, S, K]
        dyn, rep = kl_losses(posterior, prior, config.kl_free)
        losses = {"dyn": dyn, "rep": rep}
        targets = model.decoder.targets(obs)
        decoded = model.decoder(latent.deter, latent.stoch.flatten(-2))  # [B, T, D], [B, T, S*K]
        for key, dist in decoded.items():
            losses[RECON + key] = dist.loss(targets[key])  # [B, T]
        feat = latent.feat()  # [B, T, F]
        reward = model.reward(feat if config.reward_grads else feat.detach())
        losses["rew"] = reward.loss(obs["reward"])  # [B, T]
        target = continue_target(obs["is_terminal"], config.continue_target)  # [B, T]
        losses["con"] = model.con(feat).loss(target)  # [B, T]
        arrays = {
            "dyn_ent": prior.entropy().sum(-1).detach(),  # [B, T, S] -> [B, T]
            "rep_ent": posterior.entropy().sum(-1).detach(),  # [B, T, S] -> [B, T]
        }
        if not model.has_actor:
            return losses, None, arrays
        arrays["rep/slowval"] = self._slow_value(feat)
        value_feat = feat if config.replay_value_grads else feat.detach()
        return losses, model.critic(value_feat).logits, arrays

    def _slow_value(self, feat: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.slow_critic(feat.detach()).pred()  # [..., F] -> [...]

    def own_terms(
        self, obs: Mapping[str, Tensor], prev_action: Tensor, latent: Latent, logit: Tensor
    ) -> dict[str, Tensor]:
        """The user's own terms `[B, T]`; see the configuration's `tensors`."""
        model = self.model
        if not model.own_losses:
            return {}

        def decoded() -> dict[str, Tensor]:
            dists = model.decoder(latent.deter, latent.stoch.flatten(-2))
            return {key: dist.pred() for key, dist in dists.items()}

        tensors: dict[str, Callable[[], Any]] = {
            "deter": lambda: latent.deter,  # [B, T, D]
            "stoch": lambda: latent.stoch,  # [B, T, S, K]
            "feat": latent.feat,  # [B, T, F]
            "embed": lambda: model.encoder(obs),  # [B, T, E]
            "posterior_logits": lambda: logit,  # [B, T, S, K]
            "prior_logits": lambda: model.rssm.prior(latent.deter),  # [B, T, S, K]
            "decoded": decoded,
            "action": lambda: prev_action,  # [B, T, A]
            "obs": lambda: {key: obs[key] for key in model.obs_spaces},
            "model": lambda: model,
        }
        steps = ("reward", "is_first", "is_last", "is_terminal")  # [B, T] each
        tensors |= {key: functools.partial(obs.__getitem__, key) for key in steps}
        return own_terms(model.own_losses, tensors, logit.shape[:2])

    # === Actor and critic in imagination ============================================

    def _imagine_step(
        self,
        deter: Tensor,
        stoch: Tensor,
        action: Tensor,
        gumbel: Tensor,
        act_noise: Tensor,
        weights: ScanWeights,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next state under an action and the action sampled in it."""
        deter, stoch, _ = self.model.rssm.imagine_step(deter, stoch, action, gumbel, weights)
        feat = Latent(deter, stoch).feat()  # [N, F]
        return deter, stoch, feat, self.model.actor(feat).sample(act_noise)

    def imagine(self, latent: Latent, noise: Noise) -> Imagined:
        """Rolls the policy out from the last L states of every sequence (DreamerV3, eq. 3).

        Nothing here is differentiated, as the actor learns by REINFORCE on fixed features; with
        `actor_critic_grads` only the states that it starts from are.
        """
        feat, action = self._rollout(latent, noise)
        if self.model.config.actor_critic_grads:
            starts = self.model.starts(latent.deter.shape[1])
            first = latent.feat()[:, -starts:].flatten(0, 1)  # [N, F]
            feat = torch.cat([first[None], feat[1:]])
        return Imagined(feat, action)

    @torch.no_grad()
    def _rollout(self, latent: Latent, noise: Noise) -> tuple[Tensor, Tensor]:
        assert noise.imagine is not None and noise.act is not None
        starts = self.model.starts(latent.deter.shape[1])
        deter = latent.deter[:, -starts:].detach().flatten(0, 1)  # [B, L, D] -> [N, D]
        stoch = latent.stoch[:, -starts:].detach().flatten(0, 1)  # [B, L, S, K] -> [N, S, K]
        weights = self.model.rssm.hoisted()
        feats = [Latent(deter, stoch).feat()]  # [N, F]
        actions = [self.model.actor(feats[0]).sample(noise.act[0])]  # [N, A]
        for t in range(len(noise.imagine)):
            deter, stoch, feat, action = self.imagine_step(
                deter, stoch, actions[-1], noise.imagine[t], noise.act[t + 1], weights
            )
            feats.append(feat)
            actions.append(action)
        return torch.stack(feats), torch.stack(actions)  # [H+1, N, F], [H+1, N, A]

    def _predict(self, feat: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Critic logits `[H+1, N, bins]`, and predictions `[N, H+1]` without gradient."""
        model = self.model
        if {"critic", "reward", "continue"} & model.config.components.keys():
            return self._predict_one_by_one(feat)
        heads = (model.critic, model.reward, model.con, model.slow_critic)
        value, reward, con, slow = joint_products(feat, [head.mlp.first for head in heads])
        if model.config.actor_critic_grads:
            critic = model.critic(feat)
        else:
            critic = model.critic.after(known_product(value, feat, model.critic.mlp.first))
        with torch.no_grad():
            predictions = {
                "rew": model.reward.after(reward).pred(),
                "con": model.con.after(con).prob(),
                "val": critic.pred(),
                "slowval": model.slow_critic.after(slow).pred(),
            }
        return critic.logits, {key: x.T.contiguous() for key, x in predictions.items()}  # [N, H+1]

    def _predict_one_by_one(self, feat: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As `_predict`, where a head of the user's own has no first product to share."""
        model, critic = self.model, self.model.critic(feat)
        with torch.no_grad():
            predictions = {
                "rew": model.reward(feat).pred(),
                "con": model.con(feat).prob(),
                "val": critic.pred(),
                "slowval": model.slow_critic(feat).pred(),
            }
        return critic.logits, {key: x.T.contiguous() for key, x in predictions.items()}  # [N, H+1]

    def _behaviour_terms(
        self,
        imagined_feat: Tensor,
        imagined_action: Tensor,
        value_logits: Tensor,
        returns: Tensor,
        advantage: Tensor,
        slow_value: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Actor and critic loss `[N, H]`; returns, advantage, slow_value, weight `[N, H]`."""
        config = self.model.config
        dist = self.model.actor(imagined_feat[:-1])  # of [H, N, A]
        logp, entropy = dist.logp(imagined_action[:-1]).T, dist.entropy().T  # [N, H]
        actor = policy_loss(logp, entropy, advantage, weight, config.actor_entropy_coef)  # [N, H]
        value = self.model.critic.dist(value_logits[:-1])  # of [H, N, bins]
        scale = config.slow_critic_scale
        critic = value_loss(value, returns.T, slow_value.T, weight.T, scale).T  # [H, N] -> [N, H]
        arrays = {"imag/logp": logp.detach(), "imag/entropy": entropy.detach()}
        return actor, critic, arrays | entropy_metrics(dist)

    def behaviour(
        self, imagined: Imagined, batch: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Losses `[B, L]`, metrics, the imagined return of every start `[B, L]` and details."""
        config = self.model.config
        value_logits, preds = self.predict(imagined.feat)
        value = preds["slowval" if config.slow_critic_targets else "val"]  # [N, H+1]
        discount = config.discount / config.continue_target
        returns, weight = imagined_returns(
            preds["rew"], preds["con"], value, config.lambda_, discount
        )  # [N, H], [N, H+1]
        self.model.return_norm.update(self.ranks.gather(returns))
        offset, scale = self.model.return_norm.offset_scale()
        advantage = (returns - value[:, :-1]) / scale  # [N, H]
        actor, critic, arrays = self.behaviour_terms(
            imagined.feat, imagined.action, value_logits, returns, advantage,
            preds["slowval"][:, :-1], weight[:, :-1],
        )  # fmt: skip
        arrays |= {f"imag/{key}": value for key, value in preds.items()}
        arrays |= {"imag/weight": weight, "imag/ret": returns}
        arrays |= {"imag/policy_loss": actor.detach(), "imag/value_loss": critic.detach()}
        metrics = behaviour_metrics(arrays, advantage, offset, scale)
        losses = {
            "policy": actor.mean(-1).unflatten(0, (batch, -1)),  # [N, H] -> [N] -> [B, L]
            "value": critic.mean(-1).unflatten(0, (batch, -1)),  # [N, H] -> [N] -> [B, L]
        }
        boot = returns[:, 0].unflatten(0, (batch, -1))  # [N] -> [B, L]
        return losses, metrics, boot, arrays

    # === Critic on replayed states ===================================================

    def replay_value(
        self, obs: Mapping[str, Tensor], value_logits: Tensor, boot: Tensor, slow_value: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Replay-value loss `[B, L-1]` on the states that imagination started from, from the critic's
        logits `[B, T, bins]`; its gradient reaches the world model."""
        config, critic, starts = self.model.config, self.model.critic, boot.shape[1]
        lam = config.lambda_ if config.replay_lambda is None else config.replay_lambda
        scale = config.replay_slow_critic_scale
        scale = config.slow_critic_scale if scale is None else scale
        reward, last, terminal = (
            obs[key][:, -starts:] for key in ("reward", "is_last", "is_terminal")
        )  # [B, L] each
        returns = replay_returns(reward, last, terminal, boot, config.discount, lam)
        # The last state has no return; its value is only reported.
        slow = slow_value[:, -starts:-1]  # [B, L-1]
        value = critic.dist(value_logits[:, -starts:-1])  # of [B, L-1, bins]
        weight = (~last[:, :-1]).to(returns.dtype)  # [B, L-1]
        loss = value_loss(value, returns, slow, weight, scale)  # [B, L-1]
        values = critic.dist(value_logits[:, -starts:].detach()).pred()  # [B, L]
        return loss, {"rep/boot": boot, "rep/ret": returns, "rep/val": values}


def behaviour_metrics(
    arrays: Mapping[str, Tensor], advantage: Tensor, offset: Tensor, scale: Tensor
) -> dict[str, Tensor]:
    """Scalars of imagination, by the official names."""
    returns = (arrays["imag/ret"] - offset) / scale  # [N, H]
    metrics = {
        "adv": advantage.mean(),
        "adv_std": advantage.std(correction=0),
        "adv_mag": advantage.abs().mean(),
        "tar": arrays["imag/ret"].mean(),
        "ret": returns.mean(),
        "ret_min": returns.min(),
        "ret_max": returns.max(),
        "ret_rate": (returns.abs() >= 1.0).float().mean(),
        "entropy": arrays["imag/entropy"].mean(),
    }
    metrics |= {key: value for key, value in arrays.items() if key.startswith(("ent/", "rand/"))}
    names = ("rew", "con", "val", "slowval", "weight")
    return metrics | {name: arrays[f"imag/{name}"].mean() for name in names}


def entropy_metrics(dist: ActionDist) -> dict[str, Tensor]:
    """Mean entropy of each action key, and where it lies between its bounds (0 to 1)."""
    metrics = {}
    for key, part in dist.parts.items():
        low, high = part.entropy_range()
        metrics[f"ent/{key}"] = part.entropy().detach().mean()
        if high > low:  # a single choice has no entropy to compare with
            metrics[f"rand/{key}"] = (metrics[f"ent/{key}"] - low) / (high - low)
    return metrics
