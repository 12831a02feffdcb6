"""The mistake of a user that an error of Hydra, OmegaConf or the disk reports.

Their types and attributes say which it is. Where they have none for what a person needs to know, the
text is read, and a comment says so.
"""

from __future__ import annotations

import errno
import re
from typing import Any, get_args, get_type_hints

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import coerce, near_miss
from worldflux.config.groups import (
    CHOICES,
    EXPERIMENT,
    TOP,
    keys_of,
    schemas,
    unknown_key,
)
from worldflux.config.model import WorldModelConfig
from worldflux.config.presets import conf_dir, unknown_size
from worldflux.config.run import declared_by
from worldflux.config.slurm import GROUP as LAUNCHER
from worldflux.config.slurm import SlurmConfig
from worldflux.errors import ConfigurationError, UnknownPresetError, WorldFluxError
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
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.ELOOP,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
)
LONGEST = 200  # letters of a path that a message shows
LAUNCHER_EXTRAS = ("joblib", "ray")  # launchers that other packages bring
FOLDERS = (*CHOICES, EXPERIMENT)


def explain(error: BaseException) -> str | None:
    """The line that reports a user's mistake; None if `error` is none but a bug."""
    mistake = translated(error)
    return None if mistake is None else _flat(str(mistake))


def translated(error: BaseException) -> WorldFluxError | None:
    """The user's mistake that an error reports; None if it is none but a bug."""
    if isinstance(error, WorldFluxError):
        return error
    if not isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        if isinstance(error, FileNotFoundError):
            return ConfigurationError(_flat(str(error)))
        if isinstance(error, OSError) and error.errno in DISK:
            # Of two files, the second is the one that was to be written.
            where = str(error.filename2 or error.filename or "the run folder")
            where = where if len(where) <= LONGEST else f"{where[:LONGEST]}…"
            return ConfigurationError(f"cannot write {where}: {error.strerror}")
        return None
    file = ""
    link: BaseException | None = error
    while link is not None:
        mistake = _mistake(link, file)
        if mistake is not None:
            of_size = isinstance(mistake, UnknownPresetError)
            place = "model/size" if of_size else f"in {file}.yaml"
            return mistake.labelled(f"{place}: " if file else "")
        file = file or _file_of(link)
        link = link.__cause__ or link.__context__
    return ConfigurationError(_flat(str(error)))


