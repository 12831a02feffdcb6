"""A GRU that predicts the next vector, its reward and whether the episode goes on, and a planner
that tries random actions in it.

B batch, T time, N environments, P plans, O width of the observation, A of the action, D of the GRU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldflux.config.model import WorldModelConfig
from worldflux.config.options import option
from worldflux.config.spaces import Space, Task
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Carry, Entries
from worldflux.core.optim import make_optimizer
from worldflux.core.ranks import ALONE, Ranks
from worldflux.core.state import Batch, LossOutput, ModelOutput, State
from worldflux.models.world_model import WorldModel


@dataclass
class ThirdConfig(WorldModelConfig):
    """horizon: steps of a plan. num_plans: plans tried at each step. explore: how often training
    acts at random instead. discount: of the planned rewards."""

    model_type: str = "third"
    obs_shape: tuple[int, ...] = (4,)
    hidden_dim: int = 64
    horizon: int = option(8, at_least=1)
    num_plans: int = option(64, at_least=1)
    explore: float = option(0.2, at_least=0, at_most=1)
    discount: float = option(0.99, above=0, at_most=1)

    def with_spaces(
        self,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        tasks: Sequence[Task] = (),
    ) -> ThirdConfig:
        met = super().with_spaces(obs_spaces, action_spaces, tasks)
        met.check_observations()
        return met

    def check_observations(self) -> None:
        """Raises ConfigurationError unless there is one vector to observe."""
        spaces = self.obs_spaces()
        if len(spaces) > 1 or any(s.classes or len(s.shape) != 1 for s in spaces.values()):
            got = ", ".join(f"{name} {space.shape}" for name, space in spaces.items())
            raise self.refuse("", f"observations must be one vector of numbers, got {got}")


class Third(WorldModel):
    """h' = GRU(h, [o, a]); the change of o, the reward and the end are read from h'."""

    config_class = ThirdConfig
    config: ThirdConfig

    def __init__(self, config: ThirdConfig):
        config.check_observations()
        super().__init__(config)
        ((self.key, space),) = self.obs_spaces.items()
        self.cell = nn.GRUCell(space.size + self.action_dim, config.hidden_dim)
        self.heads = nn.Linear(config.hidden_dim, space.size + 2)

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"latent_dynamics", "obs_decoder", "reward_pred", "continue_pred"})

    def step(self, h: Tensor, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h' `[B, D]`, next observation `[B, O]`, reward `[B]` and logit of going on `[B]`."""
        h = self.cell(torch.cat([obs, action], -1), h)
        change, reward, going = self.heads(h).split([obs.shape[-1], 1, 1], -1)
        return h, obs + change, reward[:, 0], going[:, 0]

    # === The public interface ==========================================================

    def encode(self, obs: Any, deterministic: bool = False) -> State:
        vector = self.check_obs(obs)[self.key]
        n = len(vector)
        zeros = torch.zeros(n, 1, device=self.device)
        h = zeros.expand(n, self.config.hidden_dim).clone()
        return State({"h": h, "obs": vector, "reward": zeros, "continue": zeros + 1})

    def transition(
        self, state: State, action: Any, conditions: Any = None, deterministic: bool = False
    ) -> State:
        flat = self.check_action(action, state.batch_size)
        h, obs, reward, going = self.step(state.tensors["h"], state.tensors["obs"], flat)
        ends = {"reward": reward[:, None], "continue": going.sigmoid()[:, None]}
        return State({"h": h, "obs": obs, **ends})

    def update(self, state: State, action: Any, obs: Any, conditions: Any = None) -> State:
        after = self.transition(state, action)
        return State({**after.tensors, "obs": self.check_obs(obs)[self.key]})

    def decode(self, state: State, conditions: Any = None) -> ModelOutput:
        names = {self.key: "obs", "reward": "reward", "continue": "continue"}
        return ModelOutput({name: state.tensors[key] for name, key in names.items()}, state)

    def loss(self, batch: Batch) -> LossOutput:
        parts = self.losses(self.step_dict(batch))
        return LossOutput(torch.stack([*parts.values()]).sum(), parts, {})

    def losses(self, steps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean losses of sequences `[B, T, ...]`, T > 1."""
        obs, first = steps[self.key].to(self.dtype), steps["is_first"]
        h = torch.zeros(len(obs), self.config.hidden_dim, device=obs.device)
        outputs = []
        for t in range(obs.shape[1] - 1):
            h = torch.where(first[:, t, None], torch.zeros_like(h), h)
            h, *predictions = self.step(h, obs[:, t], steps["action"][:, t])
            outputs.append(predictions)
        following, reward, going = (torch.stack(x, 1) for x in zip(*outputs, strict=True))
        inside = (~first[:, 1:]).to(obs)  # [B, T - 1]: t + 1 is the same episode
        ends = steps["is_terminal"][:, 1:].to(obs)
        errors = {
            "obs": F.mse_loss(following, obs[:, 1:], reduction="none").mean(-1),
            "reward": F.mse_loss(reward, steps["reward"][:, 1:], reduction="none"),
            "continue": F.binary_cross_entropy_with_logits(going, 1 - ends, reduction="none"),
        }
        return {k: (e * inside).sum() / inside.sum().clamp(min=1) for k, e in errors.items()}

    def make_agent(
        self, training: TrainingConfig, device: torch.device | str | None = None
    ) -> ThirdAgent:
        return ThirdAgent(self, training, device)


class ThirdAgent:
    """Trains the model with one optimizer; acts by the best of random plans."""

    replay_context = 1  # as many transitions are trained as training.sequence_length says

    def __init__(
        self, model: Third, training: TrainingConfig, device: torch.device | str | None = None
    ):
        self.device = torch.device(device if device is not None else training.resolve_device())
        self.model, self.config = model.to(self.device), model.config
        self.training = training
        self.entry_spaces: dict[str, Space] = {}
        self.optimizer = make_optimizer(self.model.parameters(), training)
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        self.ranks: Ranks = ALONE

    def join(self, ranks: Ranks, seed: int) -> None:
        self.ranks = ranks
        self.generator.manual_seed(seed)

    def initial_carry(self, n: int) -> Carry:
        return {"h": torch.zeros(n, self.config.hidden_dim, device=self.device)}

    def random_actions(self, *lead: int) -> Tensor:
        """Flat actions `[*lead, A]`: one-hot for choices, uniform in [-1, 1] for numbers."""
        parts = []
        for _, space in sorted(self.model.action_spaces.items()):
            for classes in space.classes:
                drawn = torch.randint(classes, lead, generator=self.generator, device=self.device)
                parts.append(F.one_hot(drawn, classes).float())
            if not space.classes:
                shape = (*lead, space.size)
                parts.append(
                    torch.rand(shape, generator=self.generator, device=self.device) * 2 - 1
                )
        return torch.cat(parts, -1)

    @torch.no_grad()
    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        vector = torch.as_tensor(obs[self.model.key], device=self.device)
        first = torch.as_tensor(obs["is_first"], device=self.device)
        h = torch.where(first[:, None], torch.zeros_like(carry["h"]), carry["h"])
        action = self.plan(h, vector)
        if explore:
            chance = torch.rand(len(h), 1, generator=self.generator, device=self.device)
            random = self.random_actions(len(h))
            action = torch.where(chance < self.config.explore, random, action)
        h = self.model.step(h, vector, action)[0]
        return {"h": h}, action.cpu().numpy(), {}

    def plan(self, h: Tensor, obs: Tensor) -> Tensor:
        """The first action `[N, A]` of the plan that promises most."""
        n, plans = len(h), self.config.num_plans
        actions = self.random_actions(self.config.horizon, n, plans)  # [H, N, P, A]
        h, obs = (x[:, None].expand(-1, plans, -1).flatten(0, 1) for x in (h, obs))  # [N * P, ...]
        total, alive = torch.zeros(n * plans, device=self.device), 1.0
        for action in actions:
            h, obs, reward, going = self.model.step(h, obs, action.flatten(0, 1))
            total, alive = total + alive * reward, alive * going.sigmoid() * self.config.discount
        best = total.reshape(n, plans).argmax(1)
        return actions[0][torch.arange(n, device=self.device), best]

    def update(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Carry]:
        parts = self.model.losses(batch)
        total = torch.stack([*parts.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = list(self.model.parameters())
        self.ranks.mean_gradients_(parameters)
        nn.utils.clip_grad_norm_(parameters, self.training.grad_clip or float("inf"))
        self.optimizer.step()
        metrics = {f"loss/{name}": loss.detach() for name, loss in parts.items()}
        return metrics | {"loss/total": total.detach()}, {}, {}

    def report(
        self, batch: Mapping[str, Tensor], carry: Carry | None = None
    ) -> dict[str, np.ndarray]:
        return {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        names = {p: name for name, p in self.model.named_parameters()}
        state = {
            f"{names[param]}/{key}": torch.as_tensor(value)
            for param, values in self.optimizer.state.items()
            for key, value in values.items()
        }
        return {"model": dict(self.model.state_dict()), "optimizer": state | self.rank_state()}

    def rank_state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self.model.load_state_dict(state["model"])
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, value in state["optimizer"].items():
            name, _, entry = key.partition("/")
            if entry:
                self.optimizer.state[parameters[name]][entry] = value.clone()
        self.generator.set_state(state["optimizer"]["generator"].cpu())
