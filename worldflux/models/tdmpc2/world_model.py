"""TD-MPC2 as a world model: its networks and the public calls on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldflux.config.spaces import TASK_KEY
from worldflux.core.distributions import Binary, MultiOneHot, SquashedNormal, SymlogTwoHot
from worldflux.core.layers import one_hot_flat
from worldflux.core.math import episode_discount, percentile
from worldflux.core.optim import move_target_
from worldflux.core.state import (
    ActionPayload,
    Batch,
    LossOutput,
    ModelOutput,
    State,
    Trajectory,
)
from worldflux.errors import ValidationError
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.networks import Policy, QEnsemble, head, latent_mlp, simnorm
from worldflux.models.tdmpc2.objective import Noise, Objective
from worldflux.models.tdmpc2.pixels import PixelEncoder, centred, draw_shift, shift_pictures
from worldflux.models.tdmpc2.tasks import TaskEmbedding, TaskTerms, action_masks
from worldflux.models.world_model import WorldModel


class QScale(nn.Module):
    """Moving range between the 5th and 95th percentile of Q, at least 1 (TD-MPC2, eq. 5)."""

    value: Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.register_buffer("value", torch.ones(1))

    @torch.no_grad()
    def update(self, q: Tensor) -> None:
        """Moves the range towards that of q, of any shape."""
        low, high = self.percentiles(q)
        self.value.lerp_((high - low).clamp(min=1.0).to(self.value), self.rate)

    @staticmethod
    def percentiles(q: Tensor) -> tuple[Tensor, Tensor]:
        full = q if q.dtype == torch.float64 else q.float()
        return percentile(full, 5.0), percentile(full, 95.0)


class TDMPC2(WorldModel):
    """Encoder, latent dynamics, reward, termination (if episodic), Q ensemble and policy prior.

    B batch, T time, L latent, A action width, Q number of Q networks, K bins. Z is the width of
    what the networks read: the latent, followed in a multi-task model by its task's embedding.
    """

    config_class = TDMPC2Config
    config: TDMPC2Config
    latent_type = "simnorm"
    bins: Tensor
    action_masks: Tensor

    def __init__(self, config: TDMPC2Config):
        config.check_observations()
        super().__init__(config)
        units, layers = config.hidden_dim, config.num_hidden_layers
        self.task_emb: TaskEmbedding | None = None
        latent, task_dim = config.latent_dim, 0
        if config.multitask:
            task_dim = config.task_dim
            self.task_emb = TaskEmbedding(config.num_tasks, task_dim)
            dims = config.task_action_dims or (self.action_dim,) * config.num_tasks
            masks = action_masks(dims, self.action_dim)  # follows from the configuration
            self.register_buffer("action_masks", masks, persistent=False)
        self.observed = {k: s for k, s in self.obs_spaces.items() if not self._is_task(k)}
        self.pictures = any(space.image for space in self.observed.values())
        self.encoder = nn.ModuleDict(self._encoder(task_dim))
        joint = latent + task_dim + self.action_dim
        self.dynamics = latent_mlp(joint, units, layers, latent, config.simnorm_dim)
        self.reward = head(joint, units, layers, config.num_bins, zero=True)
        width = latent + task_dim
        self.termination = head(width, units, layers, 1) if config.episodic else None
        self.pi = Policy(
            width,
            units,
            layers,
            self.action_dim,
            classes=tuple(c for _, s in sorted(self.action_spaces.items()) for c in s.classes),
            log_std=(config.log_std_min, config.log_std_max),
        )
        ensemble = (config.num_q_networks, joint, units, layers, config.num_bins)
        self.q = QEnsemble(*ensemble)
        self.target_q = QEnsemble(*ensemble).requires_grad_(False)
        self.target_q.load_state_dict(self.q.state_dict())
        self.q_scale = QScale(config.target_q_tau)
        bins = torch.linspace(config.bin_min, config.bin_max, config.num_bins)
        self.register_buffer("bins", bins, persistent=False)

    def _is_task(self, key: str) -> bool:
        return self.config.multitask and key == TASK_KEY

    def _encoder(self, task_dim: int) -> dict[str, nn.Module]:
        config, latent, group = self.config, self.config.latent_dim, self.config.simnorm_dim
        if self.pictures:
            (space,) = self.observed.values()
            return {"rgb": PixelEncoder(space.shape[0], latent, group)}
        obs = sum(space.flat_dim for space in self.observed.values())
        # The official encoder of n layers has n - 1 hidden ones, but at least one.
        depth = max(config.encoder_layers - 1, 1)
        return {"state": latent_mlp(obs + task_dim, config.encoder_dim, depth, latent, group)}

    def discount_of(self, episode_length: int | None) -> float:
        """`gamma`, or the official rule for the episode length (endless: discount_max)."""
        config = self.config
        if config.gamma is not None:
            return config.gamma
        if episode_length is None:
            return config.discount_max
        return episode_discount(
            episode_length, config.discount_denom, config.discount_min, config.discount_max
        )

    @property
    def discount(self) -> float:
        """The discount of a single task."""
        return self.discount_of(self.config.episode_length)

    @property
    def discounts(self) -> list[float]:
        """The discount of every task of a multi-task model."""
        lengths = self.config.task_episode_lengths or (0,) * self.config.num_tasks
        return [self.discount_of(length or None) for length in lengths]

    @property
    def capabilities(self) -> frozenset[str]:
        """Names of what this model can do."""
        return frozenset(
            {
                "latent_dynamics",
                "reward_pred",
                "continue_pred",
                "representation",
                "value",
                "policy",
                "planning",
            }
        )

    # === The algorithm's own functions, on plain tensors ==================================

    def observation(self, obs: Mapping[str, Tensor]) -> Tensor:
        """What the encoder reads of observations `[..., *]`: a picture `[..., C, 64, 64]`, or one
        flat float vector `[..., O]`, keys as declared."""
        if self.pictures:
            (key,) = self.observed
            return obs[key]
        parts = []
        for key, space in self.observed.items():
            value = obs[key]
            lead = value.shape[: value.ndim - len(space.shape)]
            flat = value.reshape(*lead, -1)
            parts.append(one_hot_flat(flat, space.classes) if space.discrete else flat)
        return torch.cat([part.to(self.dtype) for part in parts], -1)

    def latent(
        self, observation: Tensor, task: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Latents `[..., Z]` of what `observation` gives.

        task `[...]` of a multi-task model; leading dimensions may be missing. shift `[..., 2]`:
        moves pictures, see `shift_pictures`; None leaves them in place.
        """
        if self.pictures:
            lead, pictures = observation.shape[:-3], observation.flatten(0, -4)
            if shift is not None:
                pictures = shift_pictures(pictures, shift.flatten(0, -2))
            z = self.encoder["rgb"](centred(pictures, self.dtype)).to(self.dtype)
            return z.unflatten(0, lead)
        return self.with_task(self.encoder["state"](self.with_task(observation, task)), task)

    def with_task(self, x: Tensor, task: Tensor | None) -> Tensor:
        """x `[..., D]` followed by the embedding of the task `[...]`, if there are several."""
        if self.task_emb is None:
            return x
        if task is None:
            raise ValidationError(f"this model has {self.config.num_tasks} tasks: say which")
        embedding = self.task_emb(task).to(x.dtype)
        return torch.cat([x, embedding.expand(*x.shape[:-1], -1)], -1)

    def bare(self, z: Tensor) -> Tensor:
        """The latent alone `[..., L]` of `[..., Z]`."""
        return z[..., : self.config.latent_dim]

    def task_terms(self, task: Tensor | None) -> TaskTerms | None:
        """Action mask and discount of tasks `[...]`; None with a single task."""
        if task is None or self.task_emb is None:
            return None
        index = task.long()
        discounts = torch.tensor(self.discounts, dtype=self.dtype, device=self.device)
        return TaskTerms(self.action_masks[index], discounts[index])

    def policy_dist(self, z: Tensor, terms: TaskTerms | None) -> SquashedNormal | MultiOneHot:
        """The policy prior in latents `[..., Z]`."""
        return self.pi.dist(z, None if terms is None else terms.mask)

    def draw_shift(self, lead: tuple[int, ...], generator: torch.Generator | None) -> Tensor | None:
        """Random shifts `[*lead, 2]` of pictures; None for vectors."""
        return draw_shift(lead, generator, self.device) if self.pictures else None

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        """The next latent `[..., Z]`."""
        return self.keep_task(self.dynamics(torch.cat([z, action], -1)), z)

    def keep_task(self, after: Tensor, z: Tensor) -> Tensor:
        """Bare latents `[..., L]`, followed by the embedding that z `[..., Z]` ends in, if any."""
        if self.task_emb is None:
            return after
        embedding = z[..., self.config.latent_dim :].expand(*after.shape[:-1], -1)
        return torch.cat([after, embedding], -1)

    def reward_dist(self, z: Tensor, action: Tensor) -> SymlogTwoHot:
        return SymlogTwoHot(self.reward(torch.cat([z, action], -1)), self.bins)

    def q_logits(
        self,
        z: Tensor,
        action: Tensor,
        index: Tensor | None = None,
        *,
        target: bool = False,
        frozen: bool = False,
        dropout: Tensor | None = None,
    ) -> Tensor:
        """Logits `[Q, ..., K]` of the networks in index (None: all)."""
        net = self.target_q if target else self.q
        joint = torch.cat([z, action.to(z.dtype)], -1)
        flat = net(joint.flatten(0, -2), index, frozen=frozen, dropout=dropout)
        return flat.unflatten(1, joint.shape[:-1])

    def q_values(
        self, z: Tensor, action: Tensor, index: Tensor | None = None, **how: Any
    ) -> Tensor:
        """Values `[Q, ...]`; see `q_logits`."""
        return SymlogTwoHot(self.q_logits(z, action, index, **how), self.bins).pred()

    def terminated(self, z: Tensor) -> Tensor:
        """Probability `[...]` that the episode has ended in z; zero unless episodic."""
        if self.termination is None:
            return torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        return Binary(self.termination(z)[..., 0]).prob()

    def draw_q_index(self, generator: torch.Generator | None) -> Tensor:
        """Two different Q networks `[2]`, drawn at random."""
        order = torch.randperm(self.config.num_q_networks, generator=generator, device=self.device)
        return order[:2]

    def update_target_q(self) -> None:
        """Moves the target Q networks towards the trained ones."""
        target: list[Tensor] = list(self.target_q.parameters())
        move_target_(target, list(self.q.parameters()), self.config.target_q_tau)

    def on_after_optimizer_step(self) -> None:
        self.update_target_q()

    # === The public interface ==============================================================

    def _state(self, z: Tensor, task: Tensor | None) -> State:
        tensors = {"latent": self.bare(z)} | ({} if task is None else {TASK_KEY: task})
        return State(tensors, {"latent_type": self.latent_type})

    def _read(self, state: State) -> tuple[Tensor, Tensor | None]:
        """Latents `[B, Z]` and tasks `[B]` of a state."""
        task = state.tensors.get(TASK_KEY)
        return self.with_task(state.tensors["latent"], task), task

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The uniform simplex in every group, `[B, L]`; of several tasks the first."""
        target = torch.device(device) if device is not None else self.device
        zeros = torch.zeros(batch_size, self.config.latent_dim, device=target, dtype=self.dtype)
        task = torch.zeros(batch_size, dtype=torch.int64, device=target)
        z = simnorm(zeros, self.config.simnorm_dim)
        return self._state(z, task if self.config.multitask else None)

    def encode(self, obs: Any, deterministic: bool = False) -> State:
        """Latents of observations `[B, *obs]` or a dict of them; ValidationError for a wrong shape.

        The encoder is deterministic in any case: pictures are not shifted here.
        """
        checked = self.check_obs(obs)
        task = checked[TASK_KEY] if self.config.multitask else None
        return self._state(self.latent(self.observation(checked), task), task)

    def transition(
        self, state: State, action: Any, conditions: Any = None, deterministic: bool = False
    ) -> State:
        """The latent after an action `[B, A]` (None is the zero action)."""
        flat = self.check_action(action, state.batch_size)
        z, task = self._read(state)
        return self._state(self.next(z, flat), task)

    def update(self, state: State, action: Any, obs: Any, conditions: Any = None) -> State:
        """The latent of the new observation: TD-MPC2 keeps no memory of earlier ones."""
        self.check_action(action, state.batch_size)
        return self.encode(obs)

    def decode(self, state: State, conditions: Any = None) -> ModelOutput:
        """Predictions: the policy's action `[B, A]`, its reward `[B, 1]` and q_values `[Q, B, 1]`,
        and continue `[B, 1]`, the probability that the episode goes on in this state."""
        z, task = self._read(state)
        action = self.policy_dist(z, self.task_terms(task)).pred().to(z.dtype)
        predictions = {
            "reward": self.reward_dist(z, action).pred()[:, None],
            "continue": 1 - self.terminated(z)[:, None],
            "q_values": self.q_values(z, action)[..., None],
            "action": action,
        }
        return ModelOutput(predictions, state)

    def predict_reward(self, state: State, action: Any) -> Tensor:
        """Expected reward `[B]` of an action `[B, A]`."""
        flat = self.check_action(action, state.batch_size)
        return self.reward_dist(self._read(state)[0], flat).pred()

    def predict_q(self, state: State, action: Any) -> Tensor:
        """Values `[Q, B]` of an action `[B, A]`."""
        flat = self.check_action(action, state.batch_size)
        return self.q_values(self._read(state)[0], flat)

    def rollout(
        self,
        initial_state: State,
        action_sequence: Any,
        conditions: Any = None,
        deterministic: bool = False,
        mode: str = "autoregressive",
    ) -> Trajectory:
        """States, rewards and continues under actions `[T, B, A]`; see `WorldModel.rollout`."""
        if isinstance(action_sequence, ActionPayload):
            action_sequence = action_sequence.tensor
        trajectory = super().rollout(
            initial_state, action_sequence, conditions, deterministic, mode
        )
        pairs = zip(trajectory.states, action_sequence, strict=False)
        trajectory.rewards = torch.stack([self.predict_reward(s, a) for s, a in pairs])
        return trajectory

    def policy(self, state: State, deterministic: bool = True) -> Tensor:
        """The policy prior's flat action `[B, A]`, without planning."""
        z, task = self._read(state)
        dist = self.policy_dist(z, self.task_terms(task))
        if deterministic:
            return dist.pred()
        return dist.sample(self.pi.noise((state.batch_size,), None, self.device))

    def loss(self, batch: Batch) -> LossOutput:
        """The training loss of sequences `[B, T]`, with its parts under the guide's names."""
        objective = Objective(self)
        data = objective.slices(self.step_dict(batch))
        noise = Noise.draw(self, *data.steps_rows, None)
        step = objective.model_losses(data, noise)
        policy = objective.policy_losses(step.latent, data, noise, update_scale=False)
        components = {
            name: objective.mean(name, value, data) for name, value in step.losses.items()
        }
        components["policy"] = objective.mean("policy", policy.loss, data)
        coefs = objective.coefs
        total = torch.stack([coefs[name] * value for name, value in components.items()]).sum()
        return LossOutput(total, components, {"q_scale": float(self.q_scale.value)})

    def make_agent(self, training: Any, device: torch.device | str | None = None) -> Any:
        """The agent that trains this model as a TrainingConfig says."""
        from worldflux.models.tdmpc2.agent import TDMPC2Agent

        return TDMPC2Agent(self, training, device=device)
