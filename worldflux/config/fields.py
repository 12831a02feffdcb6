"""What every configuration dataclass shares: typed field values, near misses, JSON schemas."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Refuse = Callable[[str, str, str], Exception]  # key, reason, hint
LARGEST_WHOLE = 2**53  # whole numbers up to here are exact in JSON and in every reader of it


def near_miss(name: str, options: Iterable[str]) -> str:
    """` Did you mean: 'a', 'b'?` for the options that look like `name`, else an empty text."""
    name = name[:40].lower()  # the time to compare is bounded
    scores = {option: _likeness(name, option.lower()) for option in options}
    best = max(scores.values(), default=0.0)
    if best < 0.6:
        return ""
    close = [option for option, score in scores.items() if score >= max(0.6, best - 0.1)]
    close.sort(key=lambda option: -scores[option])
    return " Did you mean: " + ", ".join(f"'{option}'" for option in close[:3]) + "?"


def _likeness(name: str, option: str) -> float:
    """1 for equal texts; looking like the beginning or one word of the option counts less."""
    if len(name) > 2 and option.startswith(name):
        return 0.85
    whole = 1 - _edits(name, option) / max(len(name), len(option), 1)
    words = (1 - _edits(name, word) / max(len(name), len(word), 1) for word in option.split("_"))
    return max(whole, 0.85 * max(words))


def _edits(a: str, b: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal alignment)."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (a[i - 2], letter) == (other, b[j - 2]):
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def per_class(make: Callable[[Any], T]) -> Callable[[type], T]:
    """Keeps what a function makes of each class."""
    return functools.cache(make)


@per_class
def field_types(cls: type) -> dict[str, Any]:
    """Resolved type hint of every dataclass field of `cls`, in order of definition."""
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def shown(value: object) -> str:
    """A value as a line can hold it."""
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list):
        value = [value[0], ..., value[-1]] if len(value) > 20 else value
        return f"[{', '.join(map(shown, value))}]"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def coerce(value: Any, hint: Any, name: str, refuse: Refuse) -> Any:
    """`value` as the type `hint`; raises what `refuse` makes when that would lose something.

    Only lossless conversions are done: a whole number to float, a list to a tuple, the text of an
    enumeration's value to its member.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return coerce(value, inner, name, refuse)
    if origin is tuple:
        return _coerce_tuple(value, hint, name, refuse)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise _wrong(name, hint, value, refuse)
        return [
            coerce(item, get_args(hint)[0], f"{name}[{i}]", refuse) for i, item in enumerate(value)
        ]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(name, hint, value, refuse)
        item_hint = get_args(hint)[1]
        return {
            str(key): coerce(item, item_hint, f"{name}.{key}", refuse)
            for key, item in value.items()
        }
    return _coerce_scalar(value, hint, name, refuse)


def _coerce_tuple(value: object, hint: Any, name: str, refuse: Refuse) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise _wrong(name, hint, value, refuse)
    items, args = list(value), get_args(hint)
    if args[-1] is Ellipsis:
        args = (args[0],) * len(items)
    if len(items) != len(args):
        raise _wrong(name, hint, value, refuse)
    return tuple(
        coerce(v, arg, f"{name}[{i}]", refuse)
        for i, (v, arg) in enumerate(zip(items, args, strict=True))
    )


def _coerce_scalar(value: object, hint: Any, name: str, refuse: Refuse) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        options = [member.value for member in hint]
        if not isinstance(value, hint) and value not in options:
            close = near_miss(str(value), options)
            raise refuse(name, f"must be one of {', '.join(options)}; got {value!r}.", close)
        return hint(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            finite = math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            raise refuse(name, f"must be finite, got {shown(value)}", "")
        return float(value)
    raise _wrong(name, hint, value, refuse)


def _wrong(name: str, hint: Any, value: object, refuse: Refuse) -> Exception:
    text = f"must be {type_text(hint)}, got {shown(value)}"
    if (
        hint is int
        and isinstance(value, float)
        and value.is_integer()
        and abs(value) < LARGEST_WHOLE
    ):
        whole = int(value)
        text += f" (write {whole:_})" if whole >= 1_000_000 else f" (write {whole})"
    return refuse(name, text, "")


def type_text(hint: Any) -> str:
    """A type hint in a user's words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or null".join([" or ".join(type_text(a) for a in args if a is not type(None)), ""])
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list whose entries are each {type_text(args[0])}"
        return f"a list of {len(args)} entries, each {type_text(args[0])}"
    if origin in (list, dict):
        return "a list" if origin is list else "a mapping of names to values"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def plain(value: Any) -> Any:
    """`value` with enumerations as their text and tuples as lists, as JSON and YAML hold it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def json_schema(
    cls: type, limits: Mapping[str, dict[str, Any]], described: Mapping[str, str]
) -> dict[str, Any]:
    """JSON schema (Draft 2020-12) of the dataclass `cls`, defaults included.

    limits: what holds for the numbers and texts of its fields. described: a sentence for each.
    """
    properties = {}
    for field in dataclasses.fields(cls):
        schema = _type_schema(field_types(cls)[field.name])
        if schema.get("type") not in ("array", "object"):
            schema.get("anyOf", [schema])[0].update(limits.get(field.name, {}))
        if field.default is not dataclasses.MISSING:
            schema["default"] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            schema["default"] = plain(field.default_factory())
        if described.get(field.name):
            schema["description"] = described[field.name]
        properties[field.name] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": cls.__name__,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _type_schema(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin in (Union, types.UnionType):
        return {
            "anyOf": [_type_schema(a) if a is not type(None) else {"type": "null"} for a in args]
        }
    if origin is tuple and args[-1] is not Ellipsis:
        items = {"prefixItems": [_type_schema(a) for a in args], "items": False}
        return {"type": "array", **items, "minItems": len(args)}
    if origin in (tuple, list):
        return {"type": "array", "items": _type_schema(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(args[1])}
    if issubclass(hint, Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    names = {int: "integer", float: "number", bool: "boolean", str: "string"}
    return {"type": names[typing.cast(type, hint)]}
