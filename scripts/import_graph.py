"""Draws the import graph of the package's rooms and checks the rules of docs/architecture.md.

    python scripts/import_graph.py            # the rooms from the ground up, and what each imports
    python scripts/import_graph.py --dot      # the same for Graphviz

Exits with 1 for a circle of imports between files, for an import that runs up (from a room to one
that stands above it) and for a family's name outside its places. Imports inside functions and those
for types alone count like any other.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "worldflux"
# From the ground up: a room imports its own files and rooms that stand before it.
ROOMS = (
    "errors",
    "families",
    "config",
    "core",
    "run_folder",
    "envs",
    "data",
    "models",
    "training",
    "report",
    "dashboard",
    "runner",
    "slurm",
    "sweep",
    "search",
    "verify",
    "project",
    "reference",
    "cli",
)
# Files that stand in another room than their folder, and why.
ELSEWHERE = {
    "models/families.py": "families",  # the table: read by the configuration, imports no family
}
# Import paths of the user's guide, each one re-export: nothing of the package imports them.
PUBLIC = (
    "__init__.py",
    "__main__.py",
    "config_loader.py",
    "core/config.py",
    "training/__init__.py",
    "training/config.py",
    "training/data.py",
)
FAMILY_NAMES = re.compile(r"dreamerv3|tdmpc2|\bDreamerV3[A-Z]\w*|\bTDMPC2\w*")
FAMILY_PLACES = ("models/families.py", "models/dreamerv3/", "models/tdmpc2/", *PUBLIC)
# Written by `worldflux init` into a user's project: not modules of the package.
SCAFFOLD = "project/scaffold/"


def files(package: Path) -> dict[str, str]:
    """Path below the package -> source, of every module that is imported."""
    sources = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(SCAFFOLD):
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def room_of(name: str) -> str:
    """The room of a file, or its own name where it stands in none."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    return name.split("/")[0].removesuffix(".py")


def imported(name: str, source: str, known: Mapping[str, str]) -> set[str]:
    """Files of the package that a file imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["worldflux", *name.split("/")[: -node.level]]
                base = ".".join([*here, base]).rstrip(".")
            modules |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    paths = {module.removeprefix("worldflux").lstrip(".").replace(".", "/") for module in modules}
    candidates = {f"{path}.py" for path in paths} | {
        f"{path}/__init__.py" for path in paths if path
    }
    return {path for path in candidates if path in known and path != name}


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """File -> files that it imports, the public re-exports left out."""
    inside = {name: source for name, source in sources.items() if name not in PUBLIC}
    return {name: imported(name, source, inside) for name, source in inside.items()}


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other in a loop (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in edges:
        if node not in order:
            visit(node)
    return groups


def upward(edges: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Imports from a room to one above it."""
    floor = {room: number for number, room in enumerate(ROOMS)}
    for name, others in edges.items():
        for other in sorted(others):
            if floor[room_of(name)] < floor[room_of(other)]:
                yield name, other


def family_names(sources: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """File, line number and name wherever a family is named outside its places."""
    for name, source in sources.items():
        if name.startswith(FAMILY_PLACES):
            continue
        for number, line in enumerate(source.splitlines(), 1):
            for match in FAMILY_NAMES.finditer(line):
                yield name, number, match.group()


def violations(sources: Mapping[str, str]) -> list[str]:
    """One line for each broken rule."""
    edges = graph(sources)
    strangers = sorted({room_of(name) for name in edges} - set(ROOMS))
    if strangers:
        return [f"no such room in scripts/import_graph.py: {', '.join(strangers)}"]
    lines = [f"circle: {' <-> '.join(group)}" for group in circles(edges)]
    lines += [f"import that runs up: {name} -> {other}" for name, other in upward(edges)]
    for name, number, word in family_names(sources):
        lines.append(f"family named outside its places: {name}, line {number}: {word}")
    return lines


def rooms(edges: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Room -> rooms that it imports, both from the ground up."""
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, others in edges.items():
        arrows[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    return {room: [other for other in ROOMS if other in arrows[room]] for room in ROOMS}


def drawing(sources: Mapping[str, str], dot: bool) -> str:
    """The graph of the rooms as text, or for Graphviz."""
    arrows = rooms(graph(sources))
    if dot:
        pairs = [f'  "{room}" -> "{other}";' for room, to in arrows.items() for other in to]
        return "\n".join(["digraph worldflux {", "  rankdir=BT;", *pairs, "}"])
    size = {room: 0 for room in ROOMS}
    for name, source in sources.items():
        if room_of(name) in size:
            size[room_of(name)] += source.count("\n")
    rows = [f"{room:<11}{size[room]:>6}  {' '.join(arrows[room]) or '-'}" for room in ROOMS]
    total = sum(source.count("\n") for source in sources.values())
    return "\n".join([f"{'room':<11}{'lines':>6}  imports", *rows, f"{'package':<11}{total:>6}"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dot", action="store_true", help="print it for Graphviz")
    options = parser.parse_args(argv)
    sources = files(PACKAGE)
    broken = violations(sources)
    if not broken or not options.dot:
        print(drawing(sources, options.dot))
    for line in broken:
        print(f"import_graph: {line}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
