"""The TD-MPC2 agent: plans in environments and learns from replayed slices.

Letters: B batch, H trained transitions, N environments, Z what the networks read, A action.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from worldflux.config.spaces import TASK_KEY, Space
from worldflux.config.training import TrainingConfig
from worldflux.core import optim
from worldflux.core.agent import Carry, Entries
from worldflux.core.compile import compiler
from worldflux.core.precision import Precision
from worldflux.core.ranks import ALONE, Ranks
from worldflux.errors import ConfigurationError
from worldflux.models.tdmpc2.config import OPTIONAL
from worldflux.models.tdmpc2.losses import termination_statistics
from worldflux.models.tdmpc2.networks import parameters_of
from worldflux.models.tdmpc2.objective import ModelStep, Noise, Objective, Slices
from worldflux.models.tdmpc2.planner import Planner, PlanNoise
from worldflux.models.tdmpc2.world_model import TDMPC2
from worldflux.run_folder.manifest import MODEL_EXTENDED

LATE_END = (
    "update %d: an episode terminated although env.terminates=false; from here on a termination head"
    " is learned, from fresh weights (with env.terminates=true it is from the start)"
)
FRESH_HEAD = "the termination head is learned from update %d on, from fresh weights: none was saved"
POLICY_EPS = 1e-5  # of the policy's Adam
MARK = "/"  # between parameter and entry in names of saved optimizer tensors

log = logging.getLogger("worldflux.training")


class TDMPC2Agent:
    """One optimizer for the model, another for the policy prior, and the planner's warm start.

    A sequence of the replay holds one step more than there are trained transitions, which is why
    `replay_context` is 1. Sequences may cross episode borders: what lies behind one is masked.
    """

    replay_context = 1

    def __init__(
        self,
        model: TDMPC2,
        training: TrainingConfig,
        device: torch.device | str | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: LRScheduler | None = None,
    ):
        for name, explicit in (("optimizer", optimizer), ("scheduler", scheduler)):
            if explicit is not None:
                raise ConfigurationError(
                    f"{name}: this agent makes its own; set TrainingConfig.{name} and its fields"
                )
        if training.gradient_accumulation_steps > 1:
            raise ConfigurationError(
                "training.gradient_accumulation_steps must be 1 for TD-MPC2: its policy is trained"
                " after each model step"
            )
        self.training = training
        self.device = torch.device(device if device is not None else training.resolve_device())
        self.model = model.to(self.device)
        self.config = model.config
        self._episodic = model.config.episodic  # from the start
        self.precision = Precision.of(training, self.device)
        self.ranks: Ranks = ALONE
        self.head_added: int | None = None  # the update before which a termination head was added
        whole = not self.config.components  # code of the user's own may break a graph
        self._compile = compiler(training.compile_model, self.device, whole)
        self.objective, self.planner = self._sections()
        self.policy_parameters = parameters_of([model.pi])
        encoder = parameters_of([model.encoder])
        heads = [model.task_emb, model.dynamics, model.reward, model.termination, model.q]
        rest = parameters_of([module for module in heads if isinstance(module, nn.Module)])
        self.model_parameters = encoder + rest
        groups: list[dict[str, Any]] = [
            {"params": encoder, "lr_scale": self.config.encoder_lr_scale},
            {"params": rest, "lr_scale": 1.0},
        ]
        self.optimizer = optim.make_optimizer(groups, training)
        policy: list[dict[str, Any]] = [{"params": self.policy_parameters, "lr_scale": 1.0}]
        self.policy_optimizer = optim.make_optimizer(policy, policy_training(training))
        self._optimizers = [self.optimizer, self.policy_optimizer]
        self.updates = 0
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        self.entry_spaces: dict[str, Space] = {}

    @property
    def degraded_modes(self) -> list[str]:
        return [] if self.head_added is None else [MODEL_EXTENDED]

    def _sections(self) -> tuple[Objective, Planner]:
        objective = Objective(self.model, self._compile)
        objective.ranks = self.ranks
        return objective, Planner(self.model, self._compile)

    def _add_termination(self) -> None:
        """Learns ends of episodes from here on. The head is the same in every process, and after
        every resume."""
        head = self.model.fresh_termination(self.training.seed)
        self.model.set_termination(head)
        self.head_added = self.updates
        self.optimizer.add_param_group({"params": parameters_of([head]), "lr_scale": 1.0})
        self._rebuild()

    def _remove_termination(self) -> None:
        """Takes the added head away: an older state has none."""
        self.model.set_termination(None)
        self.optimizer.param_groups.pop()
        self._rebuild()

    def _rebuild(self) -> None:
        groups = self.optimizer.param_groups
        self.model_parameters = [param for group in groups for param in group["params"]]
        self.config = self.model.config
        self.objective, self.planner = self._sections()  # compiled ones would keep the old model

    def _ended(self, batch: Mapping[str, Tensor]) -> bool:
        """Whether the task ends an episode in the batch of any process."""
        ended = bool(batch["is_terminal"][:, 1:].any())
        return any(count for (count,) in self.ranks.numbers([int(ended)]))

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
        action = plan.action.float().cpu().numpy()  # [N, A]
        return {"mean": plan.mean.to(self.model.dtype)}, action, {}  # [N, H, A]

    # === Learning ==========================================================================

    def update(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Carry]:
        """One update of the model, then of the policy prior, then of the target Q networks.

        batch `[B, 1 + H, ...]`, see core/agent.py; there are no entries, and nothing is carried.
        noise: random draws to use.
        """
        if self.model.termination is None and self._ended(batch):
            self._add_termination()
            if self.ranks.first:
                log.warning(LATE_END, self.updates + 1)
        data = self.objective.slices(batch)
        if noise is None:
            noise = Noise.draw(self.model, *data.steps_rows, self.generator)
            # One update takes one pair of Q networks for all of its rows.
            noise.td_index = self.ranks.broadcast(noise.td_index)
            noise.policy_index = self.ranks.broadcast(noise.policy_index)
        rate = optim.learning_rate(self.training, self.updates)
        step, metrics = self._update_model(data, noise, rate)
        metrics |= self._update_policy(step.latent.detach(), data, noise, rate)
        self.model.update_target_q()
        self.updates += 1
        metrics["opt/learning_rate"] = metrics["loss/total"].new_full((), rate)
        return metrics, {}, {}

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
    ) -> dict[str, Tensor]:
        with self.precision.autocast():
            step = self.objective.policy_losses(latent, data, noise)
            loss = self.objective.mean("policy", step.loss, data)
        self.precision.backward(self.objective.coefs["policy"] * loss)
        norm = self._step(self.policy_optimizer, self.policy_parameters, rate)
        return {
            "loss/policy": loss.detach(),
            "opt/policy_grad_norm": norm,
            "policy_entropy": step.entropy.mean(),
            "policy_scaled_entropy": step.scaled_entropy.mean(),
            "q_scale": self.model.q_scale.value[0].clone(),
            "q": step.value.mean(),
        }

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

    def report(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> dict[str, np.ndarray]:
        """Nothing: there is no decoder whose pictures could be shown."""
        return {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Flat tensors: `model` (weights and Q scale), `optimizer` (moments, counters, RNG)."""
        state = optim.optimizer_state(self._optimizers, self.model, self.updates, MARK)
        state |= self.rank_state() | self.precision.state_dict()
        if self.head_added is not None:
            state["head_added"] = torch.tensor(self.head_added)
        return {"model": dict(self.model.state_dict()), "optimizer": state}

    def rank_state(self) -> dict[str, Tensor]:
        """Random stream and, with several tasks, the gradient that waits: what differs between
        ranks.

        The policy loss's gradient of the task embedding waits for the model's next step, because
        the official code clears it with the model's optimizer alone.
        """
        state = {"generator": self.generator.get_state()}
        if self.model.task_emb is not None and self.model.task_emb.weight.grad is not None:
            state["pending"] = self.model.task_emb.weight.grad
        return state

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restores everything that `state_dict` gave, bit for bit. The termination head is there where the
        state has it; that of a model made episodic begins fresh where not."""
        saved, weights = state["optimizer"], dict(state["model"])
        added, has_head = saved.get("head_added"), any(key.startswith(OPTIONAL) for key in weights)
        if self._episodic and not has_head:
            added = saved["count"][0]
            if self.ranks.first:
                log.warning(FRESH_HEAD, int(added) + 1)
            head = self.model.fresh_termination(self.training.seed)
            weights |= {f"{OPTIONAL}{name}": value for name, value in head.state_dict().items()}
        elif has_head and self.model.termination is None:
            self._add_termination()
        elif not has_head and self.model.termination is not None:
            self._remove_termination()
        self.head_added = None if added is None else int(added)
        self.model.load_state_dict(weights)
        self.generator.set_state(saved["generator"].cpu())
        self.precision.load_state_dict(saved)
        self.updates = optim.load_optimizer_state(self._optimizers, self.model, saved, MARK)
        if self.model.task_emb is not None:
            weight, pending = self.model.task_emb.weight, saved.get("pending")
            weight.grad = None if pending is None else pending.clone().to(weight)


def policy_training(training: TrainingConfig) -> TrainingConfig:
    """The policy's optimizer: that of the model, where Adam has the official larger epsilon."""
    if training.optimizer in ("adam", "adamw") and training.optimizer_eps is None:
        return training.with_updates(optimizer_eps=POLICY_EPS)
    return training
