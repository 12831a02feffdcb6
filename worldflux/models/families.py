"""The one table of model families: what each is called, where its parts are, what differs by family.

Nothing of a family is imported before it is used: parts are named `module:attribute`. An installed
package joins the table with an entry point of the group `worldflux.models`, whose name is the
family's: a class of models (its ``config_class`` is the configuration), or a `Family`. Its YAML
groups lie in a folder ``conf`` beside the module of the entry point.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from worldflux.errors import ConfigurationError

ENTRY_POINTS = "worldflux.models"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Settings of `worldflux init` that suit a kind of observation on a laptop."""

    size: str
    total_steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float
    buffer_capacity: int
    warmup_transitions: int
    collect_steps_per_update: int


@dataclass(frozen=True)
class Family:
    """One family of models.

    name: what ``model=`` and ``family:size`` call it. title: its name in prose.
    config, model, agent: the classes of its configuration (a WorldModelConfig), models and agents,
        as `module:attribute`. A model is made from its configuration, an agent from model,
        TrainingConfig, device, optimizer and scheduler; without `agent`, models have a `make_agent`.
    model_type: what its saved configurations say; the name unless given.
    synonyms: more names for ``family:size``. aliases: name -> size, for models named in one word.
    described_by: fields that identify a size to a reader.
    latent: entries of the agent's carry that are the latent to picture; none: the encoding of the
        newest observation is.
    official: module with `import_checkpoint` (which returns an `Imported`), `IMPORT_HELP` and, where
        it can, `add_arguments`, `export_checkpoint`, and `recognises` and `load_checkpoint`, by which
        a checkpoint is played as it is. published: module with the SOURCE, ADDRESS and SCORE_OF of published
        returns, and `task_of`, from a run's manifest to suite and name of its published task.
    exported: function that makes the PolicyStep to export of an agent, as `module:attribute`.
    metrics: mapping from what its agent's `update` logs to a sentence on each, as `module:attribute`;
        ``<key>`` in a name stands for any text.
    toml_name: what worldflux.toml calls it; the name unless given. evaluations: into how many parts
        they divide a training that worldflux.toml describes. recipes: of `worldflux init`, by
        ``vector`` and ``image``.
    conf: folder of its YAML groups; None: those of worldflux itself.
    """

    name: str
    title: str
    config: str
    model: str
    agent: str = ""
    model_type: str = ""
    synonyms: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    described_by: tuple[str, ...] = ("hidden_dim",)
    latent: tuple[str, ...] = ()
    official: str | None = None
    published: str | None = None
    metrics: str = ""
    exported: str = ""
    toml_name: str = ""
    evaluations: int = 20
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    conf: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_type", self.model_type or self.name)
        object.__setattr__(self, "toml_name", self.toml_name or self.name)

    def config_class(self) -> type[Any]:  # this table stands below the configuration
        """The family's configuration class, a WorldModelConfig."""
        return resolve_name(self.config)

    def model_class(self) -> type[Any]:
        """The family's class of models; imports torch."""
        return resolve_name(self.model)

    def agent_class(self) -> type[Any]:
        """The family's class of agents; ConfigurationError where its models make theirs."""
        if not self.agent:
            raise ConfigurationError(f"the family {self.name!r} names no class of agents")
        return resolve_name(self.agent)

    def official_module(self) -> ModuleType | None:
        """What reads checkpoints of the official code; None: nothing does."""
        return None if self.official is None else importlib.import_module(self.official)

    def published_module(self) -> ModuleType | None:
        """What knows the published returns of the family; None: there are none."""
        return None if self.published is None else importlib.import_module(self.published)

    def metric_sentences(self) -> Mapping[str, str]:
        """A sentence on each metric of its training, by name; empty where it names none."""
        return resolve_name(self.metrics) if self.metrics else {}


