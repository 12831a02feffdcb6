"""Code of the user's own that a configuration names: `_target_`, and the arguments it is called with."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Union, get_args, get_origin

from worldflux.config.fields import coerce, near_miss
from worldflux.errors import ConfigurationError, WorldFluxError, described

TARGET = "_target_"
NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # module.Class
PLAIN = (bool, int, float, str)


def no_target(value: Any) -> str | None:
    """What is wrong with an entry of the form ``{_target_: module.Class, ARGUMENT: value}``."""
    target = value.get(TARGET) if isinstance(value, Mapping) else None
    if isinstance(target, str) and NAME.fullmatch(target):
        return None
    return f"must be {{_target_: module.Class, ARGUMENT: value}}, got {value!r}"


def entry_of(key: str, value: Any) -> Any:
    """What Python may write as an entry, as a configuration holds it: a class or function stands for
    its name, alone or under ``_target_``. ConfigurationError: it cannot be found by its name."""
    if isinstance(value, Mapping):
        return {**value, TARGET: _name_of(key, value.get(TARGET))}
    return {TARGET: _name_of(key, value)}


def _name_of(key: str, value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if getattr(sys.modules.get(name.rpartition(".")[0]), name.rpartition(".")[2], None) is value:
        return name
    text = f"must be a class or function at the top of a module, got {value!r}"
    raise ConfigurationError(text, key=key)


@dataclass(frozen=True)
class Target:
    """A class or function, imported, with the arguments that its key gives it.

    key: of the entry, as the user writes it. made: what it is called for, for messages.
    """

    key: str
    make: Callable[..., Any]
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        key: str,
        entry: Mapping[str, Any],
        leading: int = 0,
        supplied: Collection[str] = (),
    ) -> Target:
        """The target of an entry. leading: how many arguments go before those of the entry. supplied:
        names of more that it may take beside them.

        ConfigurationError: it cannot be imported, or has no such arguments, or not of these types.
        """
        make = _imported(f"{key}.{TARGET}", entry[TARGET])
        values = {name: value for name, value in entry.items() if name != TARGET}
        return cls(key, make, _checked(key, make, values, leading, supplied))

    def __call__(self, *before: Any) -> Any:
        """Calls it; ConfigurationError for what it raises."""
        try:
            return self.make(*before, **self.arguments)
        except (KeyboardInterrupt, WorldFluxError):
            raise
        except BaseException as error:  # foreign code: sys.exit() too
            text = f"cannot be made: {described(error)}"
            raise ConfigurationError(text, key=self.key) from error


def import_named(module: str) -> ModuleType:
    """Imports a module that the user names; the current folder is looked into first, as `python`
    does."""
    with suppress(OSError):  # the current folder is gone
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()  # it may have been written just now
    return importlib.import_module(module)


def looked_for(module: str, missing: str | None) -> str:
    """Where a module would have been imported from; nothing where another one is missing."""
    if missing not in (module, module.partition(".")[0]):
        return ""
    path = os.environ.get("PYTHONPATH")
    places = [f"the current folder ({Path.cwd()})", *([f"PYTHONPATH ({path})"] if path else [])]
    return f"looked for in {', '.join(places)} and the installed packages"


def _imported(key: str, target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    try:
        content = import_named(module)
    except (KeyboardInterrupt, WorldFluxError):
        raise
    except BaseException as error:  # foreign code: sys.exit() too
        text = str(error) if isinstance(error, ImportError) else described(error)
        hint = looked_for(module, error.name) if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigurationError(f"={target}: {text}", key=key, hint=hint) from error
    make = getattr(content, name, None)
    if not callable(make):
        text = f"={target}: {module} has no class or function {name!r}."
        raise ConfigurationError(text, key=key, hint=near_miss(name, vars(content)))
    return typing.cast(Callable[..., Any], make)


def _checked(
    key: str,
    make: Callable[..., Any],
    values: Mapping[str, Any],
    leading: int,
    supplied: Collection[str],
) -> dict[str, Any]:
    """The arguments as the target declares them; what has no signature takes them as they are."""
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return dict(values)
    free = [*signature.parameters.values()][leading:]
    names = {one.name for one in free if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    if not any(one.kind is one.VAR_KEYWORD for one in free):
        for name in values:
            if name not in names:
                text = f"has no argument {name!r}, only {', '.join(sorted(names)) or 'none'}."
                raise ConfigurationError(text, key=key, hint=near_miss(name, names))
    for one in free:
        if one.name in names and one.default is one.empty and one.name not in {*values, *supplied}:
            raise ConfigurationError(f"needs the argument {one.name!r}", key=key)
    hints = _hints(make)

    def refuse(name: str, reason: str, hint: str) -> Exception:
        return ConfigurationError(reason, key=f"{key}.{name}", hint=hint)

    return {
        name: coerce(value, hints[name], name, refuse) if _is_plain(hints.get(name)) else value
        for name, value in values.items()
    }


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except Exception:  # names that the user's file does not have at run time
        return {}


def _is_plain(hint: Any) -> bool:
    """Whether a hint is one that values of a configuration can be compared with."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [one for one in args if one is not type(None)]
        return len(kinds) == 1 and _is_plain(kinds[0])
    if origin in (list, tuple, dict):
        return all(one is Ellipsis or one is Any or _is_plain(one) for one in args)
    return isinstance(hint, type) and (hint in PLAIN or issubclass(hint, Enum))
