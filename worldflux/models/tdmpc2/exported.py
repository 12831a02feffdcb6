"""TD-MPC2's policy as a function of tensors: the policy prior, or the planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from worldflux.config.spaces import TASK_KEY
from worldflux.models.policy_step import Draw, PolicyStep
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.models.tdmpc2.pixels import PAD
from worldflux.models.tdmpc2.planner import PlanNoise

# Where the environments are in the planner's draws; the Q networks of a call count for all.
BATCH = {"policy": 1, "sample": 1, "value": 1, "index": None, "exponential": 0, "action": 0, "shift": 0}  # fmt: skip
KINDS = {"index": "two different Q networks", "exponential": "exponential", "shift": "0 to 6"}


class PriorStep(PolicyStep):
    """The policy prior in the encoded observation: no memory, no planning."""

    def __init__(self, agent: TDMPC2Agent, draws: bool) -> None:
        model = agent.model
        kind = "gumbel" if model.pi.classes else "normal"
        noise = {"action": Draw(kind)}
        super().__init__(model.obs_spaces, {}, noise if draws else {}, takes_first=False)
        self.model = model

    def drawn(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"action": self.model.pi.noise((rows,), generator, generator.device)}

    def act(
        self,
        obs: Mapping[str, Tensor],
        is_first: Tensor | None,
        carry: Mapping[str, Tensor],
        draws: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.model
        task = obs[TASK_KEY] if model.config.multitask else None
        z = model.latent(model.observation(obs), task)  # [N, Z]
        dist = model.policy_dist(z, model.task_terms(task))
        action = dist.sample(draws["action"]) if draws else dist.pred()  # [N, A]
        return action.to(model.dtype), {}


class PlannerStep(PolicyStep):
    """The planner with its fixed number of iterations.

    Without draws it tries the same candidates in every step, which are drawn once and are part of
    the file, and acts with the best elite; the carry is the mean to start from.
    """

    def __init__(self, agent: TDMPC2Agent, draws: bool) -> None:
        model = agent.model
        generator = torch.Generator(agent.device).manual_seed(agent.training.seed)
        drawn = PlanNoise.draw(model, 1, draws, generator)
        kinds = dict.fromkeys(BATCH, "gumbel" if model.pi.classes else "normal") | KINDS
        noise = {
            name: Draw(kinds[name], axis)
            for name, axis in BATCH.items()
            if draws and getattr(drawn, name) is not None
        }
        carry = {"mean": agent.planner.initial_mean(1)}
        super().__init__(model.obs_spaces, carry, noise, takes_first=True)
        self.model, self._planner = model, agent.planner
        drawn = replace(drawn)
        drawn.exponential = torch.ones_like(drawn.exponential)  # the best elite acts
        drawn.action = None
        if drawn.shift is not None:
            drawn.shift = torch.full_like(drawn.shift, PAD)  # in place
        self._fixed = drawn

    def drawn(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return dict(vars(PlanNoise.draw(self.model, rows, True, generator)))

    def act(
        self,
        obs: Mapping[str, Tensor],
        is_first: Tensor | None,
        carry: Mapping[str, Tensor],
        draws: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert is_first is not None
        model, mean = self.model, carry["mean"]
        task = obs[TASK_KEY] if model.config.multitask else None
        noise = PlanNoise(**draws) if draws else self._spread(mean.shape[0])
        plan = self._planner(model.observation(obs), mean, is_first, noise, task)
        return plan.action, {"mean": plan.mean.to(model.dtype)}

    def _spread(self, rows: int) -> PlanNoise:
        """The fixed draws for so many environments, the same for each."""
        spread = {}
        for name, axis in BATCH.items():
            value = getattr(self._fixed, name)
            if value is not None and axis is not None:
                value = value.expand(*value.shape[:axis], rows, *value.shape[axis + 1 :])
            spread[name] = value
        return PlanNoise(**spread)


def policy_step(agent: TDMPC2Agent, planner: bool, draws: bool) -> PolicyStep:
    """The step of an agent: that of its policy prior, or of its planner."""
    return PlannerStep(agent, draws) if planner else PriorStep(agent, draws)
