"""TD-MPC2's configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from worldflux.config.fields import LARGEST_WHOLE
from worldflux.config.model import LAYERS, LatentType, WorldModelConfig
from worldflux.config.options import ENVIRONMENT, option
from worldflux.config.spaces import TASK_KEY, Space, Task
from worldflux.models.tdmpc2.official.names import OFFICIAL_NAMES
from worldflux.models.tdmpc2.official.tasks import official_tasks

OPTIONAL = "termination."  # weights that a model has only if it is episodic


# Weights of the losses that all models have.
LOSS_COEFS = ("consistency_loss_coef", "reward_loss_coef", "td_loss_coef", "policy_loss_coef")


@dataclass
class TDMPC2Config(WorldModelConfig):
    """TD-MPC2 (Hansen et al.). Defaults are the official ones, those of size 5m."""

    needs_obs_shape: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ("encoder", "dynamics", "reward", "termination", "policy")
    tensors: ClassVar[tuple[str, ...]] = (
        "latent", "target", "td_target", "obs", "action", "reward", "terminated", "valid", "model",
    )  # fmt: skip
    optional: ClassVar[tuple[str, ...]] = (OPTIONAL,)
    official_names: ClassVar[Mapping[str, tuple[str, ...]]] = OFFICIAL_NAMES
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
    latent_dim: int = option(512, help="Width of the latent z, in groups of simnorm_dim.")
    grad_clip: float = 20.0
    simnorm_dim: int = option(
        8,
        at_least=1,
        help="Width of a SimNorm group: the softmax simplices that the latent z consists of.",
    )
    num_hidden_layers: int = option(
        2, at_least=1, at_most=LAYERS, help="Hidden layers of dynamics, reward, Q and policy."
    )
    encoder_dim: int = option(256, at_least=1, help="Width of the encoder's hidden layers.")
    encoder_layers: int = option(
        2, at_least=1, at_most=LAYERS, help="Layers of the encoder of vectors; the last gives z."
    )
    num_q_networks: int = option(
        5,
        at_least=2,
        at_most=LAYERS,
        help="Q networks of the ensemble; each target takes the smaller of two drawn at random.",
    )  # two of them are drawn for a target
    num_bins: int = option(101, at_least=2, help="Bins of the two-hot reward and Q distributions.")
    bin_min: float = option(-10.0, unit="symlog of the return", help="Lowest bin of reward and Q.")
    bin_max: float = option(10.0, unit="symlog of the return", help="Highest bin of reward and Q.")
    dropout: float = option(
        0.01, at_least=0, below=1, help="Dropout in the first layer of each Q network."
    )
    horizon: int = option(
        3,
        at_least=1,
        unit="environment steps",
        help="Steps that the planner looks ahead and that the model is unrolled for in training.",
    )
    iterations: int = option(
        6, at_least=1, at_most=LAYERS, help="Iterations of MPPI for each action."
    )
    num_samples: int = option(
        512,
        at_least=1,
        help="Action sequences that MPPI evaluates in an iteration; time for each action is in proportion.",
    )
    num_elites: int = option(
        64, at_least=1, help="Best sequences that MPPI refits its distribution to."
    )
    num_pi_trajs: int = option(24, at_least=0, help="Of the samples, those proposed by the policy.")
    min_std: float = option(0.05, above=0, help="Least standard deviation of MPPI's distribution.")
    max_std: float = option(2.0, help="Standard deviation that MPPI begins with, and its largest.")
    temperature: float = option(
        0.5,
        above=0,
        help="Sharpness of the weights of the elites: higher trusts the best one more.",
    )
    momentum: float = option(
        0.0, at_least=0, at_most=1, help="Share of its mean that MPPI keeps in each iteration."
    )
    log_std_min: float = option(-10.0, help="Least log standard deviation of the policy.")
    log_std_max: float = option(2.0, help="Largest log standard deviation of the policy.")
    entropy_coef: float = option(
        1e-4,
        at_least=0,
        help="Weight of the policy's entropy against scaled Q values; raise it where exploration ends too early.",
    )
    gamma: float | None = option(
        None,
        above=0,
        at_most=1,
        help="Discount for each step; null takes the official rule: (f - 1) / f with f = episode_length / discount_denom, within [discount_min, discount_max].",
    )
    episode_length: int | None = option(
        None,
        at_least=1,
        at_most=LARGEST_WHOLE,
        unit="environment steps",
        help="Length of an episode, for the discount; null takes the environment's (no limit: discount_max).",
    )
    discount_denom: float = option(
        5.0, above=0, help="Divides episode_length in the rule of the discount."
    )
    discount_min: float = option(0.95, above=0, at_most=1, help="Least discount of the rule.")
    discount_max: float = option(0.995, above=0, at_most=1, help="Largest discount of the rule.")
    rho: float = option(
        0.5,
        above=0,
        at_most=1,
        help="Weight of each further step of the unrolled losses: rho to the power of the step.",
    )
    encoder_lr_scale: float = option(
        0.3,
        above=0,
        at_most=1,
        help="The encoder's learning rate is this times training.learning_rate.",
    )
    target_q_tau: float = option(
        0.01,
        above=0,
        at_most=1,
        help="Share of the Q networks that flows into their target copy at each update.",
    )
    consistency_loss_coef: float = option(
        20.0, at_least=0, help="Weight of the loss between predicted and encoded next latents."
    )
    reward_loss_coef: float = option(0.1, at_least=0, help="Weight of the reward loss.")
    td_loss_coef: float = option(0.1, at_least=0, help="Weight of the Q networks' loss.")
    policy_loss_coef: float = option(
        1.0, at_least=0, help="Weight of the policy's loss, which has an optimizer of its own."
    )
    termination_loss_coef: float = option(
        1.0, at_least=0, help="Weight of the termination head's loss, with episodic."
    )
    episodic: bool = option(
        False,
        follows="env.terminates",
        resumable=True,
        help="The task can end an episode, which a termination head learns; follows env.terminates. With false the head comes, fresh, at the first batch in which an episode ended.",
    )
    num_tasks: int = option(
        1,
        at_least=1,
        follows=ENVIRONMENT,
        help="Tasks that one model learns together. Above 1 the observation key task says which it is, and every network sees the task's learned embedding.",
    )
    task_dim: int = option(96, at_least=1, help="Width of the task embedding, with several tasks.")
    task_names: tuple[str, ...] = option(
        (), follows=ENVIRONMENT, help="Name of each task. Read off the environment."
    )
    task_action_dims: tuple[int, ...] = option(
        (),
        follows=ENVIRONMENT,
        help="Action width of each task, which acts in its first dimensions; the rest is masked. Read off the environment.",
    )
    task_episode_lengths: tuple[int, ...] = option(
        (),
        follows=ENVIRONMENT,
        unit="environment steps",
        help="Length of each task's episodes, for its discount; 0: no limit. Read off the environment.",
    )

    @property
    def multitask(self) -> bool:
        return self.num_tasks > 1

    @staticmethod
    def known_tasks(tasks: Sequence[Task]) -> Sequence[Task]:
        """Those of recorded data under the names of the official sets, where they are of one."""
        official = official_tasks(len(tasks))
        if official is None:
            return tasks
        pairs = zip(tasks, official, strict=True)
        wide = all(ours.action_dim <= known.action_dim for ours, known in pairs)
        return official if wide else tasks

    def of_weights(self, names: Collection[str]) -> TDMPC2Config:
        episodic = any(name.startswith(OPTIONAL) for name in names)
        return self if episodic == self.episodic else self.with_overrides(episodic=episodic)

    def with_spaces(
        self,
        obs_spaces: Mapping[str, Space],
        action_spaces: Mapping[str, Space],
        tasks: Sequence[Task] = (),
    ) -> TDMPC2Config:
        """As `WorldModelConfig.with_spaces`; tasks: those of a multi-task environment."""
        count = max(1, len(tasks))
        if "num_tasks" in self.explicit and self.num_tasks != count:
            text = f"is {self.num_tasks}, but the environment has {count}"
            raise self.refuse("num_tasks", text, "env.tasks names several")
        if count == 1:
            if self.task_dim != self._default("task_dim"):
                raise self.refuse("task_dim", "does something only with several tasks (env.tasks)")
            return super().with_spaces(obs_spaces, action_spaces)
        fields = {
            "num_tasks": count,
            "task_names": tuple(task.name for task in tasks),
            "task_action_dims": tuple(task.action_dim for task in tasks),
            "task_episode_lengths": tuple(task.episode_length or 0 for task in tasks),
            **self._fields_of(obs_spaces, action_spaces),
        }
        return self._with(fields, explicit=self.explicit)

    def _validate(self) -> None:
        if self.multitask:
            self._add_task_key()
        super()._validate()
        if self.latent_dim % self.simnorm_dim:
            text = f"must be divisible by simnorm_dim ({self.simnorm_dim}), got {self.latent_dim}"
            raise self.refuse("latent_dim", text)
        if self.action_type == "hybrid":
            raise self.refuse("action_type", "'hybrid' is not built for TD-MPC2")
        if self.explicit & {"obs_shape", "observation_modalities"}:
            self.check_observations()
        self._check_tasks()
        for name in ("num_elites", "num_pi_trajs"):
            if getattr(self, name) > self.num_samples:
                text = f"must be <= num_samples ({self.num_samples}), got {getattr(self, name)}"
                raise self.refuse(name, text)
        if self.discount_min > self.discount_max:
            text = f"must be <= discount_max ({self.discount_max:g}), got {self.discount_min:g}"
            raise self.refuse("discount_min", text)
        for low, high in (
            ("min_std", "max_std"),
            ("bin_min", "bin_max"),
            ("log_std_min", "log_std_max"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise self.refuse(low, f"must be below {high}")
        if not any(getattr(self, name) for name in LOSS_COEFS):
            text = "and all other coefficients of losses are 0: nothing would be learned"
            raise self.refuse(LOSS_COEFS[0], text)

    def check_observations(self) -> None:
        """Refuses observations that there is no encoder for. A model calls it too, as the default
        observation stands for one that is not known yet."""
        spaces = self.obs_spaces()
        images = {name: space.shape for name, space in spaces.items() if space.image}
        if "encoder" in self.components:
            if self.multitask:
                raise self.refuse("components", "encoder is not built with several tasks")
            return
        if not images:
            return
        if self.multitask:
            raise self.refuse("obs_shape", "must be that of a vector with several tasks")
        for name, shape in images.items():
            if shape[1:] != (64, 64):
                text = f"of image {name!r} must be 64 pixels high and wide, got {shape}"
                raise self.refuse("obs_shape", text, "env.image_size=[64,64] resizes")
            if len(spaces) > 1 and "." in name:  # a module of PyTorch cannot be called so
                raise self.refuse("", f"image {name!r} must have a name without a dot")
        if self.latent_dim % 16:
            text = "must be divisible by 16, the places that the image encoder leaves"
            raise self.refuse("latent_dim", f"{text}; got {self.latent_dim}")

    def _add_task_key(self) -> None:
        """The observation key that every multi-task model has, unless it was described."""
        if not self.observation_modalities:
            self.explicit -= {"observation_modalities"}
        described = self.observation_modalities or {"obs": {"shape": self.obs_shape}}
        entry = {"shape": (), "classes": (self.num_tasks,)}
        self.observation_modalities = {**described, TASK_KEY: described.get(TASK_KEY, entry)}

    def _check_tasks(self) -> None:
        names = ("task_names", "task_action_dims", "task_episode_lengths")
        for name in names:
            entries = len(getattr(self, name))
            if not self.multitask and entries:
                raise self.refuse(name, "does something only with num_tasks above 1")
            if entries not in (0, self.num_tasks):
                text = f"must have {self.num_tasks} entries, one for each task, got {entries}"
                raise self.refuse(name, text)
        if not self.multitask:
            return
        if self.action_type != "continuous":
            raise self.refuse("action_type", "must be continuous with several tasks")
        if self.obs_spaces()[TASK_KEY].classes != (self.num_tasks,):
            raise self.refuse("", f"observation {TASK_KEY!r} must have {self.num_tasks} classes")
        for dim in self.task_action_dims:
            if not 1 <= dim <= self.action_dim:
                text = f"must lie between 1 and action_dim ({self.action_dim}), got {dim}"
                raise self.refuse("task_action_dims", text)
        if min(self.task_episode_lengths, default=0) < 0:
            raise self.refuse("task_episode_lengths", "must be >= 0")
