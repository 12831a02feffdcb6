"""Words that say nothing are no names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMPTY = {"found", "given", "asked", "told", "own"}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every variable, argument and definition, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def test_no_name_is_an_empty_word() -> None:
    files = [*ROOT.glob("worldflux/**/*.py"), *ROOT.glob("scripts/*.py")]
    assert len(files) > 200
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for name, line in names(ast.parse(path.read_text()))
        if name in EMPTY
    ]
    assert wrong == []
