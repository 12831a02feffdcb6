"""The trained modules of TD-MPC2 and what they compute on plain tensors, below the public model.

Letters: B batch, T time, L latent, Z what the networks read (the latent, followed in a multi-task
model by its task's embedding), A action, O flat observation, Q number of Q networks, K bins; of
pictures N pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldflux.config.spaces import TASK_KEY, Space
from worldflux.core.distributions import Binary, MultiOneHot
from worldflux.core.math import episode_discount, one_hot_flat
from worldflux.core.optim import move_target_
from worldflux.errors import ValidationError
from worldflux.models.own_code import own_losses, own_part
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.distributions import SquashedNormal, SymlogTwoHot
from worldflux.models.tdmpc2.networks import Policy, QEnsemble, QScale, head, latent_mlp, simnorm
from worldflux.models.tdmpc2.own import OwnLatent, OwnPolicy, prepared_shapes
from worldflux.models.tdmpc2.pixels import PixelEncoder, centred, draw_shift, shift_pictures
from worldflux.models.tdmpc2.tasks import TaskEmbedding, TaskTerms, action_masks
from worldflux.models.world_model import WorldModel

Observation = Tensor | dict[str, Tensor]


def steps_of(observation: Observation, index: int | slice) -> Observation:
    """Some steps of what `TDMPC2Modules.observation` gives, time first."""
    if isinstance(observation, Mapping):
        return {key: value[index] for key, value in observation.items()}
    return observation[index]


class TDMPC2Modules(WorldModel):
    """Encoder, latent dynamics, reward, termination (if episodic), Q ensemble and policy prior."""

    config_class = TDMPC2Config
    config: TDMPC2Config
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
            masks = action_masks(
                dims, self.action_dim
            )  # [tasks, A], follows from the configuration
            self.register_buffer("action_masks", masks, persistent=False)
        self.observed = {k: s for k, s in self.obs_spaces.items() if not self._is_task(k)}
        self.pictures = any(space.image for space in self.observed.values())
        mixed = self.pictures and len(self.observed) > 1
        self.joins = mixed or "encoder" in config.components
        self.own_losses = own_losses(config)
        self.encoder = nn.ModuleDict(self._encoder(task_dim))
        joint = latent + task_dim + self.action_dim  # Z + A
        replaced = config.components
        self.dynamics: nn.Module
        if "dynamics" in replaced:
            self.dynamics = OwnLatent(config, "dynamics", joint)
        else:
            self.dynamics = latent_mlp(joint, units, layers, latent, config.simnorm_dim)
        self.reward: nn.Module
        if "reward" in replaced:
            self.reward = own_part(config, "reward", joint, config.num_bins)
        else:
            self.reward = head(joint, units, layers, config.num_bins, zero=True)
        width = latent + task_dim  # Z
        self.termination: nn.Module | None = self._termination() if config.episodic else None
        policy = OwnPolicy if "policy" in replaced else Policy
        self.pi = policy(config, width, self.action_spaces)
        ensemble = (config.num_q_networks, joint, units, layers, config.num_bins)
        self.q = QEnsemble(*ensemble)
        self.target_q = QEnsemble(*ensemble).requires_grad_(False)
        self.target_q.load_state_dict(self.q.state_dict())
        self.q_scale = QScale(config.target_q_tau)
        bins = torch.linspace(config.bin_min, config.bin_max, config.num_bins)
        self.register_buffer("bins", bins, persistent=False)

    def _termination(self) -> nn.Module:
        config = self.config
        width = config.latent_dim + config.task_dim * config.multitask  # Z
        if "termination" in config.components:
            return own_part(config, "termination", width, 1)
        return head(width, config.hidden_dim, config.num_hidden_layers, 1)

    def fresh_termination(self, seed: int) -> nn.Module:
        """A termination head drawn from `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._termination().to(self.device, self.dtype)

    def set_termination(self, head: nn.Module | None) -> None:
        """Predicts ends of episodes with `head` from here on; None: takes them to be endless."""
        self.termination = head
        self.config = self.config.with_overrides(episodic=head is not None)

    def _is_task(self, key: str) -> bool:
        return self.config.multitask and key == TASK_KEY

    def _encoder(self, task_dim: int) -> dict[str, nn.Module]:
        config, latent, group = self.config, self.config.latent_dim, self.config.simnorm_dim
        if "encoder" in config.components:
            return {"own": OwnLatent(config, "encoder", prepared_shapes(self.observed))}
        if self.joins:
            return self._mixed_encoder()
        if self.pictures:
            (space,) = self.observed.values()
            return {"rgb": PixelEncoder(space.shape[0], latent, group)}
        obs = sum(space.flat_dim for space in self.observed.values())
        # The official encoder of n layers has n - 1 hidden ones, but at least one.
        depth = max(config.encoder_layers - 1, 1)
        return {"state": latent_mlp(obs + task_dim, config.encoder_dim, depth, latent, group)}

    def _mixed_encoder(self) -> dict[str, nn.Module]:
        """The official encoder of each picture and of all vectors together."""
        config, latent, group = self.config, self.config.latent_dim, self.config.simnorm_dim
        made: dict[str, nn.Module] = {
            f"rgb_{key}": PixelEncoder(space.shape[0], latent, group)
            for key, space in self.observed.items()
            if space.image
        }
        width = sum(space.flat_dim for space in self.observed.values() if not space.image)
        if width:
            depth = max(config.encoder_layers - 1, 1)
            made["state"] = latent_mlp(width, config.encoder_dim, depth, latent, None)
        return made

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

    def observation(self, obs: Mapping[str, Tensor]) -> Observation:
        """What the encoder reads of observations `[..., *]`: a picture `[..., C, 64, 64]`, or one
        flat float vector `[..., O]`, keys as declared; an encoder of the user's own reads a dict of
        both."""
        parts = {key: self._prepared(space, obs[key]) for key, space in self.observed.items()}
        if self.joins:
            return parts
        if self.pictures:
            (picture,) = parts.values()
            return picture
        return torch.cat([*parts.values()], -1)  # [..., O]

    def _prepared(self, space: Space, value: Tensor) -> Tensor:
        if space.image:
            return value
        lead = value.shape[: value.ndim - len(space.shape)]
        flat = value.reshape(*lead, -1)  # [..., *shape] -> [..., size]
        return (one_hot_flat(flat, space.classes) if space.discrete else flat).to(self.dtype)

    def _joined(self, observation: Mapping[str, Tensor], shift: Tensor | None) -> Tensor:
        """Latents `[..., L]` of several keys: the outputs of all encoders before SimNorm, added, then
        SimNorm. An encoder of the user's own reads all keys, pictures in [0, 1]."""
        parts = dict(observation)
        for key, space in self.observed.items():
            if space.image:
                lead, pictures = parts[key].shape[:-3], parts[key].flatten(0, -4)  # [N, C, H, W]
                if shift is not None:
                    pictures = shift_pictures(pictures, shift.flatten(0, -2))
                pictures = centred(pictures, self.dtype)
                if "own" in self.encoder:
                    parts[key] = (pictures + 0.5).unflatten(0, lead)
                else:
                    encoder = self.encoder[f"rgb_{key}"]
                    assert isinstance(encoder, PixelEncoder)
                    parts[key] = encoder.features(pictures).unflatten(0, lead)  # [..., L]
        if "own" in self.encoder:
            out: Tensor = self.encoder["own"](parts)
            return out.to(self.dtype)
        encoded = [parts.pop(key) for key, space in self.observed.items() if space.image]
        if parts:
            vectors = self.encoder["state"](torch.cat([*parts.values()], -1))  # [..., L]
            encoded.append(vectors if vectors.dtype == torch.float64 else vectors.float())
        joined = torch.stack(encoded).sum(0)  # [..., L]
        return simnorm(joined, self.config.simnorm_dim).to(self.dtype)

    def latent(
        self, observation: Observation, task: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Latents `[..., Z]` of what `observation` gives.

        task `[...]` of a multi-task model; leading dimensions may be missing. shift `[..., 2]`:
        moves pictures, see `shift_pictures`; None leaves them in place.
        """
        if isinstance(observation, Mapping):
            return self._joined(observation, shift)
        if self.pictures:
            lead, pictures = observation.shape[:-3], observation.flatten(0, -4)  # [N, C, 64, 64]
            if shift is not None:
                pictures = shift_pictures(pictures, shift.flatten(0, -2))
            z = self.encoder["rgb"](centred(pictures, self.dtype)).to(self.dtype)  # [N, L]
            return z.unflatten(0, lead)  # [..., L]
        return self.with_task(self.encoder["state"](self.with_task(observation, task)), task)

    def with_task(self, x: Tensor, task: Tensor | None) -> Tensor:
        """x `[..., D]` followed by the embedding of the task `[...]`, if there are several."""
        if self.task_emb is None:
            return x
        if task is None:
            raise ValidationError(f"this model has {self.config.num_tasks} tasks: name one")
        embedding = self.task_emb(task).to(x.dtype)  # [..., Z - L]
        return torch.cat([x, embedding.expand(*x.shape[:-1], -1)], -1)  # [..., D + Z - L]

    def bare(self, z: Tensor) -> Tensor:
        """The latent alone `[..., L]` of `[..., Z]`."""
        return z[..., : self.config.latent_dim]  # [..., L]

    def task_terms(self, task: Tensor | None) -> TaskTerms | None:
        """Action mask and discount of tasks `[...]`; None with a single task."""
        if task is None or self.task_emb is None:
            return None
        index = task.long()
        discounts = torch.tensor(self.discounts, dtype=self.dtype, device=self.device)
        return TaskTerms(self.action_masks[index], discounts[index])  # [..., A] and [...]

    def policy_dist(self, z: Tensor, terms: TaskTerms | None) -> SquashedNormal | MultiOneHot:
        """The policy prior in latents `[..., Z]`."""
        return self.pi.dist(z, None if terms is None else terms.mask)

    def draw_shift(self, lead: tuple[int, ...], generator: torch.Generator | None) -> Tensor | None:
        """Random shifts `[*lead, 2]` of pictures; None for vectors."""
        return draw_shift(lead, generator, self.device) if self.pictures else None

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        """The next latent `[..., Z]`."""
        return self.keep_task(self.dynamics(torch.cat([z, action], -1)), z)  # [..., Z]

    def keep_task(self, after: Tensor, z: Tensor) -> Tensor:
        """Bare latents `[..., L]`, followed by the embedding that z `[..., Z]` ends in, if any."""
        if self.task_emb is None:
            return after
        embedding = z[..., self.config.latent_dim :].expand(*after.shape[:-1], -1)  # [..., Z - L]
        return torch.cat([after, embedding], -1)  # [..., Z]

    def reward_dist(self, z: Tensor, action: Tensor) -> SymlogTwoHot:
        """Distribution of the reward `[...]` of an action `[..., A]` in latents `[..., Z]`."""
        return SymlogTwoHot(self.reward(torch.cat([z, action], -1)), self.bins)  # of [..., K]

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
        joint = torch.cat([z, action.to(z.dtype)], -1)  # [..., Z + A]
        flat = net(joint.flatten(0, -2), index, frozen=frozen, dropout=dropout)  # [Q, N, K]
        return flat.unflatten(1, joint.shape[:-1])  # [Q, ..., K]

    def q_values(
        self, z: Tensor, action: Tensor, index: Tensor | None = None, *, target: bool = False
    ) -> Tensor:
        """Values `[Q, ...]`; see `q_logits`."""
        logits = self.q_logits(z, action, index, target=target)  # [Q, ..., K]
        return SymlogTwoHot(logits, self.bins).pred()

    def terminated(self, z: Tensor) -> Tensor:
        """Probability `[...]` that the episode has ended in z; zero unless episodic."""
        if self.termination is None:
            return torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        return Binary(self.termination(z)[..., 0]).prob()  # [..., 1] -> [...]

    def draw_q_index(self, generator: torch.Generator | None) -> Tensor:
        """Two different Q networks `[2]`, drawn at random."""
        order = torch.randperm(self.config.num_q_networks, generator=generator, device=self.device)
        return order[:2]  # [Q] -> [2]

    def update_target_q(self) -> None:
        """Moves the target Q networks towards the trained ones."""
        target: list[Tensor] = list(self.target_q.parameters())
        move_target_(target, list(self.q.parameters()), self.config.target_q_tau)
