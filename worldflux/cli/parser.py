"""How every command reads its words: argparse with our one-line errors."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError

SEED = 1_000_003  # of episodes that a verb plays: far from the seeds 0, 1, 2… that runs train with


class Parser(argparse.ArgumentParser):
    """Raises what is wrong as a ConfigurationError, with the near miss of a flag.

    gone: flags that do not exist any more, and why.
    """

    def __init__(self, prog: str, *, gone: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(prog, **options)
        self.gone = gone or {}

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name, choices = [*action.option_strings, action.dest][0], [*action.choices]
            text = f"{name} takes {', '.join(choices[:-1])} or {choices[-1]}; got {value!r}."
            raise ConfigurationError((text + near_miss(value, choices)).rstrip("."))

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options of a command line (None: of this process)."""
        options, unknown = self.parse_known_intermixed_args(argv)
        for word in unknown:
            flag = word.partition("=")[0]
            if flag in self.gone:
                raise ConfigurationError(f"{flag}: {self.gone[flag]}")
            if not flag.startswith("-"):
                raise ConfigurationError(f"{word!r} is one word too many")
            known = [name for action in self._actions for name in action.option_strings]
            raise ConfigurationError(f"unknown flag {flag}.{near_miss(flag, known)}")
        return options


TRUST = "import the modules that a run of somebody else names"


def positive(word: str) -> int:
    """The type of an option that counts something."""
    try:
        value = int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {word!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
