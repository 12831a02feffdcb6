"""`worldflux import`: official checkpoints become model folders of ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from worldflux.cli.guarded import guarded
from worldflux.cli.official import MODULES, official_module
from worldflux.errors import CheckpointError, ConfigurationError


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux import",
        description="Writes a checkpoint of an official implementation as a model folder,"
        " which from_pretrained reads. The checkpoint's code is never executed.",
    )
    made.add_argument("family", metavar="FAMILY", help=", ".join(MODULES))
    made.add_argument(
        "checkpoint",
        type=Path,
        metavar="CKPT",
        help="dreamerv3: a run's log folder (with config.yaml), its ckpt folder or one save in it;"
        " tdmpc2: a .pt file of either layout",
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    made.add_argument(
        "--action-dims",
        type=_numbers,
        metavar="N,N,...",
        help="tdmpc2: action width of each task, for old multi-task files of other tasks than the"
        " official 30 or 80, which do not hold it",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, or 2 for wrong input)."""
    options = parser().parse_args(argv)
    return guarded("worldflux import", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    module = official_module(options.family, MODULES)
    more = {} if options.action_dims is None else {"action_dims": options.action_dims}
    if more and options.family != "tdmpc2":
        raise ConfigurationError("--action-dims is for tdmpc2")
    try:
        model = module.import_checkpoint(options.checkpoint, options.out, **more)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from None
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{options.out}: {options.family} model with {count:,} trained parameters")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 6,2,1") from None
