"""Writes docs/reference from the code's own metadata.

    python scripts/reference.py            # writes the pages
    python scripts/reference.py --check    # exits with 1 where a page is stale

A page for each group of keys, one for worldflux.toml, one for the metrics of metrics.jsonl, one for the
verbs of `worldflux`, one for the names that Python imports.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldflux.cli.verbs import VERBS
from worldflux.reference import GENERATED, pages

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"


def commands() -> str:
    """The page of the verbs: every argument and flag of each."""
    lines = [f"# worldflux\n\n{GENERATED}\n"]
    for name, (module, about) in VERBS.items():
        parser: argparse.ArgumentParser = importlib.import_module(module).parser()
        lines.append(f"## `worldflux {name}`\n\n{parser.description or about}\n")
        lines += ["| argument | meaning |", "|---|---|"]
        hidden = ("help", argparse.SUPPRESS)
        shown = [one for one in parser._actions if not {one.dest, one.help} & {*hidden}]
        lines += [_row(parser, action) for action in shown]
        lines.append(f"\n{parser.epilog}\n" if parser.epilog else "")
    return "\n".join(lines).rstrip() + "\n"


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices is not None:
        value = f"{{{','.join(map(str, action.choices))}}}"
    value = " ".join(value) if isinstance(value, tuple) else value
    flags = [f"`{flag} {value}`".replace(" `", "`") for flag in action.option_strings]
    about = parser._get_formatter()._expand_help(action) if action.help else ""
    return f"| {', '.join(flags) or f'`{value}`'} | {about.replace('<', '&lt;')} |"


# Where Python imports its public names from.
PUBLIC = ("worldflux", "worldflux.training")


def python() -> str:
    """The page of the public names: signature and docstring, and those of a class's methods."""
    lines = [f"# Python\n\n{GENERATED}\n\nHow they are used: [From Python](../python.md)."]
    for module in map(importlib.import_module, PUBLIC):
        lines.append(f"\n## `{module.__name__}`")
        for name in module.__all__:
            member = getattr(module, name)
            lines.append(f"\n### `{name}`\n\n{_documented(name, member)}")
            if inspect.isclass(member) and not _is_plain(member):
                public = [part for part in vars(member).items() if not part[0].startswith("_")]
                lines += [text for part in public if (text := _method(name, *part))]
    return "\n".join(lines) + "\n"


def _is_plain(cls: type) -> bool:
    """Whether its docstring says all of a class: settings, choices and errors."""
    return dataclasses.is_dataclass(cls) or issubclass(cls, enum.Enum | Exception)


def _method(name: str, method: str, member: Any) -> str:
    function = getattr(member, "__func__", getattr(member, "fget", member))
    if not inspect.isfunction(function) or not function.__doc__:
        return ""
    if isinstance(member, property):
        return f"\n`{name}.{method}`: {_text(function)}"
    return f"\n{_documented(f'{name}.{method}', function)}"


def _documented(name: str, member: Any) -> str:
    if inspect.isclass(member) and issubclass(member, enum.Enum):
        return f"One of {', '.join(f'`{one.value}`' for one in member)}."
    if inspect.isclass(member) and _is_plain(member):
        return _text(member)
    return f"```python\n{name}{_signature(member)}\n```\n\n{_text(member)}"


def _text(member: Any) -> str:
    """A docstring as Markdown."""
    return (inspect.getdoc(member) or "").replace("``", "`").replace("<", "&lt;")


def _signature(function: Callable[..., Any]) -> str:
    """Parameters as they are written, the same under every version of Python."""
    parts, star = [], False
    signature = inspect.signature(function)
    for one in signature.parameters.values():
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        text = (
            "*" * (one.kind is one.VAR_POSITIONAL) + "**" * (one.kind is one.VAR_KEYWORD) + one.name
        )
        text += f": {one.annotation}" if one.annotation is not one.empty else ""
        if one.default is not one.empty:
            plain = isinstance(one.default, str | int | float | bool | tuple | None)
            text += f" = {one.default!r}" if plain else " = …"
        parts.append(text)
    gives = signature.return_annotation
    return f"({', '.join(parts)})" + ("" if gives is signature.empty else f" -> {gives}")


def index(names: list[str]) -> str:
    """The page that lists the others."""
    links = "\n".join(f"- [{name.removesuffix('.md')}]({name})" for name in names)
    return (
        "# Reference\n\nEvery key, metric, verb, flag and public name, generated from the code by "
        "`python scripts/reference.py`. "
        f"`worldflux explain KEY` prints what a key or a metric is.\n\n{links}\n"
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="write nothing")
    check = options.parse_args().check
    made = {**pages(), "commands.md": commands(), "python.md": python()}
    made = {"README.md": index(sorted(made)), **made}
    stale = [
        name
        for name, text in made.items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    stale += [path.name for path in FOLDER.glob("*.md") if path.name not in made]
    if check:
        for name in stale:
            print(f"docs/reference/{name} is stale: run python scripts/reference.py")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in made:
            (FOLDER / name).write_text(made[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    print(f"wrote {len(stale)} of {len(made)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
