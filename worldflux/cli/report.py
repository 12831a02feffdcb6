"""`worldflux report`: what runs and sweeps have come to, as text, pictures, tables and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser, positive
from worldflux.errors import CheckpointError
from worldflux.report.comparison import (
    Choices,
    ComparedRun,
    Comparison,
    compare,
    grouped,
    read_runs,
)
from worldflux.report.page import write_page
from worldflux.report.published import EPISODES, EVALUATIONS
from worldflux.report.run import run_document, run_text
from worldflux.report.tables import comparison_document, comparison_text, write_tables
from worldflux.run_folder.disk import shown
from worldflux.run_folder.links import check_links
from worldflux.run_folder.names import REPORT
from worldflux.runner.repeat import repeating, words_of
from worldflux.sweep import report
from worldflux.sweep.record import FILE, SWEEPS, runs_named
from worldflux.sweep.summary import summarize

RETURNS = {"evaluation": EVALUATIONS, "training": EPISODES}


def parser() -> Parser:
    made = Parser(
        prog="worldflux report",
        description="Compares runs: curves, and a table with final and best return, mean height of the"
        " curve, steps to a threshold and probability of improvement. Of one run, its learning curve;"
        " of a sweep, its jobs too, also while it goes on.",
    )
    made.add_argument(
        "folders",
        metavar="RUN|SWEEP",
        nargs="+",
        help=f"folders, or globs in quotes; for a sweep in {SWEEPS} its name will do",
    )
    made.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="KEY",
        help="keys to group runs by, such as model or training.learning_rate; of one sweep, its"
        " overrides (default: all that differs but the seed)",
    )
    made.add_argument(
        "--html", action="store_true", help="write report.html, one file for a browser"
    )
    made.add_argument(
        "--published", action="store_true", help="show published scores of the same task and family"
    )
    made.add_argument(
        "--threshold",
        type=float,
        metavar="RETURN",
        help="count the steps to this return (default: env.solved_return, where there is one)",
    )
    made.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="end all curves at N steps, and leave out runs that end before",
    )
    made.add_argument(
        "--returns",
        choices=tuple(RETURNS),
        help="of evaluation or training episodes (default: evaluation where all runs have it)",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where files go (default: {REPORT} of the run or sweep; of several, {REPORT} here)",
    )
    made.add_argument(
        "-f", "--format", choices=("text", "json"), default="text", help="default: text"
    )
    return made


def _main(options: argparse.Namespace) -> int:
    tops, folders = runs_named(options.folders)
    kind = RETURNS.get(options.returns)
    choices = Choices(kind, options.steps, options.threshold, options.published)
    if len(tops) > 1:
        made = _several(folders, options.by, choices)
    elif (tops[0] / FILE).exists():
        made = _sweep(tops[0], options.by, choices)
    elif options.by:
        raise CheckpointError(f"{shown(tops[0])} is a run: --by groups several")
    else:
        made = _run(tops[0], choices)
    made.files += _written(made, options.out, options.html)
    if options.format == "json":
        document = {**made.document, "files": [str(path) for path in made.files]}
        print(json.dumps(document, indent=2))
    else:
        files = " · ".join(shown(path) for path in made.files)
        print("\n\n".join(filter(None, [*made.texts, files])))
    return 0


@dataclass
class Made:
    """A report. folder: where its files go unless the command line says otherwise. plain: it is of
    one run, whose own learning curve says more than a comparison."""

    comparison: Comparison
    folder: Path
    document: dict[str, Any]
    texts: list[str]
    title: str = ""
    plain: bool = False
    files: list[Path] = field(default_factory=list)


def _several(folders: Sequence[Path], by: Sequence[str], choices: Choices) -> Made:
    runs, left_out = read_runs(folders, words_of)
    comparison = compare(grouped(runs, by), choices, left_out)
    if not comparison.tasks:
        reasons = "; ".join(f"{name}: {why}" for name, why in comparison.left_out[:3])
        raise CheckpointError(f"there is nothing to compare: {reasons or 'no run has begun'}")
    texts = [comparison_text(comparison), *_left_out(comparison)]
    return Made(comparison, Path(REPORT), comparison_document(comparison), texts)


def _sweep(root: Path, by: Sequence[str], choices: Choices) -> Made:
    check_links(root)
    summary = summarize(root, by)
    comparison = report.compared(summary, choices)
    document = {**report.document(summary), "comparison": comparison_document(comparison)}
    texts = [report.text(summary)]
    if comparison.tasks:
        texts.append(comparison_text(comparison))
    title = f"sweep {summary.record.name}"
    made = Made(comparison, root / REPORT, document, [*texts, *_left_out(comparison)], title)
    if (table := report.write_csv(summary)) is not None:
        made.files.append(table)
    return made


def _run(folder: Path, choices: Choices) -> Made:
    document, files = run_document(folder)
    texts = [run_text(document)]
    comparison = compare(grouped([ComparedRun.read(folder, words_of(folder))]), choices)
    plain = choices == Choices()
    if not plain and comparison.tasks:
        document["comparison"] = comparison_document(comparison)
        texts.append(comparison_text(comparison))
    return Made(comparison, folder / REPORT, document, texts, plain=plain, files=files)


def _left_out(comparison: Comparison) -> list[str]:
    lines = [f"  {name}: {reason}" for name, reason in comparison.left_out]
    return ["\n".join(["left out:", *lines])] if lines else []


def _written(made: Made, out: Path | None, html: bool) -> list[Path]:
    """Writes pictures, tables and the page."""
    folder, comparison = out or made.folder, made.comparison
    files: list[Path] = []
    if comparison.tasks and (out is not None or not made.plain):
        from worldflux.report.curves import draw_comparison

        files += draw_comparison(folder, comparison, made.title, svg=True)
        files += write_tables(folder, comparison)
    if html:
        commands = {run.folder: repeating(run.folder) for run in comparison.runs}
        if (page := write_page(folder, comparison, commands, made.title)) is not None:
            files.append(page)
    return files


main = verb(parser, _main)


if __name__ == "__main__":
    sys.exit(main())
