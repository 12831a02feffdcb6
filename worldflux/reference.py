"""The reference of configuration keys, from the fields' own metadata: what `worldflux explain` prints, the
pages of docs/reference, and JSON schemas for editors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import field_types, near_miss, plain, type_text
from worldflux.config.groups import (
    CHOICES,
    EXPERIMENT,
    FIELDS,
    GROUPS,
    SPELLING,
    TOP,
    RunConfig,
    is_machine,
    keys_of,
    may_change,
)
from worldflux.config.options import BOUNDS, ENVIRONMENT, USER, Rule, rules
from worldflux.config.presets import conf_dir
from worldflux.config.slurm import GROUP as LAUNCHER
from worldflux.config.slurm import SlurmConfig
from worldflux.errors import ConfigurationError
from worldflux.models.families import OURS, Family, conf_folders, families, model_types, names
from worldflux.project.mapping import ROWS
from worldflux.project.sections import SECTIONS, Head

FILE = "worldflux.toml"
REFERENCE = {"type": "string", "pattern": r"\$\{"}  # an interpolation may stand for any value


@dataclass(frozen=True)
class Entry:
    """What is to know of one key.

    kind: type and limits. family: title of the only family that has the key. options: what an
    option of `conf/` sets it to. official: family's title -> its official names. sets: of a key of
    worldflux.toml, the run's keys that it decides.
    """

    key: str
    help: str
    kind: str
    default: str
    unit: str = ""
    file: str = ""
    family: str = ""
    resume: bool = False
    options: tuple[tuple[str, str], ...] = ()
    official: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()


Settings = list[tuple[str, str, dict[str, Any]]]


def entries() -> list[Entry]:
    """Every key of a run, then every key of worldflux.toml."""
    settings = list(_settings())
    made = [*_of("", RunConfig, [key for key in TOP if key not in GROUPS], settings)]
    for group, cls in {**GROUPS, LAUNCHER: SlurmConfig}.items():
        if group != "model":
            made += _of(group, cls, keys_of(cls), settings)
    for family in families():
        cls = family.config_class()
        made += _of("model", cls, keys_of(cls), settings, family)
    made += _of("", Head, [*field_types(Head)])
    for section, cls in SECTIONS.items():
        made += _of(section, cls, [*field_types(cls)])
    return made


def _of(
    group: str,
    cls: type,
    keys: Iterable[str],
    settings: Settings | None = None,
    family: Family | None = None,
) -> Iterator[Entry]:
    """settings: what the options of `conf/` set; None: the keys are those of worldflux.toml."""
    for name in keys:
        item, rule = FIELDS.get(name, name), rules(cls)[FIELDS.get(name, name)]
        key = f"{group}.{name}".lstrip(".")
        common = Entry(
            key,
            rule.get("help", ""),
            kind(field_types(cls)[item], rule),
            _default(cls, item, rule),
            rule.get("unit", ""),
            family=family.title if family else "",
        )
        if settings is None:
            sets = dict.fromkeys(row.target for row in ROWS if row.key == key)
            yield dataclasses.replace(common, file=FILE, sets=tuple(sets))
            continue
        owners = [family] if family else families()
        official = {one.title: one.config_class().official_names.get(key, ()) for one in owners}
        yield dataclasses.replace(
            common,
            resume=may_change(key) or is_machine(key),
            options=tuple(_options(key, settings, family)),
            official={title: called for title, called in official.items() if called},
        )


def kind(hint: Any, rule: Rule) -> str:
    """Type and limits in words."""
    parts = [type_text(hint)]
    if "choices" in rule:
        parts = [f"one of {', '.join(choice or repr(choice) for choice in rule['choices'])}"]
    if "pattern" in rule:
        parts = [rule["pattern"].words]
    if "keys" in rule:
        parts.append(f"of {', '.join(rule['keys'])}")
    bounds = [f"{sign} {rule[name]:g}" for name, (_, sign, _) in BOUNDS.items() if name in rule]  # type: ignore[literal-required]
    return ", ".join([*parts, *bounds])


def _default(cls: type, name: str, rule: Rule) -> str:
    follows = rule.get("follows")
    if follows == ENVIRONMENT:
        return "the environment's"
    if follows is not None and follows != USER:
        return f"that of {follows}"
    item = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
    if item.default_factory is not dataclasses.MISSING:
        return shown(item.default_factory())
    return shown(item.default)


def shown(value: Any) -> str:
    """A value as YAML has it."""
    return value if isinstance(value, str) and value else json.dumps(plain(value))


# === What the options of conf/ set ============================================================


def _options(key: str, settings: Settings, family: Family | None) -> Iterator[tuple[str, str]]:
    for option, owner, values in settings:
        if key in values and (family is None or owner in ("", family.name)):
            yield option, shown(values[key])


def _settings() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Option as it is chosen, name of the family that it is for or nothing, key -> value."""
    for root in (conf_dir(), *conf_folders().values()):
        for path in sorted(root.rglob("*.yaml")):
            folder = path.relative_to(root).parent.as_posix()
            parent = path.parent.relative_to(root).parent.as_posix()
            if folder in (*CHOICES, EXPERIMENT, LAUNCHER.replace(".", "/")):
                option = f"{folder}={path.stem}"
            elif parent in CHOICES:  # env/dmc/FAMILY.yaml: what env=dmc takes for a family
                option, folder = f"{parent}={path.parent.name}", parent
            else:
                continue
            content = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(content, dict), path
            owner = model_types().get(content.get("model_type", ""), "")
            if not owner and path.stem in names():
                owner = path.stem
            if owner and f"={owner}" not in option and "model" not in folder:
                option = f"{option} model={owner}"
            is_global = "@package _global_" in path.read_text(encoding="utf-8")
            package = "" if is_global else folder.split("/")[0]
            if folder.startswith("hydra"):
                package = LAUNCHER
            yield option, owner, dict(_keys(package, content))