OURS = (
    Family(
        name="dreamerv3",
        title="DreamerV3",
        config="worldflux.models.dreamerv3.config:DreamerV3Config",
        model="worldflux.models.dreamerv3.world_model:DreamerV3",
        agent="worldflux.models.dreamerv3.agent:DreamerV3Agent",
        model_type="dreamer",
        synonyms=("dreamer",),
        aliases={
            "dreamer": "size12m",
            "dreamerv3": "size12m",
            "dreamer-small": "size12m",
            "dreamer-medium": "size50m",
            "dreamer-large": "size200m",
            "dreamer-ci": "ci",
            "dreamerv3:official": "official_xl",
        },
        described_by=("deter_dim", "stoch_discrete", "stoch_classes", "hidden_dim", "cnn_depth"),
        latent=("deter", "stoch"),
        official="worldflux.models.dreamerv3.official.checkpoint",
        published="worldflux.models.dreamerv3.official.published",
        metrics="worldflux.models.dreamerv3.metrics:METRICS",
        exported="worldflux.models.dreamerv3.exported:policy_step",
        toml_name="dreamer",
        evaluations=30,
        recipes={
            "vector": Recipe("size250k", 3_000, 16, 16, 1e-3, 100_000, 500, 16),
            "image": Recipe("size1m", 20_000, 16, 32, 1e-4, 20_000, 500, 4),
        },
    ),
    Family(
        name="tdmpc2",
        title="TD-MPC2",
        config="worldflux.models.tdmpc2.config:TDMPC2Config",
        model="worldflux.models.tdmpc2.world_model:TDMPC2",
        agent="worldflux.models.tdmpc2.agent:TDMPC2Agent",
        synonyms=("tdmpc",),
        aliases={
            "tdmpc": "5m",
            "tdmpc2": "5m",
            "tdmpc-small": "5m",
            "tdmpc-medium": "48m",
            "tdmpc-large": "317m",
            "tdmpc2-ci": "ci",
            "tdmpc-proof": "proof_5m",
            "tdmpc2:proof": "proof_5m",
            "tdmpc-legacy": "5m_legacy",
        },
        described_by=(
            "latent_dim",
            "hidden_dim",
            "encoder_dim",
            "encoder_layers",
            "num_q_networks",
        ),
        official="worldflux.models.tdmpc2.official.checkpoint",
        published="worldflux.models.tdmpc2.official.published",
        metrics="worldflux.models.tdmpc2.metrics:METRICS",
        exported="worldflux.models.tdmpc2.exported:policy_step",
        # Every planned step of an evaluation costs as much as an update.
        evaluations=10,
        recipes={
            "vector": Recipe("75k", 15_000, 128, 3, 1e-3, 100_000, 1_000, 1),
            "image": Recipe("1m", 20_000, 64, 3, 3e-4, 20_000, 1_000, 1),
        },
    ),
)
DEFAULT = OURS[0]


def installed() -> dict[str, EntryPoint]:
    """Entry points of the families that other packages bring, by name; nothing is imported."""
    ours = {family.name for family in OURS}
    points = _points(entry_points, tuple(sys.path))
    return {point.name: point for point in points if point.name not in ours}


@functools.lru_cache(maxsize=1)  # reads a file of every installed package, some milliseconds
def _points(find: Callable[..., Iterable[EntryPoint]], path: tuple[str, ...]) -> list[EntryPoint]:
    """The entry points that the packages on this path bring."""
    return list(find(group=ENTRY_POINTS))


def names() -> list[str]:
    """What ``model=`` takes; nothing of a family is imported."""
    return [*(family.name for family in OURS), *installed()]


def families() -> list[Family]:
    """The whole table; imports what other packages brought. One that is broken is left out with a
    warning, so that it stops no other family."""
    table = list(OURS)
    for point in installed().values():
        try:
            table.append(_installed(point))
        except ConfigurationError as error:
            warn_broken(str(error))
    return table


@functools.cache  # once for each process
def warn_broken(text: str) -> None:
    """Reports that a part of an installed family is left out."""
    log.warning("%s; it is left out", text)


def family(name: str) -> Family:
    """The family with this name; ConfigurationError: there is none, or its package is broken."""
    return _find(name, lambda one: one.name == name)


def family_of_type(model_type: str) -> Family:
    """The family whose saved configurations say this ``model_type``; ConfigurationError."""
    return _find(model_type, lambda one: one.model_type == model_type)


def is_model_type(model_type: str) -> bool:
    """Whether a family's saved configurations say this; nothing of it is imported."""
    return model_type in model_types()


def model_types() -> dict[str, str]:
    """What saved configurations say -> name; nothing of a family is imported."""
    return {one.model_type: one.name for one in OURS} | {name: name for name in installed()}


def conf_folders() -> dict[str, Path]:
    """Folder of the YAML groups of every installed family that has one; nothing is imported."""
    folders = {name: _conf_beside(point) for name, point in installed().items()}
    return {name: folder for name, folder in folders.items() if folder is not None}


def _find(name: str, fits: Callable[[Family], bool]) -> Family:
    for one in OURS:
        if fits(one):
            return one
    point = installed().get(name)
    if point is None:
        raise ConfigurationError(f"unknown family {name!r}; there are {', '.join(names())}")
    return _installed(point)


@functools.cache
def _installed(point: EntryPoint) -> Family:
    label = f"the installed family {point.name!r} ({point.value})"
    try:
        entry = point.load()
        if not isinstance(entry, Family):
            if not hasattr(entry, "config_class"):
                text = f"{label} is neither a Family nor a model with a config_class"
                raise ConfigurationError(text)
            model = f"{point.module}:{point.attr}"
            entry = Family(point.name, point.name, f"{model}.config_class", model)
        model_type = entry.config_class().__dataclass_fields__["model_type"].default
    except ConfigurationError:
        raise
    except Exception as error:  # whatever the package's own code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"{label} cannot be imported: {reason}") from error
    for name, value in (("", entry.name), ("model_type ", entry.model_type), ("", model_type)):
        if value != point.name:
            raise ConfigurationError(f"{label} calls itself {name}{value!r}")
    return replace(entry, conf=entry.conf or _conf_beside(point))


def _conf_beside(point: EntryPoint) -> Path | None:
    """The folder ``conf`` beside the entry point's module."""
    try:
        spec = importlib.util.find_spec(point.module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    inside = point.module.split(".")[1:-1]
    folder = Path(spec.origin).parent.joinpath(*inside) / "conf"
    return folder if folder.is_dir() else None
