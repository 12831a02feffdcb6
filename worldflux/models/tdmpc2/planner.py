"""Planning by MPPI in the latent space (TD-MPC2, section "Model predictive control").

Continuous actions: every step and dimension has a normal with a mean and a standard deviation,
both refitted to the elites. Discrete actions: every step and entry has a categorical, whose
probabilities are refitted to the elites' weighted frequencies; `mean` holds the probabilities.

Letters: B environments, N samples, P of them from the policy prior, C any number of samples,
H steps, I iterations, E elites, A action, O flat observation, Z what the networks read, U units.
All samples of all environments are computed together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldflux.core.compile import Compiler, eager
from worldflux.core.distributions import MultiOneHot
from worldflux.models.tdmpc2.distributions import SymlogTwoHot
from worldflux.models.tdmpc2.modules import Observation, TDMPC2Modules
from worldflux.models.tdmpc2.networks import share_of_latent, with_action
from worldflux.models.tdmpc2.tasks import TaskTerms

# Least share of the uniform distribution in a refitted categorical, and in a warm-started one: what
# min_std and max_std are to a normal.
MIN_UNIFORM = 0.05
MAX_UNIFORM = 0.5
# From so many action dimensions on the official planner takes two more iterations.
MANY_ACTIONS = 20


@dataclass
class PlanNoise:
    """Every random draw of one planning call.

    policy `[H, B, P, A]` and value `[I, B, N, A]`: the policy prior's. sample `[I, B, H, N-P, A]`:
    normal, or Gumbel for discrete actions. index `[I, 2]`: the Q networks that count. exponential
    `[B, E]`: the choice among the elites. action `[B, A]`: exploration, None to do without. shift
    `[B, 2]` moves pictures, also in evaluation, as the official code does; None for vectors.
    """

    policy: Tensor
    sample: Tensor
    value: Tensor
    index: Tensor
    exponential: Tensor
    action: Tensor | None
    shift: Tensor | None = None

    @staticmethod
    def draw(
        model: TDMPC2Modules, rows: int, explore: bool, generator: torch.Generator | None
    ) -> PlanNoise:
        """Fresh noise for `rows` environments."""
        config, device = model.config, model.device
        steps, rounds = config.horizon, iterations(model)
        drawn = config.num_samples - config.num_pi_trajs
        elites = torch.empty(rows, config.num_elites, device=device)
        return PlanNoise(
            policy=model.pi.noise((steps, rows, config.num_pi_trajs), generator, device),
            sample=model.pi.noise((rounds, rows, steps, drawn), generator, device),
            value=model.pi.noise((rounds, rows, config.num_samples), generator, device),
            index=torch.stack([model.draw_q_index(generator) for _ in range(rounds)]),
            exponential=elites.exponential_(generator=generator),
            action=model.pi.noise((rows,), generator, device) if explore else None,
            shift=model.draw_shift((rows,), generator),
        )


def iterations(model: TDMPC2Modules) -> int:
    """Iterations of the planner."""
    return model.config.iterations + 2 * (model.action_dim >= MANY_ACTIONS)


class Round(NamedTuple):
    """One iteration: what was refitted, the candidates' values, the elites and their weights."""

    mean: Tensor  # [B, H, A]
    std: Tensor  # [B, H, A]
    values: Tensor  # [B, N]
    elites: Tensor  # [B, E], indices of samples
    elite_values: Tensor  # [B, E]
    actions: Tensor  # [B, H, N, A]
    score: Tensor  # [B, E]


@dataclass
class Plan:
    """What one planning call gives: action `[B, A]`, the mean to start from next time `[B, H, A]`,
    the policy prior's actions `[B, H, P, A]`, the elite that acts `[B]` and all iterations."""

    action: Tensor
    mean: Tensor
    policy_actions: Tensor
    chosen: Tensor
    rounds: list[Round]


@dataclass
class Start:
    """Where all sequences start: latents z `[B, 1, Z]`, their shares `[B, 1, U]` in the first layers
    of dynamics and reward, and what tasks decide (`[B, 1, A]` and `[B, 1]`)."""

    z: Tensor
    dynamics: Tensor
    reward: Tensor
    terms: TaskTerms | None


@dataclass
class Rollout:
    """C imagined action sequences: actions `[B, H, C, A]`, last `[B, C, Z]` the latents they end
    in, value `[B, C]` the discounted rewards up to there, weight `[B, C]` what a value there counts.
    """

    actions: Tensor
    last: Tensor
    value: Tensor
    weight: Tensor


