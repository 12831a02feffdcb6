"""The sections of worldflux.toml: every key with its type, its default and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from worldflux.config.base import DEVICE, DEVICES
from worldflux.config.fields import check_names, coerce, field_types, near_miss
from worldflux.errors import ConfigurationError

# A rule: what is wrong with a value, or None.
Rule = Callable[[Any], str | None]

LARGEST = 2**53  # whole numbers up to here are exact in JSON and in every reader of it
# Texts that Hydra would take for a reference or for a missing value.
_REFERENCE, _MISSING = "${", "???"
NATIVE = "native_torch"
DELEGATED = "_subprocess"  # backends of the older package that ran another program


def within(low: int, high: int = LARGEST) -> Rule:
    def rule(value: Any) -> str | None:
        if value < low:
            return f"must be >= {low}, got {shown(value)}"
        return f"must be <= {high}, got {shown(value)}" if value > high else None

    return rule


def above(bound: float) -> Rule:
    return lambda value: None if value > bound else f"must be > {bound:g}, got {value:g}"


def one_of(*options: str) -> Rule:
    def rule(value: Any) -> str | None:
        if value in options:
            return None
        named = ", ".join(repr(option) for option in options)
        return f"must be one of {named}; got {shown(value)}.{near_miss(value[:40], options)}"

    return rule


def plain_text(value: Any) -> str | None:
    """Texts reach Hydra, the manifest and the page, so they are one line and no reference."""
    if not value.isprintable():
        return f"must be one line of printable text, got {shown(value)}"
    if _REFERENCE in value or value == _MISSING:
        return f"must not be a reference: {_REFERENCE!r} and {_MISSING!r} have a meaning in Hydra"
    return None


def shape(value: Any) -> str | None:
    if not value or min(value) < 1 or max(value) > LARGEST:
        got = [*map(shown, value[:5])]
        return f"must hold whole numbers above 0, such as [3, 64, 64]; got [{', '.join(got)}]"
    return None


def device(value: Any) -> str | None:
    if DEVICE.fullmatch(value):
        return None
    text = f"must be auto, cpu, cuda, cuda:N or mps; got {shown(value)}."
    return text + near_miss(value[:40], DEVICES)


def backend(value: Any) -> str | None:
    if value == NATIVE or (value.endswith(DELEGATED) and value != DELEGATED):
        return None
    text = f"must be {NATIVE!r} (or an ignored '*{DELEGATED}'); got {shown(value)}."
    return text + near_miss(value[:40], [NATIVE])


def shown(value: Any) -> str:
    """A value as a line can hold it."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def key(default: Any, *rules: Rule, strip: bool = False, lower: bool = False) -> Any:
    """A key of a section. strip: surrounding blanks are dropped, and an empty text is the default;
    lower: upper and lower case are one."""
    return field(default=default, metadata={"rules": rules, "strip": strip, "lower": lower})


class Section:
    """A checked, immutable record. ConfigurationError begins with the name of the wrong key."""

    removed: ClassVar[dict[str, str]] = {}

    def __new__(cls, *args: Any, **given: Any) -> Section:
        check_names(cls, given, cls.removed, "")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, item.name, self._checked(item, getattr(self, item.name)))

    def _checked(self, item: Any, value: Any) -> Any:
        hint = field_types(type(self))[item.name]
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ConfigurationError(f"{item.name} must be within 2^53, got {shown(value)}")
        value = coerce(value, hint, item.name, _refuse)
        if item.metadata["strip"]:
            value = value.strip() or item.default
        if item.metadata["lower"]:
            value = value.lower()
        for rule in item.metadata["rules"]:
            wrong = rule(value)
            if wrong:
                raise ConfigurationError(f"{item.name} {wrong}")
        return value


def _refuse(text: str) -> ConfigurationError:
    return ConfigurationError(text if len(text) < 200 else f"{text[:197]}...")


@dataclass(frozen=True)
class Architecture(Section):
    """obs_shape: channels first for images; one number n is `[n]`. action_dim: number of discrete
    actions, or width of continuous ones. Both are read off the environment where they are left
    out, and hidden_dim is then the preset's."""

    obs_shape: tuple[int, ...] = key((3, 64, 64), shape)
    action_dim: int = key(6, within(1))
    hidden_dim: int = key(32, within(1))
    action_type: str = key("", one_of("", "discrete", "continuous"))