def _keys(package: str, content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if name == "defaults":
            continue
        if not package and isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        else:
            yield f"{package}.{name}".lstrip("."), value


# === Looking up ===============================================================================


def find(word: str) -> list[Entry]:
    """The entries of a key, of all keys with that last part, or of a group or section.

    Raises ConfigurationError with the near miss for a word that is none of them.
    """
    known = entries()
    alike = [entry for entry in known if entry.key == word]
    alike = alike or [entry for entry in known if entry.key.rpartition(".")[2] == word]
    alike = alike or [entry for entry in known if entry.key.rpartition(".")[0] == word]
    if alike:
        return alike
    keys = {entry.key for entry in known}
    groups = {key.rpartition(".")[0] for key in keys} - {""}
    last = {key.rpartition(".")[2] for key in keys}
    hint = near_miss(word, [*keys, *groups]) if "." in word else near_miss(word, [*last, *groups])
    if not hint and (close := near_miss(word.rpartition(".")[2], last)):
        hint = close
    text = f"there is no key or group {word!r}."
    raise ConfigurationError(text, hint=hint or f"Groups: {', '.join(sorted(groups))}")


def explained(word: str) -> str:
    """What `find` finds: a key with all that is known of it, a group with a line for each key."""
    alike = find(word)
    if any(entry.key.rpartition(".")[0] == word for entry in alike):
        rows = [
            (f"{entry.key}{_where(entry)}", f"{entry.default}  {entry.help}") for entry in alike
        ]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{name:<{width}}{about}" for name, about in rows)
    return "\n\n".join(map(text, alike))


def text(entry: Entry) -> str:
    """One entry as lines."""
    rows = {
        "is": f"{entry.kind}{f'; {entry.unit}' if entry.unit else ''}",
        "default": entry.default,
        "set by": "; ".join(_grouped(entry.options)),
        "official": "; ".join(f"{t}: {', '.join(called)}" for t, called in entry.official.items()),
        "sets": ", ".join(entry.sets),
        "on resume": "may change" if entry.resume else "",
    }
    lines = [f"{entry.key}{_where(entry)}", f"  {entry.help}"]
    return "\n".join([*lines, *(f"  {name:<11}{row}" for name, row in rows.items() if row)])


def _where(entry: Entry) -> str:
    return f" [{entry.family or entry.file}]" if entry.family or entry.file else ""


def _grouped(options: Iterable[tuple[str, str]]) -> list[str]:
    """`model/size: size1m 64, size12m 256` for the options of each group."""
    groups: dict[str, list[str]] = {}
    for option, value in options:
        group, _, name = option.partition("=")
        groups.setdefault(group, []).append(f"{name} {value}")
    return [f"{group}: {', '.join(values)}" for group, values in groups.items()]


# === Pages ====================================================================================


def pages() -> dict[str, str]:
    """Name of every page of docs/reference -> its text."""
    made: dict[str, list[Entry]] = {}
    ours = ["", *(one.title for one in OURS)]
    for entry in entries():
        if entry.family in ours:
            made.setdefault(_page(entry), []).append(entry)
    return {name: _markdown(name, rows) for name, rows in made.items()}


def _page(entry: Entry) -> str:
    if entry.file:
        return f"{FILE}.md"
    group = entry.key.rpartition(".")[0]
    if entry.family:
        (name,) = (one.name for one in OURS if one.title == entry.family)
        return f"{group}-{name}.md"
    return f"{group or 'run'}.md"


def _markdown(page: str, rows: list[Entry]) -> str:
    head = f"# {page.removesuffix('.md')}\n\n<!-- Generated by `python scripts/reference.py`. -->\n"
    lines = [head]
    for entry in rows:
        facts = [f"{entry.kind}{f' ({entry.unit})' if entry.unit else ''}"]
        facts.append(f"default `{entry.default}`")
        if entry.resume:
            facts.append("may change on resume")
        lines.append(f"## `{entry.key}`\n\n{entry.help}\n\n{' · '.join(facts)}\n")
        if entry.sets:
            lines.append(f"Sets {', '.join(f'`{key}`' for key in entry.sets)}.\n")
        if entry.options:
            lines.append(f"Set by {'; '.join(_grouped(entry.options))}.\n")
        for title, called in entry.official.items():
            lines.append(f"{title}'s official code: {', '.join(f'`{name}`' for name in called)}.\n")
    return "\n".join(lines)


# === Schemas ==================================================================================


def json_schemas() -> dict[str, dict[str, Any]]:
    """Name -> JSON schema of every group's YAML, of an experiment's and of worldflux.toml."""
    made = {group: _group_schema(cls) for group, cls in GROUPS.items() if group != "model"}
    made[LAUNCHER] = _group_schema(SlurmConfig)
    of_families = [_group_schema(one.config_class()) for one in families()]
    made["model"] = {"$schema": of_families[0]["$schema"], "anyOf": of_families}
    parts = {group: _inside(schema) for group, schema in made.items() if group != LAUNCHER}
    others: dict[str, Any] = {name: {} for name in (*TOP, "hydra", "defaults") if name not in parts}
    made[EXPERIMENT] = {
        "$schema": of_families[0]["$schema"],
        "title": "An experiment: options and values of all groups",
        "type": "object",
        "properties": {**parts, **others},
        "additionalProperties": False,
    }
    head = Head.json_schema()
    sections = {name: _inside(cls.json_schema()) for name, cls in SECTIONS.items()}
    head["properties"] |= sections
    # Editors of TOML know no newer draft; nothing in it needs one.
    made[FILE] = {**head, "$schema": "http://json-schema.org/draft-07/schema#", "title": FILE}
    return made


def _group_schema(cls: type[CheckedConfig]) -> dict[str, Any]:
    """A group's YAML: its keys as YAML spells them, each with a value or an interpolation."""
    schema = cls.json_schema()
    properties = {
        SPELLING.get(name, name): {"anyOf": [_inside(part), REFERENCE], **_annotations(part)}
        for name, part in schema["properties"].items()
        if SPELLING.get(name, name) in keys_of(cls)
    }
    return {**schema, "properties": {**properties, "defaults": {"type": "array"}}}


def _annotations(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: schema[name] for name in ("description", "default") if name in schema}


def _inside(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as a part of another."""
    return {name: value for name, value in schema.items() if name != "$schema"}


def write_schemas(folder: Path, name: str | None = None) -> list[Path]:
    """Writes `NAME.schema.json` into a folder, for every schema or for one."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one, schema in json_schemas().items():
        if name in (None, one):
            files.append(folder / f"{one}.schema.json")
            files[-1].write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
    return files
