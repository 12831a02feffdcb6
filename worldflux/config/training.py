"""How a model is trained: the `training` group, and the Python API."""

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
    """Fields of one training run. A step is one gradient update, never an environment step."""

    removed: ClassVar[dict[str, str]] = {
        name: reason for reason, fields in _RETIRED.items() for name in fields
    }
    legacy: ClassVar[dict[str, Any]] = {
        name: value for fields in _RETIRED.values() for name, value in fields.items()
    }

    total_steps: int = option(
        100_000,
        at_least=1,
        resumable=True,
        unit="updates",
        help="Length of the run; schedules end with it. More can be given on resume.",
    )
    env_steps: int | None = option(
        None,
        at_least=1,
        resumable=True,
        unit="environment steps",
        help="Stops the run at so many steps of the environment, if that comes before total_steps; null: no such limit.",
    )
    batch_size: int = option(
        16,
        at_least=1,
        unit="sequences",
        help="Sequences in a batch. Lower it, or raise gradient_accumulation_steps, when memory runs out.",
    )
    sequence_length: int = option(
        50,
        at_least=1,
        unit="environment steps",
        help="Trained time steps of each sequence, the replay context not counted. Longer carries gradients further back and costs memory in proportion.",
    )
    learning_rate: float = option(
        3e-4,
        above=0,
        help="Peak step size of the optimizer, after warmup_steps and before the scheduler lowers it. Lower it when returns swing late in a run.",
    )
    optimizer: str = option(
        "adamw",
        choices=OPTIMIZERS,
        help="laprop (RMS-normalised gradients, then momentum, with agc), adamw, adam or sgd.",
    )
    scheduler: str = option(
        "none",
        choices=SCHEDULERS,
        help="How the learning rate goes on after the warm-up: cosine and linear fall to 0 at total_steps; none and constant keep it.",
    )
    warmup_steps: int = option(
        0,
        at_least=0,
        unit="updates",
        help="The learning rate rises linearly from 0 over so many updates.",
    )
    weight_decay: float = option(
        0.0,
        at_least=0,
        help="Decoupled decay of the parameters for each unit of learning rate (laprop: of matrices only); 0 is off.",
    )
    grad_clip: float = option(
        100.0,
        at_least=0,
        help="Largest global norm of the gradient; a larger one is scaled down to it. 0 is off.",
    )
    agc: float = option(
        0.0,
        at_least=0,
        help="Adaptive gradient clipping of laprop: largest norm of a tensor's gradient as a fraction of the tensor's own norm. 0 is off.",
    )
    optimizer_eps: float | None = option(
        None,
        above=0,
        help="Number that keeps the optimizer from dividing by zero; null is the optimizer's own.",
    )
    beta1: float = option(
        0.9, at_least=0, below=1, help="Decay of the optimizer's momentum (sgd: its momentum)."
    )
    beta2: float = option(
        0.999,
        at_least=0,
        below=1,
        help="Decay of the optimizer's mean square of gradients; sgd has none.",
    )
    gradient_accumulation_steps: int = option(
        1,
        at_least=1,
        unit="batches",
        help="Batches whose gradients are averaged into one update: an update sees so many times batch_size sequences, in the memory of one batch. DreamerV3 only.",
    )
    mixed_precision: bool = option(
        False,
        resumable=True,
        help="Computes the update in mixed_precision_dtype where that is safe; parameters and optimizer stay float32. Turn it on for a GPU.",
    )
    mixed_precision_dtype: str = option(
        "float16",
        choices=("float16", "bfloat16"),
        resumable=True,
        help="Type of mixed precision; float16 needs CUDA and scales the loss, bfloat16 runs everywhere.",
    )
    compile_model: bool = option(
        False,
        resumable=True,
        help="Compiles the update with torch.compile: minutes at the start, then faster updates. For long runs and large models.",
    )
    keep_memory: bool = option(
        True,
        machine=True,
        help="Memory that an update frees stays with the process for the next one instead of going back to the system: a third less time on pictures. glibc only.",
    )
    device: str = option(
        "auto",
        pattern=DEVICE,
        machine=True,
        help="Where the model lives: auto takes CUDA if there is one, else the CPU; cuda:N is one of several.",
    )
    seed: int = option(
        42,
        at_least=0,
        at_most=2**64 - 1,
        help="Seed of every random stream of the run: parameters, actions, replay, environments. Change it to repeat an experiment.",
    )
    nproc: int = option(
        1,
        at_least=1,
        at_most=1_024,
        unit="processes",
        help="Processes that train one agent together, each with its share of batch_size and num_envs, which must be multiples of it.",
    )
    num_envs: int = option(
        1,
        at_least=1,
        at_most=100_000,
        unit="environments",
        help="Environments that are stepped together, over all processes and tasks.",
    )
    env_mode: str = option(
        "auto",
        choices=("auto", "sync", "async"),
        machine=True,
        help="sync steps the environments in turn, async each in a process of its own, beside each other and beside the update, which pays where a step costs more than about a millisecond; auto is sync.",
    )
    log_interval: int = option(
        100,
        at_least=1,
        machine=True,
        unit="updates",
        help="Updates between two records of train/ metrics; each is the mean since the last.",
    )
    eval_interval: int = option(
        1000,
        at_least=0,
        resumable=True,
        unit="updates",
        help="Updates between two evaluations; 0: only at the end.",
    )
    video_interval: int = option(
        0,
        at_least=0,
        resumable=True,
        unit="updates",
        help="Updates between two videos of a greedy episode, in videos/, the loggers and the page; 0: none.",
    )
    model_eval_interval: int = option(
        0,
        at_least=0,
        resumable=True,
        unit="updates",
        help="Updates between two measurements of the world model on eval_episodes fresh episodes (docs/measure.md); 0: none.",
    )
    eval_episodes: int = option(
        10,
        at_least=1,
        resumable=True,
        unit="episodes",
        help="Greedy episodes of each evaluation (of each task, with several). More narrow the interval of eval/return.",
    )
    eval_envs: int | None = option(
        None,
        at_least=0,
        resumable=True,
        unit="environments",
        help="Environments that evaluation opens at once (of each task); null: one per episode, at most 10, and fewer where no more can be made; 0: none, it plays in those of the training, whose episodes go on after it.",
    )
    eval_time_limit: int | None = option(
        None,
        at_least=1,
        resumable=True,
        unit="environment steps",
        help="Cuts an evaluation episode after so many steps of the agent; null: as in training. For tasks that may never end.",
    )
    save_interval: int = option(
        10_000, at_least=1, machine=True, unit="updates", help="Updates between two checkpoints."
    )
    save_seconds: float = option(
        300.0,
        at_least=0,
        machine=True,
        unit="seconds",
        help="Also saves when the last save is so long ago, unless saving would then take more than 2 % of the time; 0 is off. It bounds what a kill costs.",
    )
    output_dir: str = option(
        "./outputs",
        machine=True,
        help="Folder that dated run folders are made in, seen from where the command is typed.",
    )
    ema_decay: float | None = option(
        None,
        above=0,
        below=1,
        help="Of the wider format; anything but null is refused, as no averaged copy of the model is kept.",
    )
    model_overrides: dict[str, Any] = option(
        factory=dict,
        help="Of the wider format; anything but an empty mapping is refused: override the model's own fields.",
    )
    backend: str = option(
        "native_torch",
        choices=("native_torch",),
        help="Of the wider format; there is one, native_torch.",
    )

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
