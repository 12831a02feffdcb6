"""The TD-MPC2 agent: plans in environments and learns from replayed slices.

B batch, H trained transitions, N environments, A action width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldflux.config.spaces import TASK_KEY, Space
from worldflux.core.agent import Carry, Entries
from worldflux.core.compile import compiler
from worldflux.core.optim import make_optimizer, schedule_factor
from worldflux.core.precision import Precision
from worldflux.core.ranks import ALONE, Ranks
from worldflux.errors import ConfigurationError
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.losses import termination_statistics
from worldflux.models.tdmpc2.networks import parameters_of
from worldflux.models.tdmpc2.objective import ModelStep, Noise, Objective, PolicyStep, Slices
from worldflux.models.tdmpc2.planner import Planner, PlanNoise
from worldflux.models.tdmpc2.world_model import TDMPC2

POLICY_EPS = 1e-5  # of the policy's own Adam


class TDMPC2Agent:
    """One optimizer for the model, another for the policy prior, and the planner's warm start.

    A sequence of the replay holds one step more than there are trained transitions, which is why
    `replay_context` is 1. Sequences may cross episode borders: what lies behind one is masked.
    """

    replay_context = 1

    def __init__(self, model: TDMPC2, training: Any, device: torch.device | str | None = None):
        if training.gradient_accumulation_steps > 1:
            raise ConfigurationError(
                "training.gradient_accumulation_steps must be 1 for TD-MPC2: its policy is trained"
                " after each model step"
            )
        self.training = training
        self.device = torch.device(device if device is not None else training.resolve_device())
        self.model = model.to(self.device)
        self.config = model.config
        self.precision = Precision.of(training, self.device)
        compile = compiler(training.compile_model, self.device)
        self.objective, self.planner = Objective(model, compile), Planner(model, compile)
        self.policy_parameters = parameters_of([model.pi])
        encoder = parameters_of([model.encoder])
        heads = [model.task_emb, model.dynamics, model.reward, model.termination, model.q]
        rest = parameters_of([module for module in heads if isinstance(module, nn.Module)])
        self.model_parameters = encoder + rest
        groups: Any = [
            {"params": encoder, "lr_scale": self.config.encoder_lr_scale},
            {"params": rest, "lr_scale": 1.0},
        ]
        self.optimizer = make_optimizer(groups, training)
        policy: Any = [{"params": self.policy_parameters, "lr_scale": 1.0}]
        self.policy_optimizer = make_optimizer(policy, policy_training(training))
        self.updates = 0
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        self.entry_spaces: dict[str, Space] = {}
        self.ranks: Ranks = ALONE

    def join(self, ranks: Ranks, seed: int) -> None:
        """Learns together with other processes; see core/agent.py."""
        self.ranks = self.objective.ranks = ranks
        self.generator.manual_seed(seed)

    # === Acting ============================================================================

    def initial_carry(self, n: int) -> Carry:
        """No plan yet, for n environments."""
        return {"mean": self.planner.initial_mean(n)}

    @torch.no_grad()
    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        """Planned actions `[N, A]` for observations `[N, ...]`; see core/agent.py.

        explore adds the planner's noise; the choice among the elites is random in any case, as in
        the official code.
        """
        is_first = torch.as_tensor(obs["is_first"], device=self.device)
        steps = {k: torch.as_tensor(obs[k], device=self.device) for k in self.model.obs_spaces}
        noise = PlanNoise.draw(self.model, len(is_first), explore, self.generator)
        task = steps[TASK_KEY] if self.config.multitask else None
        with self.precision.autocast():
            observation = self.model.observation(steps)
            plan = self.planner(observation, carry["mean"], is_first, noise, task)
        action = plan.action.float().cpu().numpy()
        return {"mean": plan.mean.to(self.model.dtype)}, action, {}

    # === Learning ==========================================================================

    def update(
        self, batch: Mapping[str, Tensor], noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One update of the model, then of the policy prior, then of the target Q networks.

        batch: see core/agent.py, `[B, 1 + H, ...]`. noise replays given random draws.
        """
        data = self.objective.slices(batch)
        if noise is None:
            noise = Noise.draw(self.model, *data.steps_rows, self.generator)
            # One update takes one pair of Q networks for all of its rows.
            noise.td_index = self.ranks.broadcast(noise.td_index)
            noise.policy_index = self.ranks.broadcast(noise.policy_index)
        rate = self.learning_rate(self.updates)
        step, metrics = self._update_model(data, noise, rate)
        policy, policy_metrics = self._update_policy(step.latent.detach(), data, noise, rate)
        self.model.update_target_q()
        self.updates += 1
        self.last = step, policy
        metrics |= policy_metrics
        metrics["opt/learning_rate"] = torch.as_tensor(rate, device=self.device)
        return metrics, {}

    def learning_rate(self, update: int) -> float:
        """Learning rate of an update (from 0), before the encoder's own factor."""
        training = self.training
        factor = schedule_factor(
            training.scheduler, update, training.total_steps, training.warmup_steps
        )
        return training.learning_rate * factor

    def _update_model(
        self, data: Slices, noise: Noise, rate: float
    ) -> tuple[ModelStep, dict[str, Tensor]]:
        with self.precision.autocast():
            step = self.objective.model_losses(data, noise)
            total, parts = self.objective.total(step, data)
        self.precision.backward(total)
        norm = self._step(self.optimizer, self.model_parameters, rate)
        metrics = {f"loss/{name}": part.detach() for name, part in parts.items()}
        metrics |= {"loss/total": total.detach(), "opt/grad_norm": norm}
        metrics["td_target"] = step.td_target.mean()
        if step.terminated is not None:
            share, f1 = termination_statistics(step.terminated[-1], data.terminated[-1])
            metrics |= {"termination_rate": share, "termination_f1": f1}
        return step, metrics

    def _update_policy(
        self, latent: Tensor, data: Slices, noise: Noise, rate: float
    ) -> tuple[PolicyStep, dict[str, Tensor]]:
        with self.precision.autocast():
            step = self.objective.policy_losses(latent, data, noise)
            loss = self.objective.mean("policy", step.loss, data)
        self.precision.backward(self.objective.coefs["policy"] * loss)
        norm = self._step(self.policy_optimizer, self.policy_parameters, rate)
        metrics = {
            "loss/policy": loss.detach(),
            "opt/policy_grad_norm": norm,
            "policy_entropy": step.entropy.mean(),
            "policy_scaled_entropy": step.scaled_entropy.mean(),
            "q_scale": self.model.q_scale.value[0].clone(),
            "q": step.value.mean(),
        }
        return step, metrics

    def _step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rate: float
    ) -> Tensor:
        """Clips, steps and clears the gradients; returns their norm before clipping."""
        self.ranks.mean_gradients_(parameters)
        self.precision.unscale(optimizer)
        limit = self.training.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.precision.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        return norm

    # === Reports and state ===================================================================

    def report(self, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Nothing: there is no decoder whose pictures could be shown."""
        return {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Flat tensors: `model` (weights and Q scale), `optimizer` (moments, counters, RNG)."""
        state: dict[str, Tensor] = {}
        names: dict[Any, str] = {p: name for name, p in self.model.named_parameters()}
        for optimizer in (self.optimizer, self.policy_optimizer):
            for param, values in optimizer.state.items():
                for key, value in values.items():
                    state[f"{names[param]}/{key}"] = torch.as_tensor(value)
        counts = [group.get("count", 0) for group in self._groups()]
        state["count"] = torch.tensor([self.updates, *counts])
        state |= self.rank_state() | self.precision.state_dict()
        return {"model": dict(self.model.state_dict()), "optimizer": state}

    def rank_state(self) -> dict[str, Tensor]:
        """Random stream and gradient that waits: what differs between ranks."""
        pending = self._pending()
        waits = {} if pending is None else {"pending": pending}
        return {"generator": self.generator.get_state(), **waits}

    def _pending(self) -> Tensor | None:
        """The policy loss's gradient of the task embedding.

        It waits for the model's next step, because the official code clears this gradient with the
        model's optimizer alone.
        """
        return None if self.model.task_emb is None else self.model.task_emb.weight.grad

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.optimizer.param_groups, *self.policy_optimizer.param_groups]

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restores everything that `state_dict` gave, bit for bit."""
        self.model.load_state_dict(state["model"])
        saved = state["optimizer"]
        self.updates, *counts = (int(value) for value in saved["count"])
        self.generator.set_state(saved["generator"].cpu())
        self.precision.load_state_dict(saved)
        for group, count in zip(self._groups(), counts, strict=True):
            if "count" in group or count:
                group["count"] = count
        if self.model.task_emb is not None:
            pending = saved.get("pending")
            weight = self.model.task_emb.weight
            weight.grad = None if pending is None else pending.clone().to(weight)
        params = dict(self.model.named_parameters())
        policy = {id(param) for param in self.policy_parameters}
        self.optimizer.state.clear()
        self.policy_optimizer.state.clear()
        for key, value in saved.items():
            name, slash, entry = key.partition("/")
            if slash:
                param = params[name]
                target = self.policy_optimizer if id(param) in policy else self.optimizer
                place = param.device if value.ndim else "cpu"
                target.state[param][entry] = value.clone().to(place)


def policy_training(training: Any) -> Any:
    """The policy's optimizer: that of the model, where Adam has the official larger epsilon."""
    if training.optimizer in ("adam", "adamw") and training.optimizer_eps is None:
        return training.with_updates(optimizer_eps=POLICY_EPS)
    return training


def make_agent(
    config: TDMPC2Config, training: Any, *, device: torch.device | str | None = None
) -> TDMPC2Agent:
    """A fresh agent for a model configuration."""
    return TDMPC2Agent(TDMPC2(config), training, device)
