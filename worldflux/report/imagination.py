"""What a trained model imagines of episodes that it plays, beside what happened.

T steps of an episode, H imagined steps, S windows, A action width. Time as everywhere: the reward
at t arrived with the observation at t, the action at t is taken after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from worldflux.config.env import EnvConfig
from worldflux.core.agent import Agent, Carry
from worldflux.core.state import State
from worldflux.data.collect import random_actions
from worldflux.envs.make import make_envs
from worldflux.envs.tasks import TaskLayout, task_configs
from worldflux.models.world_model import WorldModel, prediction_name
from worldflux.training.seed import isolated_rng

ACTION, CONTINUE, LATENT = "action", "continue", "latent"


@dataclass(frozen=True)
class PlayedEpisode:
    """One greedy episode. obs: `[T, ...]` by key; action `[T, A]`; reward `[T]`, the first being 0.

    latent: the agent's own state at every step, `[T, ...]` by name. value `[T]`: the discounted
    sum of the rewards still to come in this episode. truncated: it did not end by itself.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    value: np.ndarray
    latent: dict[str, Tensor]
    truncated: bool

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def continues(self) -> np.ndarray:
        """`[T]`: 0 where the episode ends by itself, else 1."""
        result = np.ones(len(self))
        result[-1] = self.truncated
        return result

    @property
    def latent_series(self) -> dict[str, np.ndarray]:
        """The latent at every step, by the names under which it is predicted."""
        tensors = {key: one for key, one in self.latent.items() if one.is_floating_point()}
        return {f"{LATENT}/{key}": one.float().cpu().numpy() for key, one in tensors.items()}

    def series(self, name: str) -> np.ndarray:
        """`[T, ...]` of an observation, `reward`, `continue`, `value` or a latent."""
        scalars = {"reward": self.reward, "value": self.value, CONTINUE: self.continues}
        return {**self.latent_series, **scalars, **self.obs}[name]


@dataclass(frozen=True)
class Imagination:
    """What a model imagined from S steps of an episode, under the actions really taken.

    starts `[S]`: the step of which the model knows everything; its next H are imagined.
    predicted: by name `[S, 1 + H, ...]`, NaN behind the episode's end; index 0 is what it makes of
    the known step (NaN for a reward without a decoder). Names: the observations that the model
    decodes, `reward`, `value`, `continue`; of a model without a decoder its latents.
    """

    starts: np.ndarray
    predicted: dict[str, np.ndarray]

    @property
    def horizon(self) -> int:
        return self.predicted["reward"].shape[1] - 1


def play(
    agent: Agent,
    env: EnvConfig,
    *,
    seed: int,
    discount: float,
    layout: TaskLayout | None = None,
    latent: Sequence[str] = (),
    random: bool = False,
) -> PlayedEpisode:
    """Plays one greedy episode in a fresh environment; layout: see `make_envs`.

    latent: entries of the agent's carry that are the model's state; none: the encoding of the
    newest observation is. random: uniform actions are taken instead of the agent's, which only
    watches.
    """
    envs = make_envs(env, num_envs=1, mode="sync", seed=seed, layout=layout)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, np.ndarray]] = []
    actions: list[np.ndarray] = []
    latents: list[dict[str, Tensor]] = []
    try:
        with isolated_rng(seed, getattr(agent, "generator", None)):
            carry, row = agent.initial_carry(1), envs.reset()
            while True:
                if latent or not random:  # an agent without a memory need not watch
                    carry, action, _ = agent.act(carry, row, False)
                if random:
                    action = random_actions(envs.action_spaces, 1, rng) * envs.action_mask
                    carry = _taken(carry, action)
                rows.append(row)
                actions.append(action[0])
                latents.append(latent_of(agent, carry, row, latent))
                if row["is_last"][0]:
                    break
                row = envs.step(action)
    finally:
        envs.close()
    reward = np.array([row["reward"][0] for row in rows], np.float64)
    return PlayedEpisode(
        obs={prediction_name(k): np.stack([row[k][0] for row in rows]) for k in envs.obs_spaces},
        action=np.stack(actions),
        reward=reward,
        value=returns_to_come(reward, discount),
        latent={key: torch.cat([latent[key] for latent in latents]) for key in latents[0]},
        truncated=not rows[-1]["is_terminal"][0],
    )


def _taken(carry: Carry, action: np.ndarray) -> Carry:
    """A carry that remembers its last action, with another one."""
    if ACTION not in carry:
        return carry
    return {**carry, ACTION: torch.as_tensor(action).to(carry[ACTION])}


@torch.no_grad()
def latent_of(
    agent: Agent, carry: Carry, row: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, Tensor]:
    """The model's state after an observation `[1, ...]`: these entries of the carry, or the
    encoding where none are named."""
    if names:
        return {key: carry[key] for key in names}
    model = cast(WorldModel, agent.model)
    return dict(model.encode({key: row[key] for key in model.obs_spaces}).tensors)


