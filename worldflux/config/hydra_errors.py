"""One line for each mistake that Hydra and OmegaConf report."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from worldflux.config.fields import near_miss
from worldflux.config.model import WorldModelConfig
from worldflux.config.presets import conf_dir, unknown_size_text
from worldflux.config.run import FREE, Group, all_groups, keys_of, unknown_key
from worldflux.config.slurm import GROUP as LAUNCHER
from worldflux.config.slurm import SlurmConfig
from worldflux.errors import ConfigurationError, WorldFluxError
from worldflux.models.families import families, family, names

# Reasons for which the place that a user named for a run cannot be written.
DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
)
LAUNCHER_EXTRAS = ("joblib", "ray")  # launchers that other packages bring
GROUPS = ("model", "model/size", "env", "data", "training", "logger", "dashboard", "experiment")
TOP = (
    "model",
    "env",
    "data",
    "training",
    "logger",
    "gameplay",
    "visualization",
    "project",
    "resume",
    "init_from",
)


def explain(error: BaseException) -> str | None:
    """The line that tells a user's mistake; None if `error` is none but a bug."""
    if isinstance(error, WorldFluxError | FileNotFoundError) and not isinstance(
        error, HydraException
    ):
        return _flat(str(error))
    if isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "the run folder"
        return f"cannot write {where}: {error.strerror}"
    if not isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return None
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, yaml.YAMLError):
            return _broken_yaml(link)
        if isinstance(link, OverrideParseException):
            return _unreadable(link)
        if isinstance(link, MissingConfigException):
            return _no_such_option(link)
        if isinstance(link, InterpolationKeyError | InterpolationResolutionError):
            return _bad_interpolation(link)
        if isinstance(link, MissingMandatoryValue):
            return _flat(str(link))
    text = "\n".join(str(link) for link in chain)
    rules: tuple[Callable[[str], str | None], ...] = (
        _sweep_without_flag,
        _wrong_file,
        _unknown_key,
        _unknown_group,
        _wrong_type,
    )
    for rule in rules:
        line = rule(text)
        if line is not None:
            return line
    return _flat(str(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _flat(text: str) -> str:
    return " ".join(text.split())


def _broken_yaml(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return "broken YAML: " + _flat(str(error))
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
    return f"broken YAML in {where}: {_flat(problem or str(error))}"


def _unreadable(error: OverrideParseException) -> str:
    word = error.override
    if re.fullmatch(r"[\w./@]+", word):
        return f"{word!r} is no KEY=VALUE: write {word}=... , or see worldflux-run --help"
    lines = [line for line in error.message.splitlines() if line.strip()]
    reason = lines[1] if len(lines) > 1 and lines[0].startswith("Error") else lines[0]
    return f"cannot read the override {word!r}: {_flat(reason)} (quote special characters)"


def _no_such_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if (name := option.removeprefix("base_")) in names():
        try:
            family(name)
        except ConfigurationError as broken:
            return str(broken)
    if not group:
        return _flat(str(error))
    if group == "model/size/ci":
        return f"model/size=ci does not exist for model={option}"
    if group == "hydra/launcher" and option in LAUNCHER_EXTRAS:
        return f"{group}={option} is not installed: pip install 'worldflux[{option}]'"
    options = sorted(name for name in error.options or [] if name != "ci/")
    text = f"{group}={option} does not exist; options: {', '.join(options)}."
    named = "+experiment" if group == "experiment" else group
    return text.replace(group, named, 1) + near_miss(option, options)


def _bad_interpolation(error: OmegaConfBaseException) -> str:
    first = _flat(str(error).splitlines()[0])
    key = error.full_key or "the configuration"
    wanted = re.search(r"Interpolation key '([^']+)' not found", first)
    if wanted:
        target = wanted.group(1)
        every = [f"{group}.{name}" for group, cls in all_groups().items() for name in keys_of(cls)]
        return f"{key} refers to ${{{target}}}, which does not exist.{near_miss(target, every)}"
    return f"{key} cannot be resolved: {first}"


def _sweep_without_flag(text: str) -> str | None:
    found = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if found is None and "Sweep" not in text:
        return None
    word = found.group(1) if found else _flat(text)
    return f"{word} has several values: add -m to sweep over them"


def _wrong_file(text: str) -> str | None:
    """A YAML file of a group that does not fit the schema."""
    found = re.search(r"In '([^']+)': (\w+) raised while composing config:\s*(.*)", text, re.S)
    if found is None:
        return None
    name, detail = found.group(1), found.group(3)
    kind = re.search(r"object_type=(\w+)", detail)
    classes = _family_classes()
    if name.startswith("model/size/") and kind and kind.group(1) in classes:
        cls = classes[kind.group(1)]
        size = name.split("/")[2]
        return "model/size: " + unknown_size_text(str(cls._default("model_type")), size)
    line = _unknown_key(detail) or _wrong_type(detail) or _flat(detail)
    return f"in {name}.yaml: {line}"


def _unknown_key(text: str) -> str | None:
    found = re.search(r"Could not override '([^']+)'\.?\n", text)
    named = re.search(r"full_key: (\S+)", text) if "not in" in text else None
    if found is None and named is None:
        return None
    key = (found or named).group(1)  # type: ignore[union-attr]
    group, _, name = key.rpartition(".")
    as_group = key.replace(".", "/")
    if as_group in GROUPS and "." in key:
        return f"unknown key '{key}': a group is chosen with a slash, {as_group}=..."
    if group in FREE:
        return _free_key(group, name)
    if not group or "/" in key:
        return _top_level(key)
    cls = _class_of(group, text)
    if group == LAUNCHER and cls is None and name in keys_of(SlurmConfig):
        return f"{key} is a key of hydra/launcher=slurm, which was not chosen"
    if cls is None:
        return f"unknown key '{key}'"
    for reasons in (getattr(cls, "inert", {}), cls.removed):
        if name in reasons:
            return f"unknown key '{key}': {reasons[name]}"
    return _of_another_family(key, cls) or unknown_key(key, keys_of(cls))


def _of_another_family(key: str, cls: type[Group]) -> str | None:
    """The line for a key that only another family's models have."""
    name = key.removeprefix("model.")
    if not issubclass(cls, WorldModelConfig) or name in keys_of(cls):
        return None
    classes = {one.name: one.config_class() for one in families()}
    mine = next(option for option, other in classes.items() if other is cls)
    for option, other in classes.items():
        if other is not cls and name in keys_of(other):
            return f"{key} is a key of model={option}; model={mine} has none"
    return None


def _free_key(group: str, name: str) -> str:
    for one in families():
        known = one.config_class().mappings.get(group.removeprefix("model."))
        if known is not None:
            return unknown_key(f"{group}.{name}", list(known))
    return f"{group} has no '{name}' yet: write +{group}.{name}=... to add it"


def _family_classes() -> dict[str, type[WorldModelConfig]]:
    classes = (one.config_class() for one in families())
    return {cls.__name__: cls for cls in classes}


def _class_of(group: str, text: str) -> type[Group] | None:
    kind = re.search(r"object_type=(\w+)", text)
    classes = _family_classes()
    if group == "model" and kind and kind.group(1) in classes:
        return classes[kind.group(1)]
    if group == LAUNCHER and kind and kind.group(1) == SlurmConfig.__name__:
        return SlurmConfig
    return all_groups().get(group)


def _top_level(key: str) -> str:
    if key == "experiment":
        return "a recipe is added with a plus: +experiment=..."
    if (conf_dir() / "experiment" / f"{key}.yaml").is_file():
        return f"unknown key '{key}'. Did you mean: '+experiment={key}'?"
    if "/" in key:
        return f"unknown group '{key}'; groups: {', '.join(GROUPS)}.{near_miss(key, GROUPS)}"
    return unknown_key(key, list(TOP))


def _unknown_group(text: str) -> str | None:
    found = re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text)
    return _top_level(found.group(1)) if found else None


def _wrong_type(text: str) -> str | None:
    found = re.search(r"Value '(.*?)' of type '(\w+)' could not be converted to (\w+)", text, re.S)
    key = re.search(r"full_key: (\S+)", text)
    where = key.group(1) if key else "a value"
    if found is not None:
        words = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        wanted = words.get(found.group(3), found.group(3))
        line = f"{where} must be {wanted}, got {found.group(1)!r}"
        if found.group(2) == "float" and float(found.group(1)).is_integer():
            line += f" (write {int(float(found.group(1))):_})"
        return line
    if "is not Optional" in text or "Non optional field" in text:
        return f"{where} must have a value, not null"
    if re.search(r"is not a .*(ListConfig|tuple)", text):
        return f"{where} must be a list, such as [3,64,64]"
    if key is not None:
        reason = [
            line for line in text.splitlines() if line and not line.startswith("Error merging")
        ]
        return f"{where}: {_flat(reason[0])}"
    return None