@dataclass(frozen=True)
class Training(Section):
    """total_steps: gradient updates. output_dir: the run folder, seen from where the command is
    typed."""

    total_steps: int = key(100_000, within(1))
    batch_size: int = key(16, within(1))
    sequence_length: int = key(50, within(1))
    learning_rate: float = key(3e-4, above(0))
    device: str = key("cpu", device)
    backend: str = key(NATIVE, backend)
    backend_profile: str = key("", plain_text)
    output_dir: str = key("./outputs", plain_text, strip=True)


@dataclass(frozen=True)
class Data(Section):
    """source: `gym` collects in gym_env, `random` is noise. num_episodes, episode_length: how much
    is collected beforehand where online_collection is off, and the length of noise."""

    source: str = key("random", one_of("random", "gym"), strip=True, lower=True)
    num_episodes: int = key(100, within(1))
    episode_length: int = key(100, within(1))
    buffer_capacity: int = key(10_000, within(1))
    gym_env: str = key("", plain_text, strip=True)


@dataclass(frozen=True)
class Gameplay(Section):
    """Frames of the training environment on the dashboard. fps: frames per second at most;
    max_frames: how many are kept."""

    enabled: bool = key(False)
    fps: int = key(8, within(1, 1_000))
    max_frames: int = key(512, within(1, 100_000))


@dataclass(frozen=True)
class OnlineCollection(Section):
    """warmup_transitions: random steps before the first update. collect_steps_per_update: then
    environment steps for each update. max_episode_steps: where an episode is cut."""

    enabled: bool = key(False)
    warmup_transitions: int = key(512, within(0))
    collect_steps_per_update: int = key(64, within(1))
    max_episode_steps: int = key(100, within(1))


@dataclass(frozen=True)
class Inference(Section):
    """horizon: steps that inference.py imagines. checkpoint: a run folder, a checkpoint folder, or
    a checkpoint's older name in a run folder (checkpoint_best.pt)."""

    horizon: int = key(15, within(1))
    checkpoint: str = key("./outputs/checkpoint_best.pt", plain_text, strip=True)


@dataclass(frozen=True)
class Visualization(Section):
    """The live dashboard. refresh_ms: how often the page asks. history_max_points: points kept."""

    enabled: bool = key(False)
    host: str = key("127.0.0.1", plain_text, strip=True)
    port: int = key(8765, within(1, 65_535))
    refresh_ms: int = key(1_000, within(1, 3_600_000))
    history_max_points: int = key(2_000, within(1, 10_000_000))
    open_browser: bool = key(False)


@dataclass(frozen=True)
class Verify(Section):
    """What `worldflux verify` does without flags."""

    baseline: str = key("official/dreamerv3", plain_text)
    env: str = key("atari/pong", plain_text)
    backend: str = key(NATIVE, backend)
    backend_profile: str = key("", plain_text)
    mode: str = key("auto", one_of("auto", "quick", "proof"))
    proof_claim: str = key("compare", one_of("compare", "official_only"))
    allow_official_only: bool = key(False)


@dataclass(frozen=True)
class Cloud(Section):
    """Accepted and ignored: runs are local."""

    gpu_type: str = key("a100", plain_text)
    spot: bool = key(True)
    region: str = key("us-east-1", plain_text)
    timeout_hours: int = key(24, within(0))


@dataclass(frozen=True)
class Flywheel(Section):
    """Accepted and ignored: nothing is sent anywhere."""

    opt_in: bool = key(False)
    privacy_epsilon: float = key(1.0)
    privacy_delta: float = key(1e-5)


SECTIONS: dict[str, type[Section]] = {
    "architecture": Architecture,
    "training": Training,
    "data": Data,
    "gameplay": Gameplay,
    "online_collection": OnlineCollection,
    "inference": Inference,
    "visualization": Visualization,
    "verify": Verify,
    "cloud": Cloud,
    "flywheel": Flywheel,
}
IGNORED = ("cloud", "flywheel")
