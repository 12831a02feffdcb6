"""TD-MPC2 as a world model: the public calls on its modules.

Letters: B batch, T time, L latent, Z what the networks read (see modules.py), A action, Q number of
Q networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldflux.config.spaces import TASK_KEY
from worldflux.core.state import Action, Batch, Condition, LossOutput, ModelOutput, Obs, State
from worldflux.models.tdmpc2.modules import TDMPC2Modules
from worldflux.models.tdmpc2.networks import simnorm
from worldflux.models.tdmpc2.objective import Noise, Objective


class TDMPC2(TDMPC2Modules):
    """TD-MPC2; see `TDMPC2Modules` for what it consists of."""

    latent_type = "simnorm"

    @property
    def capabilities(self) -> frozenset[str]:
        """Names of what this model can do."""
        always = {"latent_dynamics", "reward_pred", "continue_pred", "representation"}
        return frozenset(always | {"value", "policy", "planning"})

    def on_after_optimizer_step(self) -> None:
        self.update_target_q()

    # === The public interface ==============================================================

    def _state(self, z: Tensor, task: Tensor | None) -> State:
        tensors = {"latent": self.bare(z)} | ({} if task is None else {TASK_KEY: task})
        return State(tensors, {"latent_type": self.latent_type})

    def _read(self, state: State) -> tuple[Tensor, Tensor | None]:
        """Latents `[B, Z]` and tasks `[B]` of a state."""
        task = state.tensors.get(TASK_KEY)
        return self.with_task(state.tensors["latent"], task), task  # [B, L] -> [B, Z]

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The uniform simplex in every group, `[B, L]`; of several tasks the first."""
        target = torch.device(device) if device is not None else self.device
        zeros = torch.zeros(batch_size, self.config.latent_dim, device=target, dtype=self.dtype)
        task = torch.zeros(batch_size, dtype=torch.int64, device=target)
        z = simnorm(zeros, self.config.simnorm_dim)  # [B, L]
        return self._state(z, task if self.config.multitask else None)

    def encode(self, obs: Obs, deterministic: bool = False) -> State:
        """Latents of observations `[B, *obs]` or a dict of them; ValidationError for a wrong shape.

        The encoder is deterministic in any case: pictures are not shifted here.
        """
        checked = self.check_obs(obs)
        task = checked[TASK_KEY] if self.config.multitask else None
        return self._state(self.latent(self.observation(checked), task), task)

    def transition(
        self,
        state: State,
        action: Action,
        conditions: Condition = None,
        deterministic: bool = False,
    ) -> State:
        """The latent after an action `[B, A]` (None is the zero action)."""
        flat = self.check_action(action, state.batch_size)
        z, task = self._read(state)
        return self._state(self.next(z, flat), task)

    def update(self, state: State, action: Action, obs: Obs, conditions: Condition = None) -> State:
        """The latent of the new observation: TD-MPC2 keeps no memory of earlier ones."""
        self.check_action(action, state.batch_size)
        return self.encode(obs)

    def decode(self, state: State, conditions: Condition = None) -> ModelOutput:
        """Predictions: the policy's action `[B, A]`, its reward `[B, 1]` and q_values `[Q, B, 1]`,
        and continue `[B, 1]`, the probability that the episode goes on in this state."""
        z, task = self._read(state)
        action = self.policy_dist(z, self.task_terms(task)).pred().to(z.dtype)
        predictions = {
            "reward": self.reward_dist(z, action).pred()[:, None],  # [B, 1]
            "continue": 1 - self.terminated(z)[:, None],  # [B, 1]
            "q_values": self.q_values(z, action)[..., None],  # [Q, B, 1]
            "action": action,  # [B, A]
        }
        return ModelOutput(predictions, state)

    def predict_reward(self, state: State, action: Action) -> Tensor:
        """Expected reward `[B]` of an action `[B, A]`."""
        flat = self.check_action(action, state.batch_size)
        return self.reward_dist(self._read(state)[0], flat).pred()

    def predict_q(self, state: State, action: Action) -> Tensor:
        """Values `[Q, B]` of an action `[B, A]`."""
        flat = self.check_action(action, state.batch_size)
        return self.q_values(self._read(state)[0], flat)

    def rollout_reward(self, state: State, action: Action, after: ModelOutput) -> Tensor:
        return self.predict_reward(state, action)

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
