"""What a field of a configuration may hold beyond its type, declared at the field."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, Unpack

from worldflux.config.fields import Refuse, near_miss, per_class, shown

# In `follows`: the environment decides, unless the user does; only the user can.
ENVIRONMENT, USER = "environment", "user"
# Bound -> its check, how a message writes it, and its word in a JSON schema.
BOUNDS: dict[str, tuple[Callable[[float, float], bool], str, str]] = {
    "at_least": (operator.ge, ">=", "minimum"),
    "above": (operator.gt, ">", "exclusiveMinimum"),
    "at_most": (operator.le, "<=", "maximum"),
    "below": (operator.lt, "<", "exclusiveMaximum"),
}


class Pattern(NamedTuple):
    """What a text must match. words: what may be written. examples: for near misses."""

    expression: str
    words: str
    examples: tuple[str, ...]


DEVICES = ("auto", "cpu", "cuda", "mps")
DEVICE = Pattern(r"auto|cpu|mps|cuda(:[0-9]+)?", "auto, cpu, cuda, cuda:N or mps", DEVICES)


class Rule(TypedDict, total=False):
    """What `option` declares. None passes every limit."""

    at_least: float  # of a tuple: every entry, and there must be one
    above: float
    at_most: float  # of a tuple: every entry
    below: float
    choices: tuple[str, ...]
    pattern: Pattern
    check: Callable[[Any], str | None]  # what is wrong with a value, or None
    keys: tuple[str, ...]  # of a mapping
    strip: bool  # surrounding blanks are dropped, and an empty text is the default
    lower: bool  # upper and lower case are one
    follows: str  # where a run has the value from if it is not set: ENVIRONMENT, USER or a key
    folders: tuple[str, ...]  # of a group: those of `conf/` whose files are its options
    resumable: bool  # may change when a run is resumed
    # Says only where or how a run computes and what it writes: it makes no other run, cannot be
    # swept, and may change when a run is resumed.
    machine: bool
    help: str  # one sentence for a researcher: what it does, when to change it
    unit: str  # of a number


def option(
    default: Any = dataclasses.MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    **rule: Unpack[Rule],
) -> Any:
    """A field of a CheckedConfig. A subclass that gives it another default keeps its rule."""
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=rule)
    return dataclasses.field(default=default, metadata=rule)


@per_class
def rules(cls: type) -> dict[str, Rule]:
    """What is declared for every field of a class, in its bases too."""
    merged: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, item in vars(base).get("__dataclass_fields__", {}).items():
            merged[name] = {**merged.get(name, {}), **item.metadata}
    return merged


def plain_text(value: str) -> str | None:
    """Texts that reach Hydra, the manifest and the page are one line and no reference."""
    if not value.isprintable():
        return f"must be one line of printable text, got {shown(value)}"
    if "${" in value or value == "???":
        return "must not be a reference: '${' and '???' have a meaning in Hydra"
    return None


def plain_texts(values: tuple[str, ...]) -> str | None:
    """The same for every one of several texts."""
    return next(filter(None, map(plain_text, values)), None)


def check(value: Any, rule: Rule, key: str, refuse: Refuse, quoted: bool) -> None:
    """Raises what `refuse` makes where a value of the right type breaks a rule.

    quoted: texts are named with quotes, as the file they are written in has them.
    """
    if value is None or not rule:
        return
    wrong = rule["check"](value) if "check" in rule else None
    if wrong is not None:
        raise refuse(key, wrong, "")
    if isinstance(value, tuple):
        least, most = rule.get("at_least"), rule.get("at_most")
        if least is not None and (not value or min(value) < least):
            got = shown(list(value))
            raise refuse(key, f"must hold whole numbers above {least - 1:g}, got {got}", "")
        if most is not None and max(value, default=0) > most:
            got = shown(list(value))
            raise refuse(key, f"must hold whole numbers up to {most}, got {got}", "")
    elif isinstance(value, int | float):
        _check_bounds(value, rule, key, refuse)
    if "choices" in rule and value not in rule["choices"]:
        names = ", ".join(map(repr if quoted else str, rule["choices"]))
        close = near_miss(value, rule["choices"])
        raise refuse(key, f"must be one of {names}; got {shown(value)}.", close)
    pattern = rule.get("pattern")
    if pattern is not None and not re.fullmatch(pattern.expression, value):
        close = near_miss(value, pattern.examples)
        raise refuse(key, f"must be {pattern.words}; got {shown(value)}.", close)


def _check_bounds(value: float, rule: Rule, key: str, refuse: Refuse) -> None:
    bounds: dict[str, float] = {name: rule[name] for name in BOUNDS if name in rule}  # type: ignore[literal-required]
    broken = [name for name, bound in bounds.items() if not BOUNDS[name][0](value, bound)]
    if not broken:
        return
    got = f"{value:g}" if isinstance(value, float) else shown(value)
    text = f"must be {BOUNDS[broken[0]][1]} {bounds[broken[0]]}, got {got}"
    if len(bounds) == 2 and isinstance(value, float):
        (low, least), (high, most) = bounds.items()
        left, right = "[" if low == "at_least" else "(", "]" if high == "at_most" else ")"
        text = f"must be in {left}{least:g}, {most:g}{right}, got {got}"
    raise refuse(key, text, "")


def described(rule: Rule) -> str:
    """A field's sentence with its unit; nothing where it has none."""
    unit = f" [{rule['unit']}]" if "unit" in rule else ""
    return f"{rule.get('help', '')}{unit}"


def limits_schema(rule: Rule) -> dict[str, Any]:
    """The limits of a number or text in the words of a JSON schema."""
    schema: dict[str, Any] = {
        word: rule[name]  # type: ignore[literal-required]
        for name, (_, _, word) in BOUNDS.items()
        if name in rule
    }
    if "choices" in rule:
        schema["enum"] = list(rule["choices"])
    if "pattern" in rule:
        schema["pattern"] = f"^({rule['pattern'].expression})$"
    return schema
