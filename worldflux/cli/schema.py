"""`worldflux schema`: JSON schemas, with which an editor completes and checks what one writes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser
from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError
from worldflux.reference import FILE, json_schemas, write_schemas
from worldflux.run_folder.disk import disk_errors

PROGRAM = "worldflux schema"


def parser() -> Parser:
    made = Parser(
        PROGRAM,
        description="JSON schemas of the YAML of every group, of an experiment and of worldflux.toml.",
        epilog="exit codes: 0 fine, 2 wrong input",
    )
    made.add_argument("name", nargs="?", help=f"a group, experiment or {FILE}; default: all")
    made.add_argument("--json", action="store_true", help="print the schema, or all by name")
    made.add_argument("--out", type=Path, metavar="DIR", help="write NAME.schema.json for each")
    return made


def _main(options: argparse.Namespace) -> int:
    schemas = json_schemas()
    if options.name is not None and options.name not in schemas:
        text = f"there is no schema {options.name!r}; there are {', '.join(schemas)}."
        raise ConfigurationError(text, hint=near_miss(options.name, schemas))
    if options.out is not None:
        with disk_errors("schemas", options.out):
            files = write_schemas(options.out, options.name)
        for file in files:
            print(f"{file}: {comment(file)}")
    elif options.json:
        print(json.dumps(schemas if options.name is None else schemas[options.name], indent=2))
    else:
        print("\n".join([options.name] if options.name else schemas))
        print("--json prints them, --out DIR writes them for an editor")
    return 0


def comment(file: Path) -> str:
    """The line at the head of a file by which an editor knows its schema."""
    if file.name.startswith(FILE):
        return f"#:schema {file.resolve()}"
    return f"# yaml-language-server: $schema={file.resolve()}"


main = verb(parser, _main)
