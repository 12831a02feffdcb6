"""DreamerV3's policy as a function of tensors: encoder, RSSM posterior, actor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldflux.core.distributions import gumbel_noise
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.policy_step import Draw, PolicyStep


class DreamerV3Step(PolicyStep):
    """One step of acting. Without draws the latent is the posterior's mode, and the action the
    policy's."""

    def __init__(self, agent: DreamerV3Agent, draws: bool) -> None:
        model, carry = agent.model, agent.initial_carry(1)
        spaces = model.action_spaces.values()
        kinds = {"gumbel" if space.discrete else "normal" for space in spaces}
        noise = {"latent": Draw("gumbel"), "action": Draw(", by key ".join(sorted(kinds)))}
        super().__init__(model.obs_spaces, carry, noise if draws else {}, takes_first=True)
        self.model, self._policy = model, agent.policy

    def drawn(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (rows, *self.carry["stoch"].shape[1:])  # [N, S, K]
        latent = gumbel_noise(shape, generator, generator.device)
        return {
            "latent": latent,
            "action": self.model.actor.noise((rows,), generator, generator.device),
        }

    def act(
        self,
        obs: Mapping[str, Tensor],
        is_first: Tensor | None,
        carry: Mapping[str, Tensor],
        draws: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert is_first is not None
        latent = draws.get("latent", torch.zeros_like(carry["stoch"]))  # [N, S, K]
        after = self._policy(dict(carry), obs, is_first, latent, draws.get("action"))
        return after["action"], after


def policy_step(agent: DreamerV3Agent, planner: bool, draws: bool) -> DreamerV3Step:
    """The step of an agent. planner: refused, as there is none."""
    if planner:
        raise ConfigurationError("DreamerV3 has no planner: leave out --planner")
    return DreamerV3Step(agent, draws)
