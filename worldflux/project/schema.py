"""worldflux.toml, read strictly: a typed configuration, or one line that tells the mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import field_types, near_miss, shown
from worldflux.config.files import read_bytes
from worldflux.errors import ConfigurationError
from worldflux.models.factory import resolve
from worldflux.models.families import OURS, families, family_of_type
from worldflux.project.lines import line_of_error, lines_of
from worldflux.project.sections import DELEGATED, IGNORED, SECTIONS, Head, Sections

C = TypeVar("C", bound=CheckedConfig)
FILE = "worldflux.toml"
TEXTS = tuple(field_types(Head))
LARGEST_FILE = 64 * 2**10  # bytes; a configuration is some fifty lines


class ProjectFileError(ConfigurationError, ValueError):
    """A mistake in worldflux.toml, told with file, line and key."""


@dataclass(frozen=True)
class ProjectConfig(Sections):
    """One worldflux.toml. Sections are immutable records; what the file leaves out has its default.

    raw: the parsed file. path: the file. explicit: the keys it holds, as `section.key`.
    """

    project_name: str
    environment: str
    model: str
    model_type: str
    raw: dict[str, Any] = field(compare=False, repr=False)
    path: Path = field(compare=False, repr=False)
    explicit: frozenset[str] = field(compare=False, repr=False)
    lines: dict[str, int] = field(compare=False, repr=False)

    @property
    def size(self) -> str:
        """Name of the preset."""
        return resolve(self.model)[1]

    @property
    def ignored(self) -> list[str]:
        """What the file asks for and nothing is built for."""
        names = [f"[{name}]" for name in IGNORED if name in self.raw]
        for name in ("training", "verify"):
            if getattr(self, name).backend.endswith(DELEGATED):
                names.append(f'{name}.backend = "{getattr(self, name).backend}"')
        if self.training.backend_profile:
            names.append(f'training.backend_profile = "{self.training.backend_profile}"')
        return names

    def where(self, key: str) -> str:
        """File and line of a key, or of its section, for a message."""
        return _where(self.path, self.lines.get(key) or self.lines.get(key.split(".")[0]))


def load_config(path: str | Path = FILE) -> ProjectConfig:
    """Reads and checks a worldflux.toml; nothing is written.

    Raises FileNotFoundError, or ProjectFileError (a ConfigurationError and a ValueError) whose text
    names file, line, key, what was expected and the near miss.
    """
    path = Path(path)
    return parse(_read(path), path)


def parse(text: str, path: Path) -> ProjectConfig:
    """The configuration that a file of this content is; `path` names it and its folder."""
    return _Reader(text, path).config()


def _read(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"Configuration file not found: {path}{_elsewhere(path)}")
    if not (path.is_file() or path.is_dir()):
        raise ProjectFileError(f"cannot read {path}: it is not a regular file")
    try:
        content = read_bytes(path, LARGEST_FILE)
    except OSError as error:
        raise ProjectFileError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise ProjectFileError(f"{path} is larger than {LARGEST_FILE // 1024} KiB") from None
    try:
        return content.decode("utf-8-sig")  # editors of Windows begin a file with a mark
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ProjectFileError(f"{_where(path, line)}: must be UTF-8 text") from None


def _elsewhere(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    close = near_miss(path.name, [other.name for other in folder.glob("*.toml")])
    return f".{close}" if close else "; `worldflux init` makes a project"


def _where(path: Path, line: int | None) -> str:
    return f"{path}, line {line}" if line else str(path)


class _Reader:
    """One pass over a file; the first mistake is raised."""

    def __init__(self, text: str, path: Path) -> None:
        self.text = text.replace("\r\n", "\n")
        self.path = path
        self.raw = self._parsed()
        self.lines = {".".join(keys): line for keys, line in lines_of(self.text).items()}

    def _parsed(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            line, message = line_of_error(self.text, error)
            raise ProjectFileError(f"{_where(self.path, line)}: broken TOML: {message}") from None
        except (ValueError, RecursionError):  # a number of thousands of digits, endless brackets
            text = "broken TOML: a value is too long or nested too deeply"
            raise ProjectFileError(f"{self.path}: {text}") from None

    def refuse(self, key: str, reason: str, hint: str = "") -> ProjectFileError:
        """The mistake of a key, with file and line; the reason reads behind the key."""
        line = self.lines.get(key) or self.lines.get(key.split(".")[0])
        error = ProjectFileError(reason, key=key, hint=hint)
        return error.labelled(f"{_where(self.path, line)}: ")

    def config(self) -> ProjectConfig:
        values: dict[str, Any] = self._head()
        values |= {name: self._section(name) for name in SECTIONS}
        explicit = {f"{s}.{k}" for s in SECTIONS for k in self.raw.get(s, {})} | {*self.raw}
        config = ProjectConfig(
            **values, raw=self.raw, path=self.path, explicit=frozenset(explicit), lines=self.lines
        )
        config = self._fit_architecture(config)
        self._check_together(config)
        return config

    def _head(self) -> dict[str, str]:
        known = [*TEXTS, *SECTIONS]
        for name in self.raw:
            if name not in known:
                error = self.refuse(name, f"Unknown top-level key: {shown(name)[1:-1]}.")
                raise error.about("", _near_name(name, known, self.raw[name]))
        texts = {name: self.raw[name] for name in TEXTS if name in self.raw}
        head = self._checked("", Head, texts)
        name = texts.get("project_name", self.path.resolve().parent.name)
        # The family of a file that names none: the first for games, the second otherwise.
        usual = OURS[0 if head.environment == "atari" else 1].toml_name
        model = texts.get("model", f"{usual}:ci")
        kind = self._family(model, texts.get("model_type"))
        return {**head.to_dict(), "project_name": name, "model": model, "model_type": kind}

    def _family(self, model: str, model_type: str | None) -> str:
        """The model_type, with which `model` and `model_type` agree."""
        try:
            kind = resolve(model)[0].model_type
        except ConfigurationError as error:
            raise self.refuse("model", f": {error} ({newcomers()})") from None
        known = model_types()
        if model_type is not None and model_type not in known:
            text = f"must be one of {', '.join(known)}; got {shown(model_type)}."
            raise self.refuse("model_type", text, f"{near_miss(model_type, known)} ({newcomers()})")
        if model_type is not None and known[model_type] != kind:
            text = f"{model_type!r} contradicts model {model!r}, which is {kind!r}"
            raise self.refuse("model_type", text, "leave model_type out")
        return kind

    def _section(self, name: str) -> CheckedConfig:
        values = self.raw.get(name, {})
        if not isinstance(values, dict):
            text = f"Section '{name}' must be a TOML table: write [{name}], got {shown(values)}"
            raise self.refuse(name, text).about("")
        known = field_types(SECTIONS[name])
        for key in values:
            if key not in known:
                text = f"Unknown key '{name}.{shown(key)[1:-1]}'; [{name}] has {', '.join(known)}."
                raise self.refuse(f"{name}.{key}", text).about("", near_miss(key, known))
        if name == "architecture" and type(values.get("obs_shape")) is int:
            values = {**values, "obs_shape": [values["obs_shape"]]}
        return self._checked(name, SECTIONS[name], values)

    def _checked(self, section: str, cls: type[C], values: Mapping[str, Any]) -> C:
        try:
            return cls(**values)
        except ConfigurationError as error:
            key = f"{section}.{error.key}".lstrip(".")
            raise self.refuse(key, error.reason, error.hint) from None

    def _fit_architecture(self, config: ProjectConfig) -> ProjectConfig:
        """Fills in the preset's width, and checks the sizes against the family."""
        architecture = config.architecture
        sizes = {name: getattr(architecture, name) for name in ("obs_shape", "action_dim")}
        if "architecture.hidden_dim" in config.explicit:
            sizes["hidden_dim"] = architecture.hidden_dim
        if architecture.action_type:
            sizes["action_type"] = architecture.action_type
        try:
            made = family_of_type(config.model_type).config_class().from_size(config.size, **sizes)
        except ConfigurationError as error:
            wrong = error.within("architecture")  # its hint speaks of a run's keys
            raise self.refuse(wrong.key, wrong.reason).labelled(wrong.label) from None
        filled = replace(architecture, hidden_dim=made.hidden_dim)
        return replace(config, architecture=filled)

    def _check_together(self, config: ProjectConfig) -> None:
        data, length = config.data, config.training.sequence_length
        if data.source == "gym" and not data.gym_env:
            text = 'must name an environment, such as "CartPole-v1", with source "gym"'
            raise self.refuse("data.gym_env", text)
        # Recorded and random data is cut into episodes; an environment's goes on over their ends.
        online = data.source == "gym" and config.online_collection.enabled
        for name, room in (
            ("data.buffer_capacity", data.buffer_capacity),
            *([] if online else [("data.episode_length", data.episode_length)]),
        ):
            if length > room:
                text = f"must be <= {name} = {room}, got {length}"
                raise self.refuse("training.sequence_length", text)


def _near_name(name: str, known: list[str], value: object) -> str:
    if isinstance(value, dict):
        known = [item for item in known if item in SECTIONS]
    close = near_miss(name, known)
    if close:
        return close
    owners = [section for section, cls in SECTIONS.items() if name in field_types(cls)]
    if owners:
        return f"It belongs into [{owners[0]}]."
    return f"There are {', '.join(known)}."


def model_types() -> dict[str, str]:
    """What ``model_type`` may say, and the model_type of the configuration class."""
    types = {one.toml_name: one.model_type for one in families()}
    return types | {name: one.model_type for one in OURS for name in one.synonyms}


def newcomers() -> str:
    """Which families this file takes."""
    takes = [f"{one.title} ({one.toml_name}:SIZE)" for one in families()]
    return f"this file takes {', '.join(takes[:-1])} and {takes[-1]}"
