"""`worldflux explain`: what a key means, from the metadata that checks it."""

from __future__ import annotations

import argparse

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser
from worldflux.reference import explained

PROGRAM = "worldflux explain"


def parser() -> Parser:
    made = Parser(
        PROGRAM,
        description="Prints what a key means: type, limits, unit, default, what recipes and presets "
        "set it to, its name in the official code, and whether it may change on resume.",
        epilog="exit codes: 0 fine, 2 there is no such key",
    )
    made.add_argument(
        "keys",
        nargs="+",
        metavar="KEY",
        help="training.learning_rate, learning_rate, or a group for all its keys: training",
    )
    return made


def _main(options: argparse.Namespace) -> int:
    print("\n\n".join(map(explained, options.keys)))
    return 0


main = verb(parser, _main)
