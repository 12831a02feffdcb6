"""`worldflux export`: models of ours become official checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldflux.cli.guarded import verb
from worldflux.cli.import_model import official
from worldflux.cli.parser import Parser
from worldflux.errors import ConfigurationError
from worldflux.models.families import family


def parser() -> Parser:
    made = Parser(
        "worldflux export",
        description="Writes the weights of a model folder as the official implementation saves"
        " them, so that it can load them.",
    )
    made.add_argument("family", metavar="FAMILY", help="whose official checkpoints can be written")
    made.add_argument("model", type=Path, metavar="DIR", help="a folder of save_pretrained")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .pt file")
    return made


def _main(options: argparse.Namespace) -> int:
    module = official(options.family, "export_checkpoint")
    try:
        model = family(options.family).model_class().from_pretrained(options.model)
    except TypeError as error:  # another family's model
        raise ConfigurationError(str(error)) from None
    module.export_checkpoint(model, options.out)
    print(f"{options.out}: official {options.family} checkpoint")
    return 0


main = verb(parser, _main)