class Planner:
    """Plans with one model; `compile` is applied to its heavy sections."""

    def __init__(self, model: TDMPC2Modules, compile: Compiler = eager):
        self.model = model
        self.prepare = compile(self._prepare)
        self.iterate = compile(self._iterate)

    @torch.no_grad()
    def __call__(
        self,
        observation: Observation,
        prev_mean: Tensor,
        is_first: Tensor,
        noise: PlanNoise,
        task: Tensor | None = None,
    ) -> Plan:
        """A plan for each observation `[B, O]`, or picture.

        prev_mean `[B, H, A]`: the mean of the last call; an environment whose episode begins
        (is_first `[B]`) starts without it. task `[B]`: of a multi-task model.
        """
        model = self.model
        z = model.latent(observation, task, noise.shift)  # [B, Z]
        terms = model.task_terms(None if task is None else task[:, None])  # [B, 1, A] and [B, 1]
        start, policy = self.prepare(z, terms, noise.policy)
        mean, std = self.start(prev_mean, is_first)  # [B, H, A] each
        rounds: list[Round] = []
        for sample, value, index in zip(noise.sample, noise.value, noise.index, strict=True):
            rounds.append(self.iterate(start, policy, mean, std, sample, value, index))
            mean, std = rounds[-1].mean, rounds[-1].std
        last = rounds[-1]
        chosen = (last.score.log() - noise.exponential.log()).argmax(-1)  # [B, E] -> [B]
        rows = torch.arange(z.shape[0], device=z.device)  # [B]
        picked = last.elites[rows, chosen]  # [B]
        action = self.explore(last.actions[rows, 0, picked], mean, std, noise.action)  # [B, A]
        return Plan(action, mean, policy.actions, chosen, rounds)

    def _prepare(self, z: Tensor, terms: TaskTerms | None, noise: Tensor) -> tuple[Start, Rollout]:
        """What all iterations need of the latents `[B, Z]`: their shares in the first step, and the
        policy prior's sequences, which are the same in each."""
        model, z = self.model, z[:, None]  # [B, 1, Z]
        shares = share_of_latent(model.dynamics, z), share_of_latent(model.reward, z)  # [B, 1, U]
        start = Start(z, *shares, terms)

        def choose(t: int, z: Tensor) -> Tensor:
            return model.policy_dist(z, terms).sample(noise[t]).to(model.dtype)  # [B, P, A]

        return start, self.imagine(start, choose, len(noise))

    def imagine(self, start: Start, choose: Callable[[int, Tensor], Tensor], steps: int) -> Rollout:
        """Imagines sequences of actions.

        choose(t, z): actions `[B, C, A]` at step t in latents `[B, C, Z]`, which are `[B, 1, Z]` at
        the start.
        """
        model, z, terms = self.model, start.z, start.terms
        discount = model.discount if terms is None else terms.discount  # number or [B, 1]
        value = torch.zeros_like(z[..., 0], dtype=model.dtype)  # [B, 1]
        weight = torch.ones((), device=z.device)
        actions = []
        for t in range(steps):
            action = choose(t, z)  # [B, C, A]
            if t == 0:
                logits = with_action(model.reward, start.reward, action)  # [B, C, bins]
                reward = SymlogTwoHot(logits, model.bins)
                z = model.keep_task(with_action(model.dynamics, start.dynamics, action), z)
            else:
                reward = model.reward_dist(z, action)
                z = model.next(z, action)  # [B, C, Z]
            value = value + weight * reward.pred()  # [B, C]
            weight = weight * discount
            if model.termination is not None:
                weight = weight * (model.terminated(z) <= 0.5)  # [B, C]
            actions.append(action)
        return Rollout(torch.stack(actions, 1), z, value, weight.expand_as(value))

    def start(self, prev_mean: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[B, H, A]` before the first iteration: the last call's mean,
        one step on."""
        config, fresh = self.model.config, self.initial_mean(prev_mean.shape[0])
        shifted = torch.cat([prev_mean[:, 1:], fresh[:, -1:]], 1)  # [B, H, A]
        if self.model.pi.classes:
            shifted = (1 - MAX_UNIFORM) * shifted + MAX_UNIFORM * fresh
        mean = torch.where(is_first[:, None, None], fresh, shifted)  # [B, H, A]
        return mean, torch.full_like(mean, config.max_std)

    def initial_mean(self, rows: int) -> Tensor:
        """`[B, H, A]`: zero, or uniform probabilities for discrete actions."""
        model = self.model
        widths = [1 / count for count in model.pi.classes for _ in range(count)]
        one = torch.tensor(widths or [0.0] * model.action_dim, device=model.device)  # [A]
        return one.to(model.dtype).expand(rows, model.config.horizon, -1).clone()  # [B, H, A]

    def _iterate(
        self,
        start: Start,
        policy: Rollout,
        mean: Tensor,
        std: Tensor,
        noise: Tensor,
        value_noise: Tensor,
        index: Tensor,
    ) -> Round:
        """One iteration: candidates, their values, the elites, and what is refitted to them."""
        config, terms = self.model.config, start.terms
        drawn = self.sample(mean, std, noise)  # [B, H, N-P, A]
        if terms is not None:
            drawn = drawn * terms.mask[:, None]  # [B, 1, 1, A]
        rollout = self.imagine(start, lambda t, _: drawn[:, t], drawn.shape[1])
        actions = torch.cat([policy.actions, drawn], 2)  # [B, H, N, A]
        values = self.estimate(start, policy, rollout, value_noise, index).nan_to_num(0.0)  # [B, N]
        elite_values, elites = values.topk(config.num_elites, -1)  # [B, E] each
        score = torch.exp(config.temperature * (elite_values - elite_values[:, :1]))  # [B, E]
        score = score / score.sum(-1, keepdim=True)  # [B, E]
        place = elites[:, None, :, None].expand(-1, config.horizon, -1, actions.shape[-1])
        best = actions.gather(2, place)  # [B, H, E, A]
        new_mean, new_std = self.refit(best, score, mean)  # [B, H, A] each
        if terms is not None:
            new_mean, new_std = new_mean * terms.mask, new_std * terms.mask
        return Round(new_mean, new_std, values, elites, elite_values, actions, score)

    def sample(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Candidates `[B, H, C, A]` of mean and std `[B, H, A]`, one for each noise."""
        if self.model.pi.classes:
            logits = mean[:, :, None].clamp(min=1e-8).log().expand_as(noise)  # [B, H, C, A]
            return MultiOneHot(logits, self.model.pi.classes).sample(noise).to(mean.dtype)
        return (mean[:, :, None] + std[:, :, None] * noise).clamp(-1, 1)  # [B, H, C, A]

    def refit(self, best: Tensor, score: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the elites `[B, H, E, A]`, weighted by score `[B, E]`."""
        config = self.model.config
        weight = score[:, None, :, None]  # [B, 1, E, 1]
        total = weight.sum(2) + 1e-9  # [B, 1, 1]
        new_mean = (weight * best).sum(2) / total  # [B, H, A]
        spread = (weight * (best - new_mean[:, :, None]) ** 2).sum(2) / total  # [B, H, A]
        new_std = spread.sqrt().clamp(config.min_std, config.max_std)
        if self.model.pi.classes:
            uniform = self.initial_mean(mean.shape[0])
            new_mean = (1 - MIN_UNIFORM) * new_mean + MIN_UNIFORM * uniform
        if config.momentum:
            new_mean = config.momentum * mean + (1 - config.momentum) * new_mean
        return new_mean, new_std

    def explore(self, action: Tensor, mean: Tensor, std: Tensor, noise: Tensor | None) -> Tensor:
        """The action that is taken `[B, A]`: with noise for exploration, if there is any."""
        if noise is None:
            return action
        if self.model.pi.classes:
            return self.sample(mean[:, :1], std[:, :1], noise[:, None, None])[:, 0, 0]  # [B, A]
        return (action + std[:, 0] * noise).clamp(-1, 1)  # [B, A]

    def estimate(
        self, start: Start, policy: Rollout, drawn: Rollout, noise: Tensor, index: Tensor
    ) -> Tensor:
        """Values `[B, N]` of all sequences: predicted rewards, then Q of the policy's action."""
        last = torch.cat([policy.last, drawn.last], 1)  # [B, N, Z]
        value = torch.cat([policy.value, drawn.value], 1)  # [B, N]
        weight = torch.cat([policy.weight, drawn.weight], 1)  # [B, N]
        action = self.model.policy_dist(last, start.terms).sample(noise)  # [B, N, A]
        return value + weight * self.model.q_values(last, action, index).mean(
            0
        )  # [2, B, N] -> [B, N]
