"""The sections of worldflux.toml: every key with its type, its default and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import field_types
from worldflux.config.options import DEVICE, Pattern, option, plain_text
from worldflux.config.page import Gameplay, Visualization
from worldflux.models.families import DEFAULT

NATIVE = "native_torch"
DELEGATED = "_subprocess"  # backends of the older package that ran another program
BACKEND = Pattern(
    f"{NATIVE}|.+{DELEGATED}", f"{NATIVE!r} (or an ignored '*{DELEGATED}')", (NATIVE,)
)


class Section(CheckedConfig):
    """An immutable record, whose file is TOML."""

    quoted: ClassVar[bool] = True


@dataclass(frozen=True)
class Architecture(Section):
    """Sizes of the model, read off the environment where they are left out."""

    obs_shape: tuple[int, ...] = option(
        (3, 64, 64),
        at_least=1,
        help="Shape of the observation, channels first for images; [n] is a vector. Read off the environment where it is left out.",
    )
    action_dim: int = option(
        6,
        at_least=1,
        help="Number of discrete actions, or width of continuous ones. Read off the environment where it is left out.",
    )
    hidden_dim: int = option(
        32, at_least=1, help="Width of the hidden layers; the preset's where it is left out."
    )
    action_type: str = option(
        "",
        choices=("", "discrete", "continuous"),
        help="discrete or continuous; read off the environment where it is left out.",
    )


@dataclass(frozen=True)
class Training(Section):
    """How long and on what is trained."""

    total_steps: int = option(
        100_000,
        at_least=1,
        unit="updates",
        help="Length of the training; it ends earlier once the task is solved.",
    )
    batch_size: int = option(
        16,
        at_least=1,
        unit="sequences",
        help="Sequences of each update; lower it when memory runs out.",
    )
    sequence_length: int = option(
        50, at_least=1, unit="environment steps", help="Time steps of each sequence."
    )
    learning_rate: float = option(
        3e-4, above=0, help="Step size of the optimizer; lower it when returns swing."
    )
    device: str = option(
        "cpu",
        pattern=DEVICE,
        help="auto takes CUDA if there is one, else the CPU; cuda:N is one of several.",
    )
    backend: str = option(
        NATIVE,
        pattern=BACKEND,
        help="native_torch; other backends of older files are named as ignored.",
    )
    backend_profile: str = option("", check=plain_text, help="Of older files; named as ignored.")
    output_dir: str = option(
        "./outputs",
        check=plain_text,
        strip=True,
        help="The run folder, seen from where the command is typed.",
    )


@dataclass(frozen=True)
class Data(Section):
    """Where experience comes from."""

    source: str = option(
        "random",
        choices=("random", "gym"),
        strip=True,
        lower=True,
        help="gym collects in gym_env, random is noise of the sizes in [architecture].",
    )
    num_episodes: int = option(
        100,
        at_least=1,
        unit="episodes",
        help="Collected once before training, where online_collection is off.",
    )
    episode_length: int = option(
        100, at_least=1, unit="environment steps", help="Length of those episodes, and of noise."
    )
    buffer_capacity: int = option(
        10_000, at_least=1, unit="environment steps", help="Steps that the replay keeps in memory."
    )
    gym_env: str = option(
        "",
        check=plain_text,
        strip=True,
        help="Any Gymnasium id, or dmc/walker-walk for a task of the DeepMind Control Suite.",
    )


@dataclass(frozen=True)
class OnlineCollection(Section):
    """Collecting while training."""

    enabled: bool = option(False, help="Collects while training, instead of once before it.")
    warmup_transitions: int = option(
        512, at_least=0, unit="environment steps", help="Random steps before the first update."
    )
    collect_steps_per_update: int = option(
        64,
        at_least=1,
        unit="environment steps",
        help="Steps collected for each update afterwards; fewer train more on each.",
    )
    max_episode_steps: int = option(
        100,
        at_least=1,
        unit="environment steps",
        help="Where an episode is cut, in evaluations too: it is part of the task.",
    )


@dataclass(frozen=True)
class Inference(Section):
    """What inference.py does."""

    horizon: int = option(
        15, at_least=1, unit="environment steps", help="Steps that inference.py imagines."
    )
    checkpoint: str = option(
        "./outputs/checkpoint_best.pt",
        check=plain_text,
        strip=True,
        help="What inference.py opens: a run folder, a checkpoint folder, or a checkpoint's older name in a run folder (checkpoint_best.pt).",
    )


@dataclass(frozen=True)
class Verify(Section):
    """What `worldflux verify` does without flags."""

    baseline: str = option(
        f"official/{DEFAULT.name}",
        check=plain_text,
        help="Kept for older files: worldflux verify takes the family of the run.",
    )
    env: str = option(
        "atari/pong",
        check=plain_text,
        help="Kept for older files: worldflux verify takes the environment of the run.",
    )
    backend: str = option(
        NATIVE,
        pattern=BACKEND,
        help="native_torch; other backends of older files are named as ignored.",
    )
    backend_profile: str = option("", check=plain_text, help="Of older files; named as ignored.")
    mode: str = option(
        "auto",
        choices=("auto", "quick", "proof"),
        help="What worldflux verify does without --mode: quick plays the trained policy again, proof compares seeds with published ones, auto chooses.",
    )
    proof_claim: str = option(
        "compare",
        choices=("compare", "official_only"),
        help="Kept for older files: worldflux verify compares.",
    )
    allow_official_only: bool = option(
        False, help="Kept for older files: worldflux verify compares."
    )


@dataclass(frozen=True)
class Cloud(Section):
    """Accepted and ignored: runs are local."""

    gpu_type: str = option("a100", check=plain_text, help="Accepted and ignored: runs are local.")
    spot: bool = option(True, help="Accepted and ignored: runs are local.")
    region: str = option(
        "us-east-1", check=plain_text, help="Accepted and ignored: runs are local."
    )
    timeout_hours: int = option(
        24, at_least=0, unit="hours", help="Accepted and ignored: runs are local."
    )


@dataclass(frozen=True)
class Flywheel(Section):
    """Accepted and ignored: nothing is sent anywhere."""

    opt_in: bool = option(False, help="Accepted and ignored: nothing is sent anywhere.")
    privacy_epsilon: float = option(1.0, help="Accepted and ignored: nothing is sent anywhere.")
    privacy_delta: float = option(1e-5, help="Accepted and ignored: nothing is sent anywhere.")


@dataclass(frozen=True)
class Head(Section):
    """The keys above all sections; an empty text has a default that depends on others."""

    project_name: str = option(
        "",
        check=plain_text,
        help="Name of the project, for titles; the folder's where it is left out.",
    )
    environment: str = option(
        "custom",
        check=plain_text,
        help="What kind of task it is, for titles and defaults: cartpole, pendulum, atari, mujoco or custom.",
    )
    model: str = option(
        "", check=plain_text, help="family:size, such as those that worldflux models lists."
    )
    model_type: str = option(
        "", check=plain_text, help="The family again; left out, that of model."
    )


@dataclass(frozen=True)
class Sections:
    """The tables of a file."""

    architecture: Architecture
    training: Training
    data: Data
    gameplay: Gameplay
    online_collection: OnlineCollection
    inference: Inference
    visualization: Visualization
    verify: Verify
    cloud: Cloud
    flywheel: Flywheel


SECTIONS: dict[str, type[CheckedConfig]] = field_types(Sections)
IGNORED = ("cloud", "flywheel")
