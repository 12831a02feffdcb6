"""The command line of `worldflux-run`: Hydra's flags, checked before Hydra sees them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.types import Quote, QuotedString

from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError

# Every flag with the number of values it takes; `--info` takes one or none.
_FLAGS: dict[tuple[str, ...], int | str] = {
    ("--help", "-h"): 0,
    ("--hydra-help",): 0,
    ("--version", "-V"): 0,
    ("--resolve",): 0,
    ("--run", "-r"): 0,
    ("--multirun", "-m"): 0,
    ("--shell-completion", "-sc"): 0,
    ("--cfg", "-c"): 1,
    ("--package", "-p"): 1,
    ("--config-path", "-cp"): 1,
    ("--config-name", "-cn"): 1,
    ("--config-dir", "-cd"): 1,
    ("--experimental-rerun",): 1,
    ("--info", "-i"): "?",
}

PATHS = ("resume",)  # keys whose value is a path


@dataclass(frozen=True)
class Arguments:
    """What was asked for. overrides: everything that is no flag, in order."""

    overrides: tuple[str, ...]
    help: bool
    version: bool
    completion: bool
    multirun: bool
    show: bool  # only prints (--cfg, --info, --hydra-help): no job is started
    config: bool  # prints the configuration (--cfg job or all), so it must be a valid one
    config_dir: str | None
    config_path: str | None
    config_name: str

    def with_overrides(self, overrides: Sequence[str], config_name: str) -> Arguments:
        """The same flags with other overrides and another primary configuration."""
        return replace(self, overrides=tuple(overrides), config_name=config_name)


class Parser(argparse.ArgumentParser):
    """Tells what is wrong as a ConfigurationError, and the near miss of a flag."""

    gone: Mapping[str, str] = {}  # flags of older versions, and why there are none

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message)

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options of a command line (None: of this process)."""
        found, unknown = self.parse_known_args(argv)
        for word in unknown:
            flag = word.partition("=")[0]
            if flag in self.gone:
                raise ConfigurationError(f"{flag}: {self.gone[flag]}")
            if not flag.startswith("-"):
                raise ConfigurationError(f"{word!r} is one word too many")
            known = [name for action in self._actions for name in action.option_strings]
            raise ConfigurationError(f"unknown flag {flag}.{near_miss(flag, known)}")
        return found


def plain_paths(argv: Sequence[str]) -> list[str]:
    """The command line with an existing path behind `resume=` quoted: its name may have an equals
    sign or a comma, such as a sweep's folders, which mean something else to Hydra."""
    words = []
    for word in argv:
        key, _, value = word.partition("=")
        if key in PATHS and re.search(r"[^\w./-]", value) and Path(value).exists():
            word = f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"
        words.append(word)
    return words


def parse(argv: Sequence[str]) -> Arguments:
    """Reads the command line; ConfigurationError for a flag that does not exist."""
    known = [name for names in _FLAGS for name in names]
    parser = Parser(prog="worldflux-run", add_help=False, allow_abbrev=False)
    for names, values in _FLAGS.items():
        if values == 0:
            parser.add_argument(*names, action="store_true")
        elif values == "?":
            parser.add_argument(*names, nargs="?", const="all")
        else:
            parser.add_argument(*names)
    parser.add_argument("overrides", nargs="*")
    found, unknown = parser.parse_known_intermixed_args(list(argv))
    for word in unknown:
        if word.startswith("-"):
            flag = word.split("=")[0]
            raise ConfigurationError(f"unknown flag {flag}.{near_miss(flag, known)}")
    if found.cfg not in (None, "job", "hydra", "all"):
        raise ConfigurationError(f"--cfg takes job, hydra or all; got {found.cfg!r}")
    names = ("run", "multirun", "cfg", "info", "shell_completion")
    modes = ["--" + name.replace("_", "-") for name in names if getattr(found, name)]
    if len(modes) > 1:
        hint = "; sweep.dry_run=true shows a sweep's jobs" if found.multirun else ""
        raise ConfigurationError(f"{' and '.join(modes)} do not go together{hint}")
    return Arguments(
        overrides=(*found.overrides, *unknown),
        help=found.help,
        version=found.version,
        completion=found.shell_completion,
        multirun=found.multirun,
        show=bool(found.cfg or found.info or found.hydra_help),
        config=found.cfg in ("job", "all"),
        config_dir=found.config_dir,
        config_path=found.config_path,
        config_name=found.config_name or "config",
    )
