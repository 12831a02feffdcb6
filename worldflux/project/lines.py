"""Where the keys of a TOML file stand, which tomllib does not tell."""

from __future__ import annotations

import re
import tomllib
from typing import Any

Path = tuple[str, ...]
# A value that goes on for longer is not followed: the time to find its end is bounded.
LONGEST_STATEMENT = 64


def lines_of(text: str) -> dict[Path, int]:
    """The first line of every table and key, counted from 1, of a text that tomllib reads.

    Each statement of a TOML file is a valid file by itself, so tomllib decides where one ends and
    which keys it sets; quoted and dotted keys and values over several lines need no rules here.
    """
    lines: dict[Path, int] = {}
    rows = text.split("\n")
    table: Path = ()
    index = 0
    while index < len(rows):
        statement, length = _statement(rows, index)
        if statement is None:
            return lines
        paths = _paths(statement)
        if rows[index].lstrip().startswith("["):
            table = paths[-1] if paths else ()
            paths = [table[: n + 1] for n in range(len(table))]
            base: Path = ()
        else:
            base = table
        for path in paths:
            lines.setdefault(base + path, index + 1)
        index += length
    return lines


def _statement(rows: list[str], first: int) -> tuple[dict[str, Any] | None, int]:
    """What the statement that begins in this row sets, and its number of rows."""
    for length in range(1, min(LONGEST_STATEMENT, len(rows) - first) + 1):
        try:
            return tomllib.loads("\n".join(rows[first : first + length])), length
        except (ValueError, RecursionError):
            continue
    return None, 0


def _paths(content: object, base: Path = ()) -> list[Path]:
    """Every path into nested tables, outer ones first; of an array of tables its last one."""
    if isinstance(content, list):
        content = content[-1] if content and isinstance(content[-1], dict) else {}
    if not isinstance(content, dict):
        return []
    paths = []
    for key, value in content.items():
        paths.append((*base, key))
        if len(base) < 8:
            paths += _paths(value, (*base, key))
    return paths


def line_of_error(text: str, error: tomllib.TOMLDecodeError) -> tuple[int, str]:
    """The line of a syntax error, counted from 1, and tomllib's message."""
    message = str(error)
    # Before Python 3.14 tomllib has the line in its text only.
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if place is None:
        return 1, message
    if place.group(1):
        return int(place.group(1)), message[: place.start()]
    return max(1, len(text.rstrip().split("\n"))), message[: place.start()]
