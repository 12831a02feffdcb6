"""How a model is trained and logged: the `training` and `logger` groups, and the Python API."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from worldflux.config.base import CheckedConfig
from worldflux.config.options import DEVICE, option

OPTIMIZERS = ("laprop", "adamw", "adam", "sgd")
SCHEDULERS = ("none", "linear", "cosine", "constant")
# Fields of other versions, by the reason why there are none here, with the values that did nothing.
_RETIRED: dict[str, dict[str, Any]] = {
    "set total_steps, batch_size and sequence_length": {
        "instant_mode": False,
        "instant_total_steps": 8,
        "instant_batch_size": 8,
        "instant_sequence_length": 10,
    },
    "nproc=N trains with several processes": {
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
    },
    "batches are sampled from memory in the training process": {
        "num_workers": 0,
        "prefetch_factor": 2,
        "pin_memory": True,
        "persistent_workers": True,
        "prefetch_batches": 2,
    },
    "activations are kept": {"use_gradient_checkpointing": False, "checkpoint_layers": []},
    "runs are judged by evaluation in the environment": {"auto_quality_check": True},
    "scripts/benchmark.py measures speed": {"profile": False},
    "there is one backend, native_torch": {"backend_profile": ""},
}


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
        name: reason for reason, fields in _RETIRED.items() for name in fields
    }
    legacy: ClassVar[dict[str, Any]] = {
        name: value for fields in _RETIRED.values() for name, value in fields.items()
    }

    total_steps: int = option(100_000, at_least=1, resumable=True)
    env_steps: int | None = option(None, at_least=1, resumable=True)
    batch_size: int = option(16, at_least=1)
    sequence_length: int = option(50, at_least=1)
    learning_rate: float = option(3e-4, above=0)
    optimizer: str = option("adamw", choices=OPTIMIZERS)
    scheduler: str = option("none", choices=SCHEDULERS)
    warmup_steps: int = option(0, at_least=0)
    weight_decay: float = option(0.0, at_least=0)
    grad_clip: float = option(100.0, at_least=0)
    agc: float = option(0.0, at_least=0)
    optimizer_eps: float | None = option(None, above=0)
    beta1: float = option(0.9, at_least=0, below=1)
    beta2: float = option(0.999, at_least=0, below=1)
    gradient_accumulation_steps: int = option(1, at_least=1)
    mixed_precision: bool = option(False, resumable=True)
    mixed_precision_dtype: str = option("float16", choices=("float16", "bfloat16"), resumable=True)
    compile_model: bool = option(False, resumable=True)
    device: str = option("auto", pattern=DEVICE, machine=True)
    seed: int = option(42, at_least=0, at_most=2**64 - 1)
    nproc: int = option(1, at_least=1, at_most=1_024)
    num_envs: int = option(1, at_least=1, at_most=100_000)
    env_mode: str = option("auto", choices=("auto", "sync", "async"), machine=True)
    log_interval: int = option(100, at_least=1, machine=True)
    eval_interval: int = option(1000, at_least=0, resumable=True)
    eval_episodes: int = option(10, at_least=1, resumable=True)
    save_interval: int = option(10_000, at_least=1, machine=True)
    save_seconds: float = option(300.0, at_least=0, machine=True)
    output_dir: str = option("./outputs", machine=True)
    ema_decay: float | None = option(None, above=0, below=1)
    model_overrides: dict[str, Any] = option(factory=dict)
    backend: str = option("native_torch", choices=("native_torch",))

    def resolve_device(self) -> str:
        """`device`, with `auto` as `cuda` if CUDA is available, else `cpu`."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def check_device(self) -> None:
        """ConfigurationError: this machine has no such device, or it lacks the precision."""
        float16 = self.mixed_precision and self.mixed_precision_dtype == "float16"
        if self.device == "cpu" or (self.device == "auto" and not float16):
            return
        import torch

        if self.device == "auto":
            if not torch.cuda.is_available():
                text = "float16 needs CUDA, which this machine lacks"
                raise self.refuse("mixed_precision_dtype", text, "use bfloat16")
            return
        kind, _, number = self.device.partition(":")
        count = torch.cuda.device_count() if kind == "cuda" else torch.backends.mps.is_available()
        if int(number or 0) >= count:
            raise self.refuse("device", f"is {self.device}, which this machine lacks", "use cpu")

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
        return replace(self, **updates)

    def check_supported(self) -> None:
        """Raises ConfigurationError for fields that are part of the format but not built."""
        if self.ema_decay is not None:
            raise self.refuse(
                "ema_decay", "is not supported: no averaged copy of the model is kept"
            )
        if self.model_overrides:
            text = "is not supported: override the model's own fields"
            raise self.refuse("model_overrides", text)

    def _validate(self) -> None:
        for name in ("batch_size", "num_envs"):
            if getattr(self, name) % self.nproc:
                text = f"must be a multiple of nproc={self.nproc}, which share it"
                raise self.refuse(name, f"{text}; got {getattr(self, name)}")
        if not self.output_dir.strip():
            raise self.refuse("output_dir", "must name a folder, got an empty text")
        if self.agc and self.optimizer != "laprop":
            raise self.refuse("agc", f"acts in optimizer laprop only, not in {self.optimizer}")
        if self.optimizer == "sgd" and (self.optimizer_eps is not None or self.beta2 != 0.999):
            text, hint = "sgd has neither optimizer_eps nor beta2", "leave them out"
            raise self.refuse("optimizer", text, hint)
        if self.mixed_precision and self.mixed_precision_dtype == "float16":
            if self.device in ("cpu", "mps"):
                text = f"float16 needs CUDA, but device is {self.device}"
                raise self.refuse("mixed_precision_dtype", text, "use bfloat16")


@dataclass
class LoggerConfig(CheckedConfig):
    """Where metrics go besides `metrics.jsonl`, which is always written: one field for each row of
    worldflux/training/loggers.py."""

    tensorboard: bool = True

    def names(self) -> list[str]:
        """The loggers that are switched on."""
        return [name for name, on in self.to_dict().items() if on]
