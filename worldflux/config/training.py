"""How a model is trained and logged: the `training` and `logger` groups, and the Python API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import field_types

OPTIMIZERS = ("laprop", "adamw", "adam", "sgd")
SCHEDULERS = ("none", "linear", "cosine", "constant")
_SEVERAL = "nproc=N trains with several processes"
_IN_MEMORY = "batches are sampled from memory in the training process"


@dataclass
class TrainingConfig(CheckedConfig):
    """Fields of one training run. A step is one gradient update, never an environment step.

    total_steps: gradient updates. env_steps: stop at this many environment steps, if that is first.
    sequence_length: trained time steps of a sequence, the replay context not counted.
    scheduler: `constant` is `none`; both keep the rate after warmup_steps of linear rise.
    grad_clip: global norm; 0 is off. agc: adaptive clipping per tensor (laprop); 0 is off.
    optimizer_eps, beta1, beta2: None or the default is the optimizer's own.
    mixed_precision: computes in mixed_precision_dtype; float16 needs CUDA, bfloat16 does not.
    compile_model: compiles the update with torch.compile.
    device: auto takes CUDA if there is one, else the CPU.
    nproc: processes that train together, each with its share of what all other fields count:
        batch_size and num_envs must be multiples of it.
    env_mode: sync steps the environments in turn, async each in a process; auto chooses.
    log_interval, eval_interval, save_interval: in updates; eval_interval 0: only at the end.
    save_seconds: also save when the last save is so long ago, unless saving would then take more
    than 2 % of the time; 0 is off.
    ema_decay, model_overrides: fields of the wider format; a Trainer refuses them.
    """

    removed: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("instant_mode", "instant_total_steps", "instant_batch_size"),
            "set total_steps, batch_size and sequence_length",
        ),
        "instant_sequence_length": "set total_steps, batch_size and sequence_length",
        **dict.fromkeys(
            ("distributed_mode", "distributed_world_size", "use_ddp", "ddp_backend"), _SEVERAL
        ),
        **dict.fromkeys(
            ("ddp_find_unused_params", "ddp_gradient_as_bucket_view", "ddp_broadcast_buffers"),
            _SEVERAL,
        ),
        **dict.fromkeys(("rank", "world_size", "local_rank"), _SEVERAL),
        **dict.fromkeys(
            ("num_workers", "prefetch_factor", "pin_memory", "persistent_workers"), _IN_MEMORY
        ),
        "prefetch_batches": _IN_MEMORY,
        "use_gradient_checkpointing": "activations are kept",
        "checkpoint_layers": "activations are kept",
        "auto_quality_check": "runs are judged by evaluation in the environment",
        "profile": "scripts/benchmark.py measures speed",
        "backend_profile": "there is one backend, native_torch",
    }
    legacy: ClassVar[dict[str, Any]] = {
        "instant_mode": False,
        "instant_total_steps": 8,
        "instant_batch_size": 8,
        "instant_sequence_length": 10,
        "distributed_mode": "none",
        "distributed_world_size": 1,
        "use_ddp": False,
        "ddp_backend": "nccl",
        "ddp_find_unused_params": False,
        "ddp_gradient_as_bucket_view": True,
        "ddp_broadcast_buffers": True,
        "rank": None,
        "world_size": None,
        "local_rank": None,
        "num_workers": 0,
        "prefetch_factor": 2,
        "pin_memory": True,
        "persistent_workers": True,
        "prefetch_batches": 2,
        "use_gradient_checkpointing": False,
        "checkpoint_layers": [],
        "auto_quality_check": True,
        "profile": False,
        "backend_profile": "",
    }

    total_steps: int = 100_000
    env_steps: int | None = None
    batch_size: int = 16
    sequence_length: int = 50
    learning_rate: float = 3e-4
    optimizer: str = "adamw"
    scheduler: str = "none"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    grad_clip: float = 100.0
    agc: float = 0.0
    optimizer_eps: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    gradient_accumulation_steps: int = 1
    mixed_precision: bool = False
    mixed_precision_dtype: str = "float16"
    compile_model: bool = False
    device: str = "auto"
    seed: int = 42
    nproc: int = 1
    num_envs: int = 1
    env_mode: str = "auto"
    log_interval: int = 100
    eval_interval: int = 1000
    eval_episodes: int = 10
    save_interval: int = 10_000
    save_seconds: float = 300.0
    output_dir: str = "./outputs"
    ema_decay: float | None = None
    model_overrides: dict[str, Any] = field(default_factory=dict)
    backend: str = "native_torch"

    def resolve_device(self) -> str:
        """`device`, with `auto` as `cuda` if CUDA is available, else `cpu`."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def effective_total_steps(self) -> int:
        """Gradient updates of the run."""
        return self.total_steps

    def effective_batch_size(self) -> int:
        """Sequences that make up one update."""
        return self.batch_size * self.gradient_accumulation_steps

    def effective_sequence_length(self) -> int:
        """Trained time steps of each sequence."""
        return self.sequence_length

    def with_updates(self, **updates: Any) -> TrainingConfig:
        """A checked copy with other values."""
        values = {name: getattr(self, name) for name in field_types(type(self))}
        return type(self)(**{**values, **updates})

    def check_supported(self) -> None:
        """Raises ConfigurationError for fields that are part of the format but not built."""
        if self.ema_decay is not None:
            raise self.refuse("ema_decay is not supported: no averaged copy of the model is kept")
        if self.model_overrides:
            raise self.refuse("model_overrides is not supported: override the model's own fields")

    def _validate(self) -> None:
        self._at_least(1, "total_steps", "batch_size", "sequence_length")
        self._at_least(1, "gradient_accumulation_steps", "num_envs", "eval_episodes", "nproc")
        self._at_least(1, "log_interval", "save_interval")
        self._at_least(0, "eval_interval", "warmup_steps", "seed", "save_seconds")
        if self.env_steps is not None:
            self._at_least(1, "env_steps")
        for name in ("batch_size", "num_envs"):
            if getattr(self, name) % self.nproc:
                text = f"{name} must be a multiple of nproc={self.nproc}, which share it"
                raise self.refuse(f"{text}; got {getattr(self, name)}")
        self._one_of("env_mode", ("auto", "sync", "async"))
        self._one_of("backend", ("native_torch",))
        self._check_device()
        if not self.output_dir.strip():
            raise self.refuse("output_dir must name a folder, got an empty text")
        self._check_optimizer()
        self._check_precision()

    def _check_optimizer(self) -> None:
        self._above(0, "learning_rate")
        self._at_least(0, "grad_clip", "weight_decay", "agc")
        self._one_of("optimizer", OPTIMIZERS)
        self._one_of("scheduler", SCHEDULERS)
        self._between("beta1", 0, 1, "[)")
        self._between("beta2", 0, 1, "[)")
        self._between("ema_decay", 0, 1, "()")
        if self.agc and self.optimizer != "laprop":
            raise self.refuse(f"agc acts in optimizer laprop only, not in {self.optimizer}")
        if self.optimizer_eps is not None:
            self._above(0, "optimizer_eps")
        if self.optimizer == "sgd" and (self.optimizer_eps is not None or self.beta2 != 0.999):
            raise self.refuse("optimizer sgd has neither optimizer_eps nor beta2; leave them out")

    def _check_precision(self) -> None:
        self._one_of("mixed_precision_dtype", ("float16", "bfloat16"))
        if self.mixed_precision and self.mixed_precision_dtype == "float16":
            if self.device in ("cpu", "mps"):
                text = f"mixed_precision_dtype float16 needs CUDA, but device is {self.device}"
                raise self.refuse(f"{text}; use bfloat16")


@dataclass
class LoggerConfig(CheckedConfig):
    """Where metrics go besides `metrics.jsonl`, which is always written."""

    tensorboard: bool = True
