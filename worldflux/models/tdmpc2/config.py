"""TD-MPC2's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from worldflux.config.model import LatentType, WorldModelConfig
from worldflux.config.spaces import TASK_KEY, Space, Task


@dataclass
class TDMPC2Config(WorldModelConfig):
    """TD-MPC2 (Hansen et al.). Defaults are the official ones, those of size 5m.

    latent_dim: width of z, in groups of simnorm_dim. hidden_dim, num_hidden_layers: the MLPs of
        dynamics, reward, Q and policy. encoder_dim, encoder_layers: the encoder; its last layer
        gives z.
    horizon, num_samples, num_elites, num_pi_trajs, iterations, min_std, max_std, temperature: MPPI.
    momentum: share of its mean that MPPI keeps in each iteration (official: 0).
    gamma: discount; None takes the official rule: (f - 1) / f with f = episode_length /
        discount_denom, within [discount_min, discount_max].
    episode_length: agent steps of an episode; None: no limit, the runner takes the environment's.
    episodic: the task can end an episode, which a termination head predicts.
    num_tasks: tasks that one model learns together. With more than one the observation key `task`
        says which it is, and every network also sees the task's learned embedding, task_dim wide.
    task_names, task_action_dims, task_episode_lengths: of each task (0: no limit). Actions and
        observations are as wide as the widest task's; a task acts in its first dimensions.
    """

    needs_obs_shape: ClassVar[bool] = True
    inert: ClassVar[dict[str, str]] = {
        "deter_dim": "its latent is latent_dim wide",
        "stoch_dim": "its latent is latent_dim wide",
    }
    removed: ClassVar[dict[str, str]] = {
        "training_tier": "there is one TD-MPC2, the official one",
        "parity_profile": "there is one TD-MPC2, the official one",
        "use_decoder": "TD-MPC2 has no decoder",
    }
    legacy: ClassVar[dict[str, Any]] = {
        "training_tier": "reference",
        "parity_profile": "",
        "use_decoder": False,
    }

    model_type: str = "tdmpc2"
    latent_type: LatentType = LatentType.SIMNORM
    latent_dim: int = 512
    grad_clip: float = 20.0
    simnorm_dim: int = 8
    num_hidden_layers: int = 2
    encoder_dim: int = 256
    encoder_layers: int = 2
    num_q_networks: int = 5
    num_bins: int = 101
    bin_min: float = -10.0
    bin_max: float = 10.0
    dropout: float = 0.01
    horizon: int = 3
    iterations: int = 6
    num_samples: int = 512
    num_elites: int = 64
    num_pi_trajs: int = 24
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5
    momentum: float = 0.0
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    entropy_coef: float = 1e-4
    gamma: float | None = None
    episode_length: int | None = None
    discount_denom: float = 5.0
    discount_min: float = 0.95
    discount_max: float = 0.995
    rho: float = 0.5
    encoder_lr_scale: float = 0.3
    target_q_tau: float = 0.01
    consistency_loss_coef: float = 20.0
    reward_loss_coef: float = 0.1
    td_loss_coef: float = 0.1
    policy_loss_coef: float = 1.0
    termination_loss_coef: float = 1.0
    episodic: bool = False
    num_tasks: int = 1
    task_dim: int = 96
    task_names: tuple[str, ...] = ()
    task_action_dims: tuple[int, ...] = ()
    task_episode_lengths: tuple[int, ...] = ()

    @property
    def multitask(self) -> bool:
        return self.num_tasks > 1

    def with_spaces(
        self,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        tasks: Sequence[Task] = (),
    ) -> TDMPC2Config:
        """As `WorldModelConfig.with_spaces`; tasks: those of a multi-task environment."""
        count = max(1, len(tasks))
        if "num_tasks" in self._given and self.num_tasks != count:
            text = f"num_tasks is {self.num_tasks}, but the environment has {count}"
            raise self.refuse(f"{text}; env.tasks names several")
        if count == 1:
            if self.task_dim != self._default("task_dim"):
                raise self.refuse("task_dim does something only with several tasks (env.tasks)")
            return super().with_spaces(obs_spaces, action_spaces)
        found = {
            "num_tasks": count,
            "task_names": tuple(task.name for task in tasks),
            "task_action_dims": tuple(task.action_dim for task in tasks),
            "task_episode_lengths": tuple(task.episode_length or 0 for task in tasks),
        }
        changed = {**found, **self._spaces_found(obs_spaces, action_spaces)}
        return self._with(changed, given=self._given)

    def _validate(self) -> None:
        self._at_least(1, "num_tasks", "task_dim")
        if self.multitask:
            self._add_task_key()
        super()._validate()
        self._at_least(1, "simnorm_dim", "num_hidden_layers", "encoder_dim", "encoder_layers")
        self._at_least(2, "num_q_networks", "num_bins")  # two Q networks are drawn for a target
        if self.latent_dim % self.simnorm_dim:
            text = f"latent_dim must be divisible by simnorm_dim ({self.simnorm_dim})"
            raise self.refuse(f"{text}, got {self.latent_dim}")
        if self.action_type == "hybrid":
            raise self.refuse("action_type 'hybrid' is not built for TD-MPC2")
        if self._given & {"obs_shape", "observation_modalities"}:
            self.check_observations()
        self._check_tasks()
        self._check_planner()
        self._check_learning()

    def check_observations(self) -> None:
        """Refuses observations that there is no encoder for. A model calls it too, as the default
        observation stands for one that is not known yet."""
        spaces = self.obs_spaces()
        images = {name: space.shape for name, space in spaces.items() if space.image}
        if not images:
            return
        if self.multitask:
            raise self.refuse("obs_shape must be that of a vector with several tasks")
        text = "TD-MPC2 observes vectors or one picture"
        if len(spaces) > 1:
            raise self.refuse(f"{text}, got {', '.join(spaces)}")
        name, shape = next(iter(images.items()))
        if shape[1:] != (64, 64):
            text = f"obs_shape of image {name!r} must be 64 pixels high and wide, got {shape}"
            raise self.refuse(f"{text}; env.image_size=[64,64] resizes")
        if self.latent_dim % 16:
            text = "latent_dim must be divisible by 16, the places that the image encoder leaves"
            raise self.refuse(f"{text}; got {self.latent_dim}")

    def _add_task_key(self) -> None:
        """The observation key that every multi-task model has, unless it was described."""
        if not self.observation_modalities:
            self._given -= {"observation_modalities"}
        described = self.observation_modalities or {"obs": {"shape": self.obs_shape}}
        entry = {"shape": (), "classes": (self.num_tasks,)}
        self.observation_modalities = {**described, TASK_KEY: described.get(TASK_KEY, entry)}

    def _check_tasks(self) -> None:
        names = ("task_names", "task_action_dims", "task_episode_lengths")
        if not self.multitask:
            given = [name for name in names if getattr(self, name)]
            if given:
                raise self.refuse(f"{given[0]} does something only with num_tasks above 1")
            return
        if self.action_type != "continuous":
            raise self.refuse("action_type must be continuous with several tasks")
        if self.obs_spaces()[TASK_KEY].classes != (self.num_tasks,):
            raise self.refuse(f"observation {TASK_KEY!r} must have {self.num_tasks} classes")
        for name in names:
            if len(getattr(self, name)) not in (0, self.num_tasks):
                text = f"{name} must have {self.num_tasks} entries, one for each task"
                raise self.refuse(f"{text}, got {len(getattr(self, name))}")
        for dim in self.task_action_dims:
            if not 1 <= dim <= self.action_dim:
                text = f"task_action_dims must lie between 1 and action_dim ({self.action_dim})"
                raise self.refuse(f"{text}, got {dim}")
        if min(self.task_episode_lengths, default=0) < 0:
            raise self.refuse("task_episode_lengths must be >= 0")

    def _check_planner(self) -> None:
        self._at_least(1, "horizon", "iterations", "num_samples", "num_elites")
        self._at_least(0, "num_pi_trajs")
        for name in ("num_elites", "num_pi_trajs"):
            if getattr(self, name) > self.num_samples:
                text = f"{name} must be <= num_samples ({self.num_samples})"
                raise self.refuse(f"{text}, got {getattr(self, name)}")
        self._above(0, "min_std", "temperature")
        self._between("momentum", 0, 1, "[]")

    def _check_learning(self) -> None:
        pairs = ("min_std", "max_std"), ("bin_min", "bin_max"), ("log_std_min", "log_std_max")
        for low, high in pairs:
            if getattr(self, low) >= getattr(self, high):
                raise self.refuse(f"{low} must be below {high}")
        for name in ("target_q_tau", "rho", "encoder_lr_scale", "discount_min", "discount_max"):
            self._between(name, 0, 1, "(]")
        self._between("gamma", 0, 1, "(]")
        self._between("dropout", 0, 1, "[)")
        self._above(0, "discount_denom")
        if self.episode_length is not None:
            self._at_least(1, "episode_length")
        self._at_least(0, "consistency_loss_coef", "reward_loss_coef", "td_loss_coef")
        self._at_least(0, "policy_loss_coef", "termination_loss_coef", "entropy_coef")
