"""The DreamerV3 agent: acts in environments and learns from replayed sequences.

Letters: B batch, C replay context, T trained steps, N environments, D deter, S stoch groups,
K classes, U units, E embed, A action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from worldflux.config.spaces import FLAGS, Space
from worldflux.config.training import TrainingConfig
from worldflux.core import optim
from worldflux.core.agent import Carry, Entries
from worldflux.core.compile import compiler
from worldflux.core.distributions import gumbel_noise
from worldflux.core.precision import Precision
from worldflux.core.ranks import ALONE, Ranks
from worldflux.models.dreamerv3.external_optimizer import ExternalOptimizer
from worldflux.models.dreamerv3.modules import ENTRIES, metric_name
from worldflux.models.dreamerv3.objective import Noise, Objective
from worldflux.models.dreamerv3.openloop import openloop_report
from worldflux.models.dreamerv3.rssm import Latent, reset_rows
from worldflux.models.dreamerv3.world_model import DreamerV3

MARK = "."  # between parameter and entry in names of saved optimizer tensors


class DreamerV3Agent:
    """One optimizer for all modules and replay context.

    The carry, of acting and of training alike: deter `[N, D]`, stoch `[N, S, K]`, the action that
    follows them `[N, A]`.
    """

    def __init__(
        self,
        model: DreamerV3,
        training: TrainingConfig,
        device: torch.device | str | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: LRScheduler | None = None,
    ):
        self.training = training
        self.device = torch.device(device if device is not None else training.resolve_device())
        self.model = model.to(self.device)
        self.config = model.config
        self.precision = Precision.of(training, self.device)
        whole = not self.config.components  # code of the user's own may break a graph
        compile = compiler(training.compile_model, self.device, whole)
        self.objective = Objective(model, compile)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.external: ExternalOptimizer | None = None
        if optimizer is not None or scheduler is not None:
            self.external = ExternalOptimizer(optimizer, scheduler, model)
        self.optimizer = optimizer or optim.make_optimizer(self.parameters, training)
        self.updates = 0
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        self.replay_context = self.config.replay_context
        latent = (
            Space((self.config.deter_dim,)),
            # One-hot: a byte each is exact.
            Space((self.config.stoch_discrete, self.config.stoch_classes), "uint8"),
        )
        self.entry_spaces = dict(zip(ENTRIES, latent, strict=True)) if self.replay_context else {}
        self.ranks: Ranks = ALONE

    def join(self, ranks: Ranks, seed: int) -> None:
        """Learns together with other processes; see core/agent.py."""
        self.ranks = self.objective.ranks = ranks
        self.generator.manual_seed(seed)

    # === Acting ============================================================================

    def initial_carry(self, n: int) -> Carry:
        """Zero state and action for n environments."""
        deter, stoch = self.model.rssm.initial(n, self.device, self.model.dtype)
        action = torch.zeros(n, self.model.action_dim, device=self.device, dtype=self.model.dtype)
        return {"deter": deter, "stoch": stoch, "action": action}

    @torch.no_grad()
    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        """Actions `[N, A]` for observations `[N, ...]`; see core/agent.py."""
        is_first = torch.as_tensor(obs["is_first"], device=self.device)
        steps = {k: torch.as_tensor(obs[k], device=self.device) for k in self.model.obs_spaces}
        gumbel = gumbel_noise(carry["stoch"].shape, self.generator, self.device)  # [N, S, K]
        noise = self.model.actor.noise((len(is_first),), self.generator, self.device)  # [N, A]
        with self.precision.autocast():
            carry = self.policy(carry, steps, is_first, gumbel, noise if explore else None)
        entries = {
            key: carry[key.removeprefix("dyn/")].cpu().numpy().astype(space.dtype)
            for key, space in self.entry_spaces.items()
        }
        return carry, carry["action"].cpu().numpy(), entries

    def policy(
        self,
        carry: Carry,
        obs: Mapping[str, Tensor],
        is_first: Tensor,
        gumbel: Tensor,
        act_noise: Tensor | None,
    ) -> Carry:
        """Posterior step and action of N environments; act_noise None takes the policy's mode."""
        rssm = self.model.rssm
        embed = self.model.encoder({key: value[:, None] for key, value in obs.items()})  # [N, 1, E]
        share, action = rssm.prepare(embed, carry["action"][:, None], is_first[:, None])
        deter, stoch = (reset_rows(carry[key], is_first) for key in ("deter", "stoch"))
        weights = rssm.hoisted()
        deter = rssm.core(deter, stoch, action[:, 0], weights).to(self.model.dtype)  # [N, D]
        stoch = rssm.dist(rssm.posterior(deter, share[:, 0], weights)).sample(gumbel)  # [N, S, K]
        dist = self.model.actor(Latent(deter, stoch).feat())
        chosen = dist.pred() if act_noise is None else dist.sample(act_noise)  # [N, A]
        return {"deter": deter, "stoch": stoch, "action": chosen.to(self.model.dtype)}

    # === Learning ==========================================================================

    def update(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Carry]:
        """One optimizer update; see core/agent.py.

        With gradient accumulation the rows of batch, carry and noise are split into that many equal
        parts. noise: random draws to use, for all rows.
        """
        parts = self.training.gradient_accumulation_steps
        noises: Sequence[Noise | None] = [None] * parts if noise is None else noise.chunk(parts)
        if self.external is None:
            for group in self.optimizer.param_groups:
                group["lr"] = optim.learning_rate(self.training, self.updates)
        rows = zip(_split(batch, parts), _split(carry or {}, parts), noises, strict=True)
        results = [self._accumulate(*part, 1 / parts) for part in rows]
        each, entries, carries = zip(*results, strict=True)
        metrics = {key: torch.stack([m[key] for m in each]).mean() for key in each[0]}
        metrics |= self._step_optimizer()
        self.model.update_slow_critic(self.updates)
        self.updates += 1
        return metrics, _join(entries) if self.entry_spaces else {}, _join(carries)

    def _accumulate(
        self, batch: Mapping[str, Tensor], carry: Carry, noise: Noise | None, share: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Carry]:
        """Adds this part's gradients; returns its metrics, fresh entries `[B, T, ...]` and carry."""
        obs, start, previous = self.context(batch, carry)
        rows, length = obs["is_first"].shape
        if noise is None:
            noise = Noise.draw(self.model, rows, length, self.generator, self.device)
        with self.precision.autocast():
            step = self.objective(obs, start, previous, noise)
            total = self.objective.total(step.losses)
        self.precision.backward(total * share)
        metrics = {metric_name(name): loss.detach().mean() for name, loss in step.losses.items()}
        metrics |= {"loss/total": total.detach(), **step.metrics}
        deter, stoch = (x.detach().to(self.model.dtype) for x in step.latent)
        carry = {"deter": deter[:, -1], "stoch": stoch[:, -1]}  # [B, D] and [B, S, K]
        carry["action"] = batch["action"][:, -1].to(self.model.dtype)  # [B, A]
        return metrics, dict(zip(ENTRIES, (deter, stoch), strict=True)), carry

    def _step_optimizer(self) -> dict[str, Tensor]:
        self.ranks.mean_gradients_(self.parameters)
        self.precision.unscale(self.optimizer)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.training.grad_clip:
            torch._foreach_mul_(grads, (self.training.grad_clip / norm).clamp(max=1.0))
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        rate = norm.new_full((), float(self.optimizer.param_groups[0]["lr"]))  # no copy to wait for
        if self.external is not None:
            self.external.after_update()
        return {"opt/grad_norm": norm, "opt/learning_rate": rate}

    def context(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> tuple[dict[str, Tensor], Latent, Tensor]:
        """Splits `[B, C+T]` rows into trained steps, the latent before them and previous actions.

        The first chunk of a sequence starts from the replayed latent at index C-1; a later chunk
        (`consec` above 0) from the carry. Without context, so does every chunk of a batch that has
        `consec`.
        """
        keys = (*self.model.obs_spaces, "reward", *FLAGS)
        skip = self.replay_context if ENTRIES[0] in batch else 0
        obs = {key: batch[key][:, skip:] for key in keys}  # [B, T, ...]
        action = batch["action"].to(self.model.dtype)  # [B, C+T, A]
        carry = carry if "consec" in batch else None
        if not skip:
            carry = carry or self.initial_carry(len(action))
            previous = torch.cat([carry["action"][:, None], action[:, :-1]], 1)  # [B, T, A]
            return obs, Latent(carry["deter"], carry["stoch"]), previous
        # [B, D] and [B, S, K]
        start = Latent(*(batch[key][:, skip - 1].to(self.model.dtype) for key in ENTRIES))
        if carry:
            later = batch["consec"][:, 0, None] > 0  # [B, 1]
            start = Latent(
                torch.where(later, carry["deter"], start.deter),
                torch.where(later[..., None], carry["stoch"], start.stoch),
            )
        return obs, start, action[:, skip - 1 : -1]  # actions [B, T, A]

    # === Reports and state ===================================================================

    @torch.no_grad()
    def report(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> dict[str, np.ndarray]:
        """Open-loop predictions of the first rows: observed context, then imagination."""
        obs, start, previous = self.context(batch, carry)
        rows = min(6, len(previous))
        obs = {key: value[:rows] for key, value in obs.items()}
        start = Latent(start.deter[:rows], start.stoch[:rows])
        with self.precision.autocast():
            return openloop_report(self.model, obs, start, previous[:rows])

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Flat tensors: `model` (weights and normaliser), `optimizer` (moments, counters, RNG)."""
        state = optim.optimizer_state([self.optimizer], self.model, self.updates, MARK)
        if self.external is not None:
            state |= self.external.state_dict()
        state |= self.rank_state() | self.precision.state_dict()
        return {"model": dict(self.model.state_dict()), "optimizer": state}

    def rank_state(self) -> dict[str, Tensor]:
        """The random stream: what differs between ranks."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restores everything that `state_dict` gave, bit for bit."""
        self.model.load_state_dict(state["model"])
        saved = state["optimizer"]
        self.generator.set_state(saved["generator"].cpu())
        self.precision.load_state_dict(saved)
        self.updates = optim.load_optimizer_state([self.optimizer], self.model, saved, MARK)
        if self.external is not None:
            self.external.load_state_dict(saved)


def _split(tensors: Mapping[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Equal parts of the rows `[B, ...]`, as views."""
    return [{key: x.chunk(parts)[i] for key, x in tensors.items()} for i in range(parts)]


def _join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
