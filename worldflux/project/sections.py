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
    """obs_shape: channels first for images; one number n is `[n]`. action_dim: number of discrete
    actions, or width of continuous ones. Both are read off the environment where they are left
    out, and hidden_dim is then the preset's."""

    obs_shape: tuple[int, ...] = option((3, 64, 64), at_least=1)
    action_dim: int = option(6, at_least=1)
    hidden_dim: int = option(32, at_least=1)
    action_type: str = option("", choices=("", "discrete", "continuous"))


@dataclass(frozen=True)
class Training(Section):
    """total_steps: gradient updates. output_dir: the run folder, seen from where the command is
    typed."""

    total_steps: int = option(100_000, at_least=1)
    batch_size: int = option(16, at_least=1)
    sequence_length: int = option(50, at_least=1)
    learning_rate: float = option(3e-4, above=0)
    device: str = option("cpu", pattern=DEVICE)
    backend: str = option(NATIVE, pattern=BACKEND)
    backend_profile: str = option("", check=plain_text)
    output_dir: str = option("./outputs", check=plain_text, strip=True)


@dataclass(frozen=True)
class Data(Section):
    """source: `gym` collects in gym_env, `random` is noise. num_episodes, episode_length: how much
    is collected beforehand where online_collection is off, and the length of noise."""

    source: str = option("random", choices=("random", "gym"), strip=True, lower=True)
    num_episodes: int = option(100, at_least=1)
    episode_length: int = option(100, at_least=1)
    buffer_capacity: int = option(10_000, at_least=1)
    gym_env: str = option("", check=plain_text, strip=True)


@dataclass(frozen=True)
class OnlineCollection(Section):
    """warmup_transitions: random steps before the first update. collect_steps_per_update: then
    environment steps for each update. max_episode_steps: where an episode is cut."""

    enabled: bool = False
    warmup_transitions: int = option(512, at_least=0)
    collect_steps_per_update: int = option(64, at_least=1)
    max_episode_steps: int = option(100, at_least=1)


@dataclass(frozen=True)
class Inference(Section):
    """horizon: steps that inference.py imagines. checkpoint: a run folder, a checkpoint folder, or
    a checkpoint's older name in a run folder (checkpoint_best.pt)."""

    horizon: int = option(15, at_least=1)
    checkpoint: str = option("./outputs/checkpoint_best.pt", check=plain_text, strip=True)


@dataclass(frozen=True)
class Verify(Section):
    """What `worldflux verify` does without flags."""

    baseline: str = option(f"official/{DEFAULT.name}", check=plain_text)
    env: str = option("atari/pong", check=plain_text)
    backend: str = option(NATIVE, pattern=BACKEND)
    backend_profile: str = option("", check=plain_text)
    mode: str = option("auto", choices=("auto", "quick", "proof"))
    proof_claim: str = option("compare", choices=("compare", "official_only"))
    allow_official_only: bool = False


@dataclass(frozen=True)
class Cloud(Section):
    """Accepted and ignored: runs are local."""

    gpu_type: str = option("a100", check=plain_text)
    spot: bool = True
    region: str = option("us-east-1", check=plain_text)
    timeout_hours: int = option(24, at_least=0)


@dataclass(frozen=True)
class Flywheel(Section):
    """Accepted and ignored: nothing is sent anywhere."""

    opt_in: bool = False
    privacy_epsilon: float = 1.0
    privacy_delta: float = 1e-5


@dataclass(frozen=True)
class Head(Section):
    """The keys above all sections; an empty text has a default that depends on others."""

    project_name: str = option("", check=plain_text)
    environment: str = option("custom", check=plain_text)
    model: str = option("", check=plain_text)
    model_type: str = option("", check=plain_text)


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
