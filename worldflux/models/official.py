"""What reading official checkpoints is for every family."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from worldflux.config.fields import near_miss
from worldflux.config.files import check_yaml, environment_hidden
from worldflux.config.model import WorldModelConfig
from worldflux.errors import ConfigurationError
from worldflux.models.families import families
from worldflux.models.hub import local
from worldflux.models.world_model import WorldModel

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Imported:
    """A model made from an official checkpoint.

    assumed: settings, by their official names, that neither the checkpoint nor the caller named:
    the official defaults. unused: names of a file of settings that say nothing of the model.
    """

    model: WorldModel
    assumed: Mapping[str, Any]
    unused: Sequence[str] = ()

    def lines(self) -> list[str]:
        """What a person should know of it."""
        lines = []
        if self.assumed:
            values = ", ".join(f"{name}={shown(value)}" for name, value in self.assumed.items())
            lines.append(f"assumed, as nothing says otherwise: {values}")
        if self.unused:
            lines.append(f"not used: {', '.join(self.unused)}")
        return lines


@dataclass(frozen=True)
class Named:
    """A setting that the caller named. name: how. loose: the official code may have replaced it, so
    that weights which contradict it are right."""

    name: str
    value: Any
    loose: bool = False


def shown(value: Any) -> str:
    """A value as a line shows it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def importer_of(path: Path) -> ModuleType | None:
    """The module of the family whose official checkpoint a path is; None: it is none."""
    path = local(path)
    for one in families():
        module = one.official_module()
        if module is not None and hasattr(module, "recognises") and module.recognises(path):
            return module
    return None


def add_settings(parser: ArgumentParser) -> None:
    """Where the command line names settings: `config` and `settings` of `import_checkpoint`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings that it was trained with, YAML or JSON, as the official code writes them",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="NAME=VALUE",
        help="single ones, by the official names or ours; they come before --config",
    )


def file_settings(path: Path) -> dict[str, Any]:
    """Settings of a YAML or JSON file by dotted names, without those that are missing (``???``) and
    without Hydra's own sections; ConfigurationError where it cannot be read."""
    try:
        check_yaml(path)
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ConfigurationError(f"{path} holds no settings of names and values")
        for name in ("hydra", "defaults"):
            content.pop(name, None)
        with environment_hidden():
            return flat(OmegaConf.to_container(content, resolve=True))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from None
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path} cannot be read: {reason}") from None


def word_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings of the form NAME=VALUE, the value as in YAML; ConfigurationError for another form."""
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise ConfigurationError(f"{word!r} names no setting: write NAME=VALUE")
        if name in settings:
            raise ConfigurationError(f"{name} is given twice")
        try:
            value = OmegaConf.from_dotlist([f"value={text}"])
            with environment_hidden():
                settings[name] = OmegaConf.to_container(value, resolve=True)["value"]  # type: ignore
        except (YAMLError, OmegaConfBaseException, ValueError) as error:
            raise ConfigurationError(f"{word}: {' '.join(str(error).split())}") from None
    return settings


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted names, without missing ones."""
    if not isinstance(tree, Mapping):
        return {} if tree == "???" else {prefix: tree}
    inner = [
        flat(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in tree.items()
    ]
    return {name: value for part in inner for name, value in part.items()}


def unknown_names(
    settings: Iterable[str], near: Collection[str], known: Collection[str] = ()
) -> list[str]:
    """Names that are not known; ConfigurationError for one that looks like a name in `near`."""
    unknown = [
        name for name in settings if name not in near and name.partition(".")[0] not in known
    ]
    for name in unknown:
        if hint := near_miss(name, near):
            raise ConfigurationError(f"{name}: there is no such setting.", hint=hint)
    return unknown


def renamed(error: ConfigurationError, named: Mapping[str, Named]) -> ConfigurationError:
    """A complaint about one of our fields, by the name that the caller gave it."""
    return error.about(named[error.key].name) if error.key in named else error


def defaults_of(
    config: type[WorldModelConfig], fields: Mapping[str, str], wanted: Collection[str]
) -> dict[str, Any]:
    """Defaults of the wanted ones of our fields, by their official names."""
    return {name: config._default(field) for name, field in fields.items() if field in wanted}


def new_folder(out: str | Path) -> Path:
    """The folder that an import writes; ConfigurationError where something is there already."""
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"--out {target} exists already; name a new folder")
    return target


def faults(
    shapes: Shapes, expected: Shapes, others: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Every missing, extra and misshapen entry in one text, empty if there is none.

    others: names of entries with another fault, by what it is.
    """
    misshapen = [
        f"{name} {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    lists = {
        "missing": [name for name in expected if name not in shapes],
        "not known": [name for name in shapes if name not in expected],
        "of another shape": misshapen,
        **(others or {}),
    }
    return "; ".join(f"{fault}: {', '.join(names)}" for fault, names in lists.items() if names)
