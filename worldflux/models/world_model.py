"""What every world model offers: checks, rollouts, saving and loading."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from worldflux.config.base import read_json
from worldflux.config.files import DAMAGED_ARCHIVE, check_stored
from worldflux.config.model import WorldModelConfig
from worldflux.config.spaces import STEP_KEYS, flat_action_dim
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent
from worldflux.core.math import one_hot_flat
from worldflux.core.memory import memory_for
from worldflux.core.precision import computing_in
from worldflux.core.state import (
    Action,
    ActionPayload,
    Array,
    Batch,
    Condition,
    LossOutput,
    ModelOutput,
    Obs,
    State,
    Trajectory,
)
from worldflux.errors import CheckpointError, ConfigurationError, ValidationError
from worldflux.models.families import family_of_type
from worldflux.models.saved import META, as_manifest, check_checksum, saved_model
from worldflux.run_folder.disk import replaced
from worldflux.run_folder.names import BEST
from worldflux.run_folder.trust import SIGNATURE, signature

UNREADABLE = (SafetensorError, OSError, MemoryError)  # of a file of tensors
P = ParamSpec("P")
R = TypeVar("R")
SAVE_FORMAT_VERSION = 1
# What a user calls; training computes as its TrainingConfig says.
PUBLIC = ("encode", "transition", "update", "decode", "loss")
# What `decode` may predict beside observations.
PREDICTIONS = ("reward", "continue", "value", "action", "q_values")


def name_among(key: str, ours: Collection[str]) -> str:
    """The name of an observation key beside names of ours: the key itself, or `recon/<key>` where
    it would be taken for one of them."""
    return f"recon/{key}" if key in ours or key.startswith("recon/") else key


def prediction_name(key: str) -> str:
    """The name that a decoded observation has in the predictions of `WorldModel.decode`."""
    return name_among(key, PREDICTIONS)


class WorldModel(nn.Module):
    """Base of the families. B batch, T time, A flat action width."""

    config_class: ClassVar[type[WorldModelConfig]] = WorldModelConfig
    config: WorldModelConfig
    # Names in a batch of replayed steps that are no observation's.
    step_keys: ClassVar[tuple[str, ...]] = STEP_KEYS

    def __init_subclass__(cls) -> None:
        """Lets a family's public methods compute in the type that ``config.dtype`` names."""
        super().__init_subclass__()
        for name in PUBLIC:
            if name in cls.__dict__:
                setattr(cls, name, _in_configured_type(cls.__dict__[name]))

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        self.config = config
        self.obs_spaces = config.obs_spaces()
        if reserved := [key for key in self.obs_spaces if key in self.step_keys]:
            raise ConfigurationError(
                f"observation key {reserved[0]!r} is reserved for the step itself"
                f" ({', '.join(self.step_keys)}): rename it"
            )
        self.action_spaces = config.action_spaces()
        self.action_dim = flat_action_dim(self.action_spaces)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def capabilities(self) -> frozenset[str]:
        """Names of what this model can do."""
        raise NotImplementedError

    def supports(self, capability: str | Enum) -> bool:
        """Whether the capability (its name, or an enum with that value) is among them."""
        return str(getattr(capability, "value", capability)) in self.capabilities

    def io_contract(self) -> dict[str, Any]:
        """Shapes and types of inputs and predictions, without batch, as plain data."""
        observations, actions = (
            {
                key: {"shape": list(s.shape), "dtype": s.dtype, "classes": list(s.classes)}
                for key, s in spaces.items()
            }
            for spaces in (self.obs_spaces, self.action_spaces)
        )
        return {
            "observations": observations,
            "actions": actions,
            "action_dim": self.action_dim,
            "capabilities": sorted(self.capabilities),
        }

    def on_after_optimizer_step(self) -> None:
        """Called by a hand-written loop after each optimizer step; target networks move here."""

    def make_agent(
        self,
        training: TrainingConfig,
        device: torch.device | str | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: LRScheduler | None = None,
    ) -> Agent:
        """The agent that trains this model as a TrainingConfig says; an explicit optimizer, and a
        torch scheduler of it, take the place of the configured ones."""
        agent: Callable[..., Agent] = family_of_type(self.config.model_type).agent_class()
        return agent(self, training, device, optimizer, scheduler)

    # === What a family implements ======================================================

    def encode(self, obs: Obs, deterministic: bool = False) -> State:
        raise NotImplementedError

    def transition(
        self,
        state: State,
        action: Action,
        conditions: Condition = None,
        deterministic: bool = False,
    ) -> State:
        raise NotImplementedError

    def update(self, state: State, action: Action, obs: Obs, conditions: Condition = None) -> State:
        raise NotImplementedError

    def decode(self, state: State, conditions: Condition = None) -> ModelOutput:
        raise NotImplementedError

    def loss(self, batch: Batch) -> LossOutput:
        raise NotImplementedError

    # === Checks of what users pass =======================================================

    def check_obs(self, obs: Obs) -> dict[str, Tensor]:
        """Observations as a dict on the model's device; ValidationError for a wrong shape."""
        if not isinstance(obs, Mapping):
            if len(self.obs_spaces) > 1:
                raise ValidationError(
                    f"this model observes {', '.join(self.obs_spaces)}: pass a dict of them"
                )
            obs = {next(iter(self.obs_spaces)): obs}
        checked = {}
        for key, space in self.obs_spaces.items():
            if key not in obs:
                raise ValidationError(f"observation {key!r} is missing")
            value = torch.as_tensor(obs[key], device=self.device)
            if tuple(value.shape[1:]) != space.shape:
                raise ValidationError(
                    f"observation {key!r} must have shape [B, {', '.join(map(str, space.shape))}],"
                    f" got {list(value.shape)}"
                )
            if space.image and not value.is_floating_point():
                value = value.to(torch.uint8)  # whole numbers are 0..255
            keep = value.dtype == torch.uint8 or space.discrete
            checked[key] = value if keep else value.to(self.dtype)
        return checked

    def check_action(self, action: Action, batch: int) -> Tensor:
        """A flat action `[B, A]` from a tensor, an ActionPayload or None (zeros)."""
        if isinstance(action, ActionPayload):
            action = action.tensor
        if action is None:
            return torch.zeros(batch, self.action_dim, device=self.device, dtype=self.dtype)
        value = torch.as_tensor(action, device=self.device)
        spaces = list(self.action_spaces.values())
        indices = not value.is_floating_point() and value.dtype != torch.bool
        if indices and len(spaces) == 1 and spaces[0].discrete and value.shape[0] == batch:
            columns = value.reshape(batch, -1)
            if columns.shape[1] == len(spaces[0].classes) != self.action_dim:
                value = one_hot_flat(columns, spaces[0].classes)
        if tuple(value.shape) != (batch, self.action_dim):
            raise ValidationError(
                f"action must have shape [{batch}, {self.action_dim}], got {list(value.shape)}"
            )
        return value.to(self.dtype)

    def step_dict(self, batch: Batch) -> dict[str, Tensor]:
        """A Batch as the step dict of the house: rewards arrive with their observation.

        Batches whose rewards follow the action are shifted by one step; the first reward, which
        they do not hold, is zero.
        """
        if batch.obs is None or batch.actions is None:
            raise ValidationError("a batch needs obs and actions")
        obs = (
            batch.obs
            if isinstance(batch.obs, Mapping)
            else {next(iter(self.obs_spaces)): batch.obs}
        )
        steps = {key: torch.as_tensor(value, device=self.device) for key, value in obs.items()}
        action = batch.actions.to(self.device, self.dtype)
        lead = action.shape[:2]
        zeros = torch.zeros(lead, device=self.device)
        reward = zeros if batch.rewards is None else batch.rewards.to(zeros).reshape(lead)
        done = zeros if batch.terminations is None else batch.terminations.to(zeros).reshape(lead)
        if batch.reward_convention == "after_action":
            reward = torch.cat([zeros[:, :1], reward[:, :-1]], 1)  # [B, T]
            done = torch.cat([zeros[:, :1], done[:, :-1]], 1)  # [B, T]
        first = zeros.bool()
        if "is_first" in batch.extras:
            first = batch.extras["is_first"].to(self.device).bool().clone()
        first[:, 0] = True
        terminal = done.bool()
        last = batch.extras.get("is_last", terminal)
        steps |= {"action": action, "reward": reward, "is_first": first}
        return steps | {"is_terminal": terminal, "is_last": last.to(self.device).bool()}

    def try_losses(self) -> None:
        """ConfigurationError where a loss term of the user's own does not work on a small batch."""
        lead = (2, max(self.config.shortest_sequence, 2))  # B, T
        with torch.random.fork_rng(devices=[]):
            obs = {key: torch.zeros(*lead, *one.shape) for key, one in self.obs_spaces.items()}
            actions = torch.zeros(*lead, self.action_dim)
            self.loss(Batch(obs=obs, actions=actions, rewards=torch.zeros(lead)))

    # === Rollouts =========================================================================

    def rollout(
        self,
        initial_state: State,
        action_sequence: Array | ActionPayload,
        conditions: Condition = None,
        deterministic: bool = False,
        mode: str = "autoregressive",
    ) -> Trajectory:
        """States and predicted rewards and continues under actions `[T, B, A]`.

        rewards[t] and continues[t] belong to the state that action t leads to.
        """
        if mode != "autoregressive":
            raise ConfigurationError(f"rollout mode {mode!r} is unknown; use 'autoregressive'")
        actions = action_sequence
        if isinstance(actions, ActionPayload):
            actions = torch.as_tensor(actions.tensor)
        states, rewards, continues = [initial_state], [], []
        for action in actions:
            states.append(self.transition(states[-1], action, conditions, deterministic))
            after = self.decode(states[-1])
            rewards.append(self.rollout_reward(states[-2], action, after))  # [B]
            continues.append(after.predictions["continue"][:, 0])  # [B, 1] -> [B]
        return Trajectory(
            states,
            torch.as_tensor(actions),
            rewards=torch.stack(rewards),  # [T, B]
            continues=torch.stack(continues),  # [T, B]
        )

    def rollout_reward(self, state: State, action: Action, after: ModelOutput) -> Tensor:
        """Reward `[B]` of an action in a state; after: the predictions in the state it leads to."""
        return after.predictions["reward"][:, 0]  # [B, 1] -> [B]

    # === Saving and loading ===============================================================

    def fingerprint(self) -> str:
        """A hash of names, shapes and types of all weights: what a weight file must fit."""
        layout = {k: [str(v.dtype), list(v.shape)] for k, v in self.state_dict().items()}
        return hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()

    def save_pretrained(self, path: str | Path) -> None:
        """Writes config.json, model.safetensors and worldflux_meta.json into a folder."""
        from worldflux import __version__

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save(folder / "config.json")
        tensors = {
            key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()
        }
        with replaced(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        meta = {
            "save_format_version": SAVE_FORMAT_VERSION,
            "worldflux_version": __version__,
            "api_version": "v3",
            "model_type": self.config.model_type,
            "contract_fingerprint": self.fingerprint(),
            "created_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self.config.components or self.config.losses:
            meta[SIGNATURE] = signature(as_manifest(self.config))
        (folder / META).write_text(json.dumps(meta, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        *,
        checkpoint: str = BEST,
        trust: bool = False,
    ) -> Self:
        """The model saved in a folder, in a run or in a checkpoint. TypeError if it is another
        family's model.

        checkpoint: which one of a run. trust: parts of its own are imported although another user
        made it. Raises ConfigurationError if config, weights and metadata do not belong together and
        CheckpointError for damaged files.
        """
        config, folder = saved_model(Path(path), checkpoint, trust)
        if not isinstance(config, cls.config_class):
            raise TypeError(
                f"{path} holds a {config.model_type!r} model, not one for {cls.__name__}"
            )
        check_checksum(folder)
        with memory_for(f"the {config.model_type} model in {folder}"):
            model = cls(config)
        meta_file = folder / META
        if meta_file.is_file():
            meta = read_json(meta_file)
            if not isinstance(meta, dict):
                raise ConfigurationError(f"{meta_file} holds no names and values")
            if meta.get("model_type", config.model_type) != config.model_type:
                raise ConfigurationError(
                    f"{meta_file}: model_type {meta['model_type']!r} contradicts config.json"
                    f" ({config.model_type!r})"
                )
            if meta.get("contract_fingerprint", model.fingerprint()) != model.fingerprint():
                raise ConfigurationError(
                    f"{meta_file}: the weights were saved for another layout than config.json gives"
                )
        model.load_weights(folder)
        return model.to(device)

    def load_weights(self, folder: Path) -> None:
        """Loads model.safetensors, or the model.pt of old folders, strictly."""
        new, old = folder / "model.safetensors", folder / "model.pt"
        try:
            if new.is_file():
                weights = load_file(new)
            elif old.is_file():
                weights = _old_weights(old)
            else:
                raise CheckpointError(f"{folder} has neither model.safetensors nor model.pt")
            self.load_state_dict(weights)
        except (*UNREADABLE, RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"weights in {folder} cannot be loaded: {reason}") from error


def _old_weights(path: Path) -> dict[str, Tensor]:
    try:
        check_stored(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's text advises to run what is in it
        raise CheckpointError(f"{path} holds no weights alone") from error
    except (OSError, ValueError, *DAMAGED_ARCHIVE) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path} holds no weights alone: {reason}") from error
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} holds no weights by name")
    return weights


def _in_configured_type(
    method: Callable[Concatenate[WorldModel, P], R],
) -> Callable[Concatenate[WorldModel, P], R]:
    @functools.wraps(method)
    def call(self: WorldModel, *args: P.args, **kwargs: P.kwargs) -> R:
        with computing_in(self.config.dtype, self.device):
            return method(self, *args, **kwargs)

    return call
