"""`worldflux models`: every preset with its parameter count."""

from __future__ import annotations

import argparse
import json
from typing import Any

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser
from worldflux.errors import ConfigurationError
from worldflux.models.factory import count_parameters, get_model_info, list_models, resolve
from worldflux.models.families import DEFAULT

PROGRAM = "worldflux models"
EXAMPLE = f"{DEFAULT.name}:ci"


def parser() -> Parser:
    made = Parser(PROGRAM, description="Lists the presets with their parameter counts.")
    made.add_argument(
        "what",
        nargs="?",
        choices=("list", "info"),
        default="list",
        help="list all (default), or all of one",
    )
    made.add_argument("id", nargs="?", metavar="ID", help=f"for info: such as {EXAMPLE}")
    made.add_argument(
        "--obs",
        type=_shape,
        default=(24,),
        metavar="SHAPE",
        help="observation shape, such as 3,64,64; default: 24",
    )
    made.add_argument("--actions", type=int, default=6, metavar="N", help="default: 6")
    made.add_argument(
        "--action-type",
        choices=("discrete", "continuous"),
        default="continuous",
        help="default: continuous",
    )
    made.add_argument(
        "-f", "--format", choices=("table", "json"), default="table", help="default: table"
    )
    return made


def _main(options: argparse.Namespace) -> int:
    if options.what == "info":
        return _info(options)
    rows = [row(name, spaces_of(options)) for name in list_models()]
    if options.format == "json":
        print(json.dumps({"spaces": spaces_of(options), "models": rows}, indent=2))
    else:
        print(table(rows, spaces_of(options)))
    return 0


def spaces_of(options: argparse.Namespace) -> dict[str, Any]:
    """The observation and action space that the counts are for."""
    return {
        "obs_shape": options.obs,
        "action_dim": options.actions,
        "action_type": options.action_type,
    }


def row(name: str, spaces: dict[str, Any]) -> dict[str, Any]:
    """One preset: its sizes and its trainable parameters, None where it takes no such spaces."""
    family, size = resolve(name)
    config = family.config_class().from_size(size, **spaces)
    shown = {field: getattr(config, field) for field in family.described_by}
    try:
        counted = count_parameters(config)
    except ConfigurationError:
        counted = None
    return {"id": name, "parameters": counted, **shown}


def table(rows: list[dict[str, Any]], spaces: dict[str, Any]) -> str:
    """The rows as aligned text."""
    lines = []
    for entry in rows:
        count = entry["parameters"]
        number = f"{count:>13,}" if count is not None else f"{'-':>13}"
        sizes = "  ".join(f"{k} {v}" for k, v in entry.items() if k not in ("id", "parameters"))
        lines.append(f"{entry['id']:<19}{number}  {sizes}")
    shape = "x".join(str(n) for n in spaces["obs_shape"])
    kind = spaces["action_type"]
    head = f"trainable parameters for observations {shape}, {spaces['action_dim']} {kind} actions"
    return "\n".join([head, *lines])


def _info(options: argparse.Namespace) -> int:
    if options.id is None:
        raise ConfigurationError(f"info needs a model, such as: {PROGRAM} info {EXAMPLE}")
    info = get_model_info(options.id)
    info.update(spaces_of(options), **row(info["id"], spaces_of(options)))
    if options.format == "json":
        print(json.dumps(info, indent=2))
        return 0
    for key, value in info.items():
        if key != "config":
            print(f"{key:<16}{', '.join(value) if isinstance(value, list) else value}")
    return 0


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape such as 3,64,64") from None


main = verb(parser, _main)