def _mistake(error: BaseException, file: str) -> ConfigurationError | None:
    """What one link of a chain of errors says. file: the YAML file that an outer link names."""
    if isinstance(error, yaml.YAMLError):
        return _broken_yaml(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _no_such_option(error)
    if isinstance(error, InterpolationKeyError | InterpolationResolutionError):
        return _bad_interpolation(error)
    if isinstance(error, MissingMandatoryValue):
        return ConfigurationError(_flat(str(error)))
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and error.full_key:
        return _wrong_size(error, file) or _unknown_key(error)
    if isinstance(error, ValidationError) and error.full_key:
        return _wrong_value(error)
    if isinstance(error, ConfigTypeError) and error.full_key:
        return ConfigurationError(f": {_flat(str(error).splitlines()[0])}", key=error.full_key)
    if isinstance(error, ConfigCompositionException):
        # Hydra has no attribute for a group that is in no defaults list.
        group = re.match(r"Could not override '([^']+)'\.\s*No match in the defaults", str(error))
        return _top_level(group.group(1)) if group else None
    return None


def _flat(text: str) -> str:
    return " ".join(text.split())


def _file_of(error: BaseException) -> str:
    """The option whose file does not fit the schema; Hydra says it in its text only."""
    match = re.match(r"In '([^']+)': \w+ raised while composing config", str(error))
    return match.group(1) if match else ""


def _broken_yaml(error: yaml.YAMLError) -> ConfigurationError:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return ConfigurationError("broken YAML: " + _flat(str(error)))
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
    return ConfigurationError(f"broken YAML in {where}: {_flat(problem or str(error))}")


def _unreadable(error: OverrideParseException) -> ConfigurationError:
    word = error.override
    if re.fullmatch(r"[\w./@]+", word):
        text = f"{word!r} is no KEY=VALUE: write {word}=... , or see worldflux-run --help"
        return ConfigurationError(text)
    # The parser's own words are one line of the text.
    lines = [line for line in error.message.splitlines() if line.strip()]
    reason = lines[1] if len(lines) > 1 and lines[0].startswith("Error") else lines[0]
    text = f"cannot read the override {word!r}: {_flat(reason)} (quote special characters)"
    return ConfigurationError(text)


def _no_such_option(error: MissingConfigException) -> ConfigurationError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if (name := option.removeprefix("base_")) in names():
        try:
            family(name)
        except ConfigurationError as broken:
            return broken
    if not group:
        return ConfigurationError(_flat(str(error)))
    if group == "model/size/ci":
        return ConfigurationError(f"model/size=ci does not exist for model={option}")
    if group == "hydra/launcher" and option in LAUNCHER_EXTRAS:
        text = f"={option} is not installed: pip install 'worldflux[{option}]'"
        return ConfigurationError(text, key=group)
    known = error.options
    if not known:  # of a list of options Hydra does not say
        known = [path.stem for path in (conf_dir() / group).glob("*.yaml")]
    options = sorted(name for name in known if name != "ci/")
    text = f"={option} does not exist; options: {', '.join(options)}."
    key = f"+{group}" if group == EXPERIMENT else group
    return ConfigurationError(text, key=key, hint=near_miss(option, options))


def _bad_interpolation(error: OmegaConfBaseException) -> ConfigurationError:
    first = _flat(str(error).splitlines()[0])
    key = error.full_key or "the configuration"
    # Which of a value's interpolations it was, OmegaConf says in its text only.
    target = re.search(r"Interpolation key '([^']+)' not found", first)
    if target is None:
        return ConfigurationError(f"cannot be resolved: {first}", key=key)
    text = f"refers to ${{{target.group(1)}}}, which does not exist."
    every = [f"{group}.{name}" for group, cls in schemas().items() for name in keys_of(cls)]
    return ConfigurationError(text, key=key, hint=near_miss(target.group(1), every))


def _wrong_size(error: OmegaConfBaseException, file: str) -> ConfigurationError | None:
    """A size of another family, whose file has keys that this family's models lack."""
    cls = declared_by(error.object_type)
    if not file.startswith("model/size/") or cls is None:
        return None
    return unknown_size(str(cls._default("model_type")), file.split("/")[2])


def _unknown_key(error: OmegaConfBaseException) -> ConfigurationError:
    key = str(error.full_key)
    group, _, name = key.rpartition(".")
    as_group = key.replace(".", "/")
    if as_group in FOLDERS and "." in key:
        text = f"unknown key '{key}': a group is chosen with a slash, {as_group}=..."
        return ConfigurationError(text)
    if not group or "/" in key:
        return _top_level(key)
    cls = declared_by(error.object_type)
    if group == LAUNCHER and cls is None and name in keys_of(SlurmConfig):
        return ConfigurationError("is a key of hydra/launcher=slurm, which was not chosen", key=key)
    if cls is None:
        return ConfigurationError(f"unknown key '{key}'")
    for reasons in (getattr(cls, "inert", {}), cls.removed):
        if name in reasons:
            return ConfigurationError(f"unknown key '{key}': {reasons[name]}")
    return _of_another_family(key, cls) or unknown_key(key, keys_of(cls))


def _of_another_family(key: str, cls: type[CheckedConfig]) -> ConfigurationError | None:
    """The mistake of a key that only another family's models have."""
    name = key.removeprefix("model.")
    if not issubclass(cls, WorldModelConfig):
        return None
    others = [one.name for one in families() if name in keys_of(one.config_class())]
    chosen = [one.name for one in families() if one.config_class() is cls]
    if not others or others == chosen:
        return None
    return ConfigurationError(f"is a key of model={others[0]}; model={chosen[0]} has none", key=key)


def _top_level(key: str) -> ConfigurationError:
    if key == EXPERIMENT:
        return ConfigurationError("a recipe is added with a plus: +experiment=...")
    if (conf_dir() / EXPERIMENT / f"{key}.yaml").is_file():
        hint = f"Did you mean: '+experiment={key}'?"
        return ConfigurationError(f"unknown key '{key}'.", hint=hint)
    if "/" in key:
        text = f"unknown group '{key}'; groups: {', '.join(FOLDERS)}."
        return ConfigurationError(text, hint=near_miss(key, FOLDERS))
    return unknown_key(key, list(TOP))


def _wrong_value(error: ValidationError) -> ConfigurationError:
    key, value = str(error.full_key), error.value
    if value is None:
        return ConfigurationError("must have a value, not null", key=key)
    try:
        coerce(value, _declared_type(error), key, _refuse)
    except ConfigurationError as mistake:
        return mistake
    return ConfigurationError(f": {_flat(str(error).splitlines()[0])}", key=key)


def _refuse(key: str, reason: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(reason, key=key, hint=hint)


def _declared_type(error: ValidationError) -> Any:
    """The type of a key, or of an entry of a list or mapping."""
    if declared_by(error.object_type) is not None:
        return get_type_hints(error.object_type)[str(error.key)]
    inner = [hint for hint in get_args(error.ref_type) if hint not in (..., type(None))]
    return inner[-1] if inner and not get_args(inner[-1]) else Any
