"""TD-MPC2's objective on one batch of replayed slices: the model's part and the policy's part.

Time comes first, as in the official code. Heavy sections are methods that can be compiled.

Letters: H unrolled steps, B batch, L latent, Z what the networks read (see modules.py), O flat
observation, A action, Q number of Q networks, K bins, U units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldflux.config.spaces import TASK_KEY
from worldflux.core.compile import Compiler, eager
from worldflux.core.math import symlog_two_hot
from worldflux.core.ranks import ALONE, Ranks
from worldflux.errors import TrainingError
from worldflux.models.own_code import own_terms
from worldflux.models.tdmpc2.distributions import SymlogTwoHot
from worldflux.models.tdmpc2.losses import (
    consistency_loss,
    entropies,
    policy_loss,
    td_target,
    termination_loss,
    value_loss,
)
from worldflux.models.tdmpc2.modules import Observation, TDMPC2Modules, steps_of
from worldflux.models.tdmpc2.tasks import TaskTerms


@dataclass
class Noise:
    """Every random draw of one update.

    td_action `[H, B, A]` and policy_action `[H+1, B, A]` are the policy's noise, td_index and
    policy_index `[2]` the Q networks that count. q_dropout `[Q, H*B, U]` and policy_dropout
    `[2, (H+1)*B, U]` are factors, None without dropout. shift `[H+1, B, 2]` moves pictures,
    None for vectors.
    """

    td_action: Tensor
    td_index: Tensor
    policy_action: Tensor
    policy_index: Tensor
    q_dropout: Tensor | None = None
    policy_dropout: Tensor | None = None
    shift: Tensor | None = None

    @staticmethod
    def draw(
        model: TDMPC2Modules, steps: int, rows: int, generator: torch.Generator | None
    ) -> Noise:
        """Fresh noise for slices of `steps` transitions."""
        device = model.device
        noise = Noise(
            model.pi.noise((steps, rows), generator, device),
            model.draw_q_index(generator),
            model.pi.noise((steps + 1, rows), generator, device),
            model.draw_q_index(generator),
            shift=model.draw_shift((steps + 1, rows), generator),
        )
        if rate := model.config.dropout:

            def keep(networks: int, count: int) -> Tensor:
                return dropout((networks, count, model.q.units), rate, generator, device)

            noise.q_dropout = keep(model.q.count, steps * rows)
            noise.policy_dropout = keep(2, (steps + 1) * rows)
        return noise


def dropout(
    shape: tuple[int, ...], rate: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Factors that drop a share `rate` of the elements and keep the mean, float32.

    Four elements share one drawn integer, 16 bits each, which is several times as fast as a draw
    for each; the rate is met to 1 / 65,536.
    """
    count = math.prod(shape)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=device)  # [count/4], rounded up
    drawn.random_(-(2**63), None, generator=generator)
    threshold = min(round(rate * 2**16), 2**16 - 1)
    keep = drawn.view(torch.int16)[:count] >= threshold - 2**15  # [count]
    return keep.reshape(shape).float().mul_(2**16 / (2**16 - threshold))


@dataclass
class Slices:
    """A batch, time first: obs `[H+1, B, O]` or pictures, what each action led to `[H, B]`.

    valid `[H+1, B]`: 0 from where a slice runs into another episode, 1 before. task `[B]` and terms
    of it: None with a single task.
    """

    obs: Observation
    action: Tensor
    reward: Tensor
    terminated: Tensor
    valid: Tensor
    task: Tensor | None = None
    terms: TaskTerms | None = None

    @property
    def steps_rows(self) -> tuple[int, int]:
        """H and B."""
        steps, rows = self.reward.shape
        return steps, rows


@dataclass
class ModelStep:
    """losses `[H, B]` by name; latent `[H+1, B, Z]` is the rollout, target `[H, B, Z]` the encoder's
    view of the next observations; td_target `[H, B]`; terminated `[H, B]` predicted probabilities."""

    losses: dict[str, Tensor]
    latent: Tensor
    target: Tensor
    td_target: Tensor
    terminated: Tensor | None


