"""The command line of `worldflux-run`: Hydra's flags, checked before Hydra sees them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from worldflux.cli.parser import Parser
from worldflux.errors import ConfigurationError

MODES = ("run", "multirun", "cfg", "info", "shell_completion")  # one of them at most
PICKLE = "--experimental-rerun: a pickle is never loaded; resume=RUN continues a run"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags, and these: overrides: everything that is no flag, in order; flags: the other
    words; show: it only prints, and no job is started. ConfigurationError for what does not exist.
    """
    parser = Parser(
        "worldflux-run",
        parents=[get_args_parser()],
        add_help=False,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    parser.add_argument("--version", "-V", action="store_true")  # ours, not Hydra's
    args = parser.read(argv)
    if args.experimental_rerun:
        raise ConfigurationError(PICKLE)
    modes = ["--" + name.replace("_", "-") for name in MODES if getattr(args, name)]
    if len(modes) > 1:
        hint = "; sweep.dry_run=true shows a sweep's jobs" if args.multirun else ""
        raise ConfigurationError(f"{' and '.join(modes)} do not go together{hint}")
    for flag in ("resolve", "package"):
        if getattr(args, flag) and not args.cfg:
            raise ConfigurationError(f"--{flag} is for --cfg job, which prints the configuration")
    args.flags = [word for word in argv if word not in args.overrides]
    if args.config_path is not None:  # Hydra takes a relative one from inside of the package
        args.flags = _without(args.flags, ("--config-path", "-cp"))
        args.flags += ["--config-path", str(Path(args.config_path).resolve())]
    args.show = bool(args.cfg or args.info or args.hydra_help)
    return args


def _without(flags: Sequence[str], names: tuple[str, ...]) -> list[str]:
    """The flags without those of these names, each with a value of its own or behind a '='."""
    before = ["", *flags]
    return [
        word
        for last, word in zip(before, flags, strict=False)
        if last not in names and word.partition("=")[0] not in names
    ]
