"""`worldflux import`: official checkpoints become model folders of ours."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from worldflux.core.fields import near_miss
from worldflux.errors import ConfigurationError, WorldFluxError

# Family -> module with `import_checkpoint(path, out) -> model`.
FAMILIES = {
    "dreamerv3": "worldflux.models.dreamerv3.official_checkpoint",
    "tdmpc2": "worldflux.models.tdmpc2.official_checkpoint",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux import",
        description="Writes a checkpoint of an official implementation as a model folder,"
        " which from_pretrained reads. The checkpoint's code is never executed.",
    )
    made.add_argument("family", metavar="FAMILY", help=", ".join(FAMILIES))
    made.add_argument(
        "checkpoint",
        type=Path,
        metavar="CKPT",
        help="dreamerv3: a run's log folder (with config.yaml), its ckpt folder or one save in it;"
        " tdmpc2: a .pt file of either layout",
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, or 2 for wrong input)."""
    options = parser().parse_args(argv)
    try:
        if options.family not in FAMILIES:
            line = f"unknown family {options.family!r}; there are {', '.join(FAMILIES)}."
            raise ConfigurationError(line + near_miss(options.family, FAMILIES))
        module = importlib.import_module(FAMILIES[options.family])
        model = module.import_checkpoint(options.checkpoint, options.out)
    except WorldFluxError as error:
        print(f"worldflux import: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"worldflux import: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{options.out}: {options.family} model with {count:,} trained parameters")
    return 0
