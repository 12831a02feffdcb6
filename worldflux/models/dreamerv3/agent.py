"""The DreamerV3 agent: acts in environments and learns from replayed sequences.

B batch, C replay context, T trained steps, N environments, A action width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldflux.config.spaces import Space
from worldflux.core.agent import Carry, Entries
from worldflux.core.compile import compiler
from worldflux.core.distributions import gumbel_noise
from worldflux.core.given_optimizer import given_optimizer
from worldflux.core.optim import make_optimizer, schedule_factor
from worldflux.core.precision import Precision
from worldflux.core.ranks import ALONE, Ranks
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.objective import Noise, Objective
from worldflux.models.dreamerv3.openloop import openloop_report
from worldflux.models.dreamerv3.rssm import Latent, reset_rows
from worldflux.models.dreamerv3.world_model import DreamerV3

ENTRIES = ("dyn/deter", "dyn/stoch")
FLAGS = ("reward", "is_first", "is_last", "is_terminal")


class DreamerV3Agent:
    """One optimizer for all modules, replay context and the policy's recurrent state."""

    def __init__(
        self,
        model: DreamerV3,
        training: Any,
        device: torch.device | str | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any | None = None,
    ):
        self.training = training
        self.device = torch.device(device if device is not None else training.resolve_device())
        self.model = model.to(self.device)
        self.config = model.config
        self.precision = Precision.of(training, self.device)
        self.objective = Objective(model, compiler(training.compile_model, self.device))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.given = given_optimizer(optimizer, scheduler, model)
        self.optimizer = optimizer or make_optimizer(self.parameters, training)
        self.updates = 0
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        self.replay_context = self.config.replay_context
        latent = {
            "dyn/deter": Space((self.config.deter_dim,)),
            # One-hot: a byte each is exact.
            "dyn/stoch": Space((self.config.stoch_discrete, self.config.stoch_classes), "uint8"),
        }
        self.entry_spaces = latent if self.replay_context else {}
        self.train_carry: Carry | None = None
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
        groups = carry["stoch"].shape
        gumbel = gumbel_noise(groups, self.generator, self.device)
        noise = self.model.actor.noise((len(is_first),), self.generator, self.device)
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
        embed = self.model.encoder({key: value[:, None] for key, value in obs.items()})
        share, action = rssm.prepare(embed, carry["action"][:, None], is_first[:, None])
        deter, stoch = (reset_rows(carry[key], is_first) for key in ("deter", "stoch"))
        weights = rssm.hoisted()
        deter = rssm.core(deter, stoch, action[:, 0], weights).to(self.model.dtype)
        stoch = rssm.dist(rssm.posterior(deter, share[:, 0], weights)).sample(gumbel)
        dist = self.model.actor(Latent(deter, stoch).feat())
        chosen = dist.pred() if act_noise is None else dist.sample(act_noise)
        return {"deter": deter, "stoch": stoch, "action": chosen.to(self.model.dtype)}

    # === Learning ==========================================================================

    def update(
        self, batch: Mapping[str, Tensor], noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One optimizer update; see core/agent.py.

        With gradient accumulation the rows are split into that many equal parts. noise replays
        given random draws, for all rows at once.
        """
        parts = self.training.gradient_accumulation_steps
        chunks = [{k: v.chunk(parts)[i] for k, v in batch.items()} for i in range(parts)]
        if self.given is None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(self.updates)
        results = [self._accumulate(chunk, 1 / parts, noise) for chunk in chunks]
        metrics = {
            key: torch.stack([metrics[key] for metrics, _ in results]).mean()
            for key in results[0][0]
        }
        entries = {
            key: torch.cat([entries[key] for _, entries in results]) for key in self.entry_spaces
        }
        metrics |= self._step_optimizer()
        self.model.update_slow_critic(self.updates)
        self.updates += 1
        return metrics, entries

    def learning_rate(self, update: int) -> float:
        """Learning rate of an update (from 0)."""
        training = self.training
        factor = schedule_factor(
            training.scheduler, update, training.total_steps, training.warmup_steps
        )
        return training.learning_rate * factor

    def _accumulate(
        self, batch: Mapping[str, Tensor], share: float, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adds this part's gradients; returns its metrics and fresh entries `[B, T, ...]`."""
        obs, start, previous = self.context(batch)
        rows, length = obs["is_first"].shape
        if noise is None:
            noise = Noise.draw(self.model, rows, length, self.generator, self.device)
        results = self.differentiate(obs, start, previous, noise, share)
        assert self.train_carry is not None
        self.train_carry["action"] = batch["action"][:, -1].to(self.model.dtype)
        return results

    def differentiate(
        self,
        obs: Mapping[str, Tensor],
        start: Latent,
        previous: Tensor,
        noise: Noise,
        share: float = 1.0,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Forward and backward pass with given noise; gradients are added to the parameters."""
        with self.precision.autocast():
            step = self.objective(obs, start, previous, noise)
            total = self.objective.total(step.losses)
        self.precision.backward(total * share)
        self.last = step
        metrics = {f"loss/{name}": loss.detach().mean() for name, loss in step.losses.items()}
        metrics |= {"loss/total": total.detach(), **step.metrics}
        deter, stoch = (x.detach().to(self.model.dtype) for x in step.latent)
        self.train_carry = {"deter": deter[:, -1], "stoch": stoch[:, -1]}
        return metrics, {"dyn/deter": deter, "dyn/stoch": stoch}

    def _step_optimizer(self) -> dict[str, Tensor]:
        self.ranks.mean_gradients_(self.parameters)
        self.precision.unscale(self.optimizer)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.training.grad_clip:
            torch._foreach_mul_(grads, (self.training.grad_clip / norm).clamp(max=1.0))
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        rate = torch.as_tensor(self.optimizer.param_groups[0]["lr"], device=norm.device)
        if self.given is not None:
            self.given.after_update()
        return {"opt/grad_norm": norm, "opt/learning_rate": rate}

    def context(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Latent, Tensor]:
        """Splits `[B, C+T]` rows into trained steps, the latent before them and previous actions.

        The first chunk of a sequence starts from the replayed latent at index C-1; a later chunk
        (`consec` above 0) from the end of the update before it. Without context, so does every
        chunk of a batch that has `consec`.
        """
        keys = (*self.model.obs_spaces, *FLAGS)
        skip = self.replay_context if ENTRIES[0] in batch else 0
        obs = {key: batch[key][:, skip:] for key in keys}
        action = batch["action"].to(self.model.dtype)
        if not skip:
            carry = self.train_carry if "consec" in batch else None
            carry = carry or self.initial_carry(len(action))
            previous = torch.cat([carry["action"][:, None], action[:, :-1]], 1)
            return obs, Latent(carry["deter"], carry["stoch"]), previous
        start = Latent(*(batch[key][:, skip - 1].to(self.model.dtype) for key in ENTRIES))
        if "consec" in batch and self.train_carry is not None:
            later = batch["consec"][:, 0] > 0
            mask = later[:, None]
            start = Latent(
                torch.where(mask, self.train_carry["deter"], start.deter),
                torch.where(mask[..., None], self.train_carry["stoch"], start.stoch),
            )
        return obs, start, action[:, skip - 1 : -1]

    # === Reports and state ===================================================================

    @torch.no_grad()
    def report(self, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Open-loop predictions of the first rows: observed context, then imagination."""
        obs, start, previous = self.context(batch)
        rows = min(6, len(previous))
        obs = {key: value[:rows] for key, value in obs.items()}
        start = Latent(start.deter[:rows], start.stoch[:rows])
        with self.precision.autocast():
            return openloop_report(self.model, obs, start, previous[:rows])

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Flat tensors: `model` (weights and normaliser), `optimizer` (moments, counters, RNG)."""
        state: dict[str, Tensor] = {}
        names: dict[Any, str] = {p: name for name, p in self.model.named_parameters()}
        for param, values in self.optimizer.state.items():
            for key, value in values.items():
                if value is not None:
                    state[f"{names[param]}.{key}"] = torch.as_tensor(value)
        if self.given is not None:
            state |= self.given.state_dict()
        count = self.optimizer.param_groups[0].get("count", 0)
        state["count"] = torch.tensor([self.updates, count])
        state |= self.rank_state() | self.precision.state_dict()
        return {"model": dict(self.model.state_dict()), "optimizer": state}

    def rank_state(self) -> dict[str, Tensor]:
        """Random stream and carry of training: what differs between ranks."""
        carry = {f"train_carry.{key}": value for key, value in (self.train_carry or {}).items()}
        return {"generator": self.generator.get_state(), **carry}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restores everything that `state_dict` gave, bit for bit."""
        self.model.load_state_dict(state["model"])
        saved = state["optimizer"]
        self.updates, count = (int(value) for value in saved["count"])
        self.generator.set_state(saved["generator"].cpu())
        self.precision.load_state_dict(saved)
        group = self.optimizer.param_groups[0]
        if "count" in group or count:
            group["count"] = count
        self.optimizer.state.clear()
        for name, param in self.model.named_parameters():
            values = {
                key.removeprefix(f"{name}."): value
                for key, value in saved.items()
                if key.startswith(f"{name}.") and "." not in key.removeprefix(f"{name}.")
            }
            if values:
                self.optimizer.state[param] = {
                    key: value.clone().to(param.device if value.ndim else "cpu")
                    for key, value in values.items()
                }
        if self.given is not None:
            self.given.load_state_dict(saved)
        carry = {k: v for k, v in saved.items() if k.startswith("train_carry.")}
        if carry:
            self.train_carry = {
                key.removeprefix("train_carry."): value.to(self.device)
                for key, value in carry.items()
            }


def make_agent(
    config: DreamerV3Config, training: Any, *, device: torch.device | str | None = None
) -> DreamerV3Agent:
    """A fresh agent for a model configuration, with actor and critic."""
    return DreamerV3Agent(DreamerV3(config.with_overrides(actor_critic=True)), training, device)