def returns_to_come(reward: np.ndarray, discount: float) -> np.ndarray:
    """Discounted sums `[T]` of the rewards after each step; 0 at the last."""
    value = np.zeros(len(reward))
    for t in range(len(reward) - 2, -1, -1):
        value[t] = reward[t + 1] + discount * value[t + 1]
    return value


def discount_of(model: Any) -> float:
    """The discount per step that a model's values are trained with."""
    return float(getattr(model, "discount", None) or model.config.discount)


def tasks_of(env: EnvConfig, agent: Agent) -> list[tuple[EnvConfig, float]]:
    """The environment of each task, and the discount that its values have."""
    if not env.tasks:
        return [(env, discount_of(agent.model))]
    envs, model = task_configs(env), agent.model
    discounts = getattr(model, "discounts", None) or [discount_of(model)] * len(envs)
    return list(zip(envs, discounts, strict=True))


def layout_of_env(env: EnvConfig) -> TaskLayout | None:
    """The tasks among which one of them takes its place; None with a single task."""
    if not env.tasks:
        return None
    envs = make_envs(env)
    envs.close()
    return TaskLayout.of(envs.tasks)


@torch.no_grad()
def imagine(
    model: WorldModel,
    episode: PlayedEpisode,
    horizon: int,
    seed: int,
    starts: np.ndarray | None = None,
) -> Imagination:
    """Imagines `horizon` steps from these steps of an episode, all windows at once. starts `[S]`;
    None: every `horizon`-th step."""
    if starts is None:
        starts = np.arange(0, max(1, len(episode) - 1), horizon)
    index = starts[:, None] + np.arange(horizon + 1)  # [S, 1 + H]
    inside = index < len(episode)
    action = episode.action[np.minimum(index, len(episode) - 1)]  # [S, 1 + H, A]
    state = State({key: value[starts] for key, value in episode.latent.items()})
    with isolated_rng(seed):
        steps = rollout(model, state, torch.as_tensor(action, device=state.device).transpose(0, 1))
    predicted = {}
    for name in steps[0]:
        values = torch.stack([step[name] for step in steps], 1).float().cpu().numpy()
        values[~inside] = np.nan
        predicted[name] = values
    return Imagination(starts, predicted)


def rollout(model: WorldModel, state: State, action: Tensor) -> list[dict[str, Tensor]]:
    """1 + H predictions `[S, ...]` under actions `[1 + H, S, A]`.

    A model without a decoder gives the reward of each action (NaN for the known step), the policy's
    value as the mean of all Q networks, and its latents.
    """
    decodes = model.supports("obs_decoder")
    reward = torch.full((state.batch_size,), torch.nan, device=state.device)
    steps = []
    for t in range(len(action)):
        before, state = state, model.transition(state, action[t - 1]) if t else state
        output = model.decode(state)
        decoded = output.predictions
        if decodes:
            names = map(prediction_name, model.obs_spaces)
            step = {key: decoded[key] for key in names if key in decoded}
            step |= {key: decoded[key][:, 0] for key in ("reward", "value") if key in decoded}
        else:
            reward = model.rollout_reward(before, action[t - 1], output) if t else reward
            step = {"reward": reward, "value": decoded["q_values"].mean(0)[:, 0]}
            floating = {k: z for k, z in state.tensors.items() if z.is_floating_point()}
            step |= {f"{LATENT}/{key}": z for key, z in floating.items()}
        if CONTINUE in decoded:
            step[CONTINUE] = decoded[CONTINUE][:, 0]
        steps.append(step)
    return steps


def real(episode: PlayedEpisode, imagination: Imagination, name: str) -> np.ndarray:
    """What happened, laid out as `imagination.predicted[name]`: `[S, 1 + H, ...]`."""
    series = episode.series(name)
    index = imagination.starts[:, None] + np.arange(imagination.horizon + 1)
    return series[np.minimum(index, len(episode) - 1)]


def errors(episode: PlayedEpisode, imagination: Imagination) -> dict[str, tuple[float, float]]:
    """Mean absolute error of the imagined steps by name, and that of always guessing the
    episode's mean: what a model has to beat. Pictures are scaled to [0, 1]."""
    result = {}
    for name, predicted in imagination.predicted.items():
        if name.startswith(f"{LATENT}/"):
            continue  # measured, not told: they have no unit
        truth, scale = real(episode, imagination, name), 1.0
        if truth.shape != predicted.shape:
            continue  # classes: a picture of them says more than their distance
        if truth.dtype == np.uint8:
            scale = 255.0
        series = episode.series(name)
        known = ~np.isnan(predicted[:, 1:])
        off = np.abs(truth / scale - predicted)[:, 1:][known]
        guess = np.abs((truth - series[1:].mean(0)) / scale)[:, 1:][known]
        result[name] = float(off.mean()), float(guess.mean())
    return result