@dataclass
class PolicyStep:
    """loss, entropy and scaled_entropy `[H+1, B]`; value is Q, not scaled."""

    loss: Tensor
    value: Tensor
    entropy: Tensor
    scaled_entropy: Tensor


class Objective:
    """The objective of one model; `compile` is applied to its heavy sections."""

    def __init__(self, model: TDMPC2Modules, compile: Compiler = eager):
        self.model = model
        self.ranks: Ranks = ALONE
        config = model.config
        self.coefs = {
            "consistency": config.consistency_loss_coef,
            "reward": config.reward_loss_coef,
            "td": config.td_loss_coef,
            "termination": config.termination_loss_coef,
            "policy": config.policy_loss_coef,
            **{loss.name: loss.scale for loss in model.own_losses},
        }
        self.targets = compile(self._targets)
        self.model_terms = compile(self._model_terms)
        self.policy_terms = compile(self._policy_terms)

    def slices(self, batch: Mapping[str, Tensor]) -> Slices:
        """Step sequences `[B, H+1, ...]` as slices.

        Raises TrainingError for sequences of one step, and for an end of the task in a model that
        has no termination head.
        """
        model = self.model
        if batch["is_first"].shape[1] < 2:
            raise TrainingError("TD-MPC2 trains on transitions: sequences need at least 2 steps")
        terminal = batch["is_terminal"][:, 1:]  # [B, H]
        if model.termination is None and bool(terminal.any()):
            raise TrainingError(
                "an episode terminated, but this TD-MPC2 model takes episodes to be endless:"
                " make it with episodic=True (an agent adds the termination head itself)"
            )
        first = batch["is_first"].T.clone()  # [H+1, B]
        first[0] = False
        task = batch[TASK_KEY][:, 0] if model.config.multitask else None  # [B]
        return Slices(
            obs=model.observation({key: batch[key].transpose(0, 1) for key in model.observed}),
            action=batch["action"].transpose(0, 1)[:-1].to(model.dtype),  # [H, B, A]
            reward=batch["reward"].T[1:].to(model.dtype),  # [H, B]
            terminated=terminal.T.to(model.dtype),  # [H, B]
            valid=1 - first.cumsum(0).clamp(max=1).to(model.dtype),  # [H+1, B]
            task=task,
            terms=model.task_terms(task),
        )

    # === The model ==========================================================================

    def model_losses(self, data: Slices, noise: Noise) -> ModelStep:
        """Losses of encoder, dynamics, reward, Q and termination."""
        model = self.model
        if model.task_emb is not None and data.task is not None:
            model.task_emb.project_(self.ranks.gather(data.task))
        shift = (None, None) if noise.shift is None else (noise.shift[0], noise.shift[1:])
        target, td = self.targets(data, noise.td_action, noise.td_index, shift[1])
        losses, latent, ended = self.model_terms(data, target, td, noise.q_dropout, shift[0])
        losses |= self.own_terms(data, latent, target, td)
        return ModelStep(losses, latent, target, td, ended)

    def own_terms(
        self, data: Slices, latent: Tensor, target: Tensor, td: Tensor
    ) -> dict[str, Tensor]:
        """The user's own terms `[H, B]`; see the configuration's `tensors`."""
        model = self.model
        tensors: dict[str, Callable[[], Any]] = {
            "latent": lambda: latent,  # [H+1, B, Z]
            "target": lambda: target,  # [H, B, Z]
            "td_target": lambda: td,  # [H, B]
            "obs": lambda: data.obs,  # [H+1, B, O]
            "action": lambda: data.action,  # [H, B, A]
            "reward": lambda: data.reward,  # [H, B]
            "terminated": lambda: data.terminated,  # [H, B]
            "valid": lambda: data.valid,  # [H+1, B]
            "model": lambda: model,
        }
        return own_terms(model.own_losses, tensors, data.reward.shape)

    @torch.no_grad()
    def _targets(
        self, data: Slices, action_noise: Tensor, index: Tensor, shift: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Latents of the next observations `[H, B, Z]` and TD targets `[H, B]`."""
        model, terms = self.model, data.terms
        target = model.latent(steps_of(data.obs, slice(1, None)), data.task, shift)  # [H, B, Z]
        action = model.policy_dist(target, terms).sample(action_noise)  # [H, B, A]
        value = model.q_values(target, action, index, target=True).amin(0)  # [2, H, B] -> [H, B]
        discount = model.discount if terms is None else terms.discount
        return target, td_target(data.reward, data.terminated, value, discount)

    def rollout(self, data: Slices, shift: Tensor | None) -> Tensor:
        """Latents `[H+1, B, Z]` of the first observation and, from there, of the dynamics."""
        latent = [self.model.latent(steps_of(data.obs, 0), data.task, shift)]  # [B, Z]
        for action in data.action:
            latent.append(self.model.next(latent[-1], action))  # [B, Z]
        return torch.stack(latent)

    def _model_terms(
        self,
        data: Slices,
        target: Tensor,
        td: Tensor,
        dropout: Tensor | None,
        shift: Tensor | None,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Losses `[H, B]`, the rollout `[H+1, B, Z]` and probabilities of termination."""
        model, latent = self.model, self.rollout(data, shift)
        start = latent[:-1]  # [H, B, Z]
        logits = model.q_logits(start, data.action, dropout=dropout)  # [Q, H, B, K]
        losses = {
            "consistency": consistency_loss(model.bare(latent[1:]), model.bare(target)),
            "reward": model.reward_dist(start, data.action).loss(data.reward),
            "td": value_loss(logits, symlog_two_hot(td, model.bins), model.bins),
        }
        if model.termination is None:
            return losses, latent, None
        logit = model.termination(latent[1:])[..., 0]  # [H, B, 1] -> [H, B]
        losses["termination"] = termination_loss(logit, data.terminated)
        return losses, latent, torch.sigmoid(logit.detach())

    def mean(self, name: str, loss: Tensor, data: Slices) -> Tensor:
        """Mean over steps and batch, step t weighted by rho^t (termination: unweighted).

        Transitions that lead into another episode count as zero.
        """
        valid = data.valid if name == "policy" else data.valid[1:]
        loss = loss * valid
        if name == "termination":
            return loss.mean()
        steps = torch.arange(len(loss), device=loss.device, dtype=loss.dtype)  # [H] or [H+1]
        return (self.model.config.rho ** steps[:, None] * loss).mean()

    def total(self, step: ModelStep, data: Slices) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar that trains the model, and its parts before their coefficients."""
        parts = {name: self.mean(name, loss, data) for name, loss in step.losses.items()}
        return torch.stack([self.coefs[name] * part for name, part in parts.items()]).sum(), parts

    # === The policy =========================================================================

    def policy_losses(
        self, latent: Tensor, data: Slices, noise: Noise, update_scale: bool = True
    ) -> PolicyStep:
        """Losses of the policy prior on the rollout `[H+1, B, Z]`, which gets no gradient.

        The embedding of several tasks is looked up anew, and does get one.
        """
        model = self.model
        if model.task_emb is not None and data.task is not None:
            model.task_emb.project_(self.ranks.gather(data.task))
        value, entropy, scaled = self.policy_terms(
            model.with_task(model.bare(latent.detach()), data.task),
            data.terms,
            noise.policy_action,
            noise.policy_index,
            noise.policy_dropout,
        )
        if update_scale:
            model.q_scale.update(self.ranks.gather(value[0].detach()))
        loss = policy_loss(value, scaled, model.q_scale.value.clone(), model.config.entropy_coef)
        return PolicyStep(loss, value.detach(), entropy.detach(), scaled.detach())

    def _policy_terms(
        self,
        latent: Tensor,
        terms: TaskTerms | None,
        action_noise: Tensor,
        index: Tensor,
        dropout: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value of the policy's actions, their entropy and scaled entropy, each `[H+1, B]`."""
        model = self.model
        dist = model.policy_dist(latent, terms)
        action = dist.sample(action_noise)  # [H+1, B, A]
        logits = model.q_logits(latent, action, index, frozen=True, dropout=dropout)
        value = SymlogTwoHot(logits, model.bins).pred().mean(0)  # [2, H+1, B] -> [H+1, B]
        return value, *entropies(dist, action_noise)
