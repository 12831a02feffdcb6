"""`worldflux push`: a trained model, with its card, to the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from worldflux.cli.guarded import verb
from worldflux.cli.parser import TRUST, Parser
from worldflux.errors import ConfigurationError


def parser() -> Parser:
    made = Parser(
        "worldflux push",
        description="Uploads the model of a run, of one of its checkpoints or of a model folder, with a"
        " model card: configuration, returns, environment, versions, and how to play it. The hub's own"
        " settings (HF_TOKEN, HF_ENDPOINT, `hf auth login`) say who you are and where it is.",
    )
    made.add_argument(
        "model", type=Path, metavar="DIR", help="a run, a checkpoint or a model folder"
    )
    made.add_argument(
        "target", metavar="hf://user/name", help="the repository, made where there is none"
    )
    made.add_argument(
        "--checkpoint",
        default="best",
        metavar="NAME",
        help="of a run: best (default), latest, step_...",
    )
    made.add_argument("--private", action="store_true", help="a repository that is made is private")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="write the folder there instead, and upload nothing"
    )
    made.add_argument("--trust", action="store_true", help=TRUST)
    return made


def _main(options: argparse.Namespace) -> int:
    from worldflux.models.hub import Address, push  # PyTorch: nothing for --help
    from worldflux.runner.card import write_model_folder

    address = Address.of(options.target)
    if options.out is not None and options.out.exists():
        raise ConfigurationError(f"--out {options.out} is there already: name a new folder")
    with TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "model"
        write_model_folder(options.model, out, address.repo, options.checkpoint, options.trust)
        if options.out is not None:
            print(f"{out}: the model folder of {address}")
            return 0
        print(f"{address}: {push(out, options.target, options.private)}")
    return 0


main = verb(parser, _main)
