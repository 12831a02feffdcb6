"""`worldflux import`: official checkpoints become model folders of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from worldflux.cli.guarded import guarded
from worldflux.cli.parser import Parser
from worldflux.config.fields import near_miss
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.families import families
from worldflux.models.hub import local

PROGRAM = "worldflux import"


def parser(official: ModuleType | None = None) -> Parser:
    """The parser with the flags that an official module adds."""
    made = Parser(
        PROGRAM,
        description="Writes a checkpoint of an official implementation as a model folder,"
        " which from_pretrained reads. The checkpoint's code is never executed.",
    )
    names = [one.name for one in families() if one.official is not None]
    made.add_argument("family", metavar="FAMILY", help=", ".join(names))
    described = f"see {PROGRAM} FAMILY --help" if official is None else official.IMPORT_HELP
    made.add_argument("checkpoint", type=Path, metavar="CKPT", help=described)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    if official is not None and hasattr(official, "add_arguments"):
        official.add_arguments(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, or 2 for wrong input)."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(PROGRAM, lambda: _main(words))


def _main(words: list[str]) -> int:
    family_first = bool(words) and not words[0].startswith("-")
    options = parser(official(words[0]) if family_first else None).read(words)
    more = {
        name: value
        for name, value in vars(options).items()
        if name not in ("family", "checkpoint", "out") and value is not None
    }
    try:
        module = official(options.family)
        imported = module.import_checkpoint(local(options.checkpoint), options.out, **more)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from None
    weights = imported.model.parameters()
    count = sum(parameter.numel() for parameter in weights if parameter.requires_grad)
    print(f"{options.out}: {options.family} model with {count:,} trained parameters")
    for line in imported.lines():
        print(line)
    return 0


def official(family: str, function: str = "import_checkpoint") -> ModuleType:
    """The module of a family that has the function for official checkpoints; ConfigurationError."""
    modules = {one.name: one.official_module() for one in families() if one.official is not None}
    able = {name: module for name, module in modules.items() if hasattr(module, function)}
    module = able.get(family)
    if module is None:
        text = f"unknown family {family!r}; there are {', '.join(able)}."
        raise ConfigurationError(text + near_miss(family, able))
    return module
