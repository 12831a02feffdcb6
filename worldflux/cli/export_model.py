"""`worldflux export`: models of ours become official checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from worldflux.cli.guarded import guarded
from worldflux.cli.official import official_module
from worldflux.errors import ConfigurationError

FAMILIES = ("tdmpc2",)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux export",
        description="Writes the weights of a model folder as the official implementation saves"
        " them, so that it can load them.",
    )
    made.add_argument("family", metavar="FAMILY", help=", ".join(FAMILIES))
    made.add_argument("model", type=Path, metavar="DIR", help="a folder of save_pretrained")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .pt file")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, or 2 for wrong input)."""
    options = parser().parse_args(argv)
    return guarded("worldflux export", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    module = official_module(options.family, FAMILIES)
    try:
        model = module.TDMPC2.from_pretrained(options.model)
    except TypeError as error:  # another family's model
        raise ConfigurationError(str(error)) from None
    module.export_checkpoint(model, options.out)
    print(f"{options.out}: official {options.family} checkpoint")
    return 0
