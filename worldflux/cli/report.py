"""`worldflux report`: what a run or a sweep has come to, as text, picture and table."""

from __future__ import annotations

import argparse
import json
import sys

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser
from worldflux.errors import CheckpointError
from worldflux.report.run import run_document, run_text
from worldflux.run_folder.disk import shown
from worldflux.sweep import report
from worldflux.sweep.record import FILE, SWEEPS, folder_of


def parser() -> Parser:
    made = Parser(
        prog="worldflux report",
        description="Draws the learning curve of a run, or the table and curves of a sweep, also "
        "while it goes on.",
    )
    made.add_argument(
        "folder", metavar="RUN|SWEEP", help=f"a folder; for a sweep in {SWEEPS} its name will do"
    )
    made.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="KEY",
        help="overrides to group a sweep's jobs by, such as model (default: all but the seed)",
    )
    made.add_argument(
        "-f", "--format", choices=("text", "json"), default="text", help="default: text"
    )
    return made


def _main(options: argparse.Namespace) -> int:
    folder = folder_of(options.folder)
    if (folder / FILE).exists():
        summary, files = report.write_report(folder, options.by)
        document, text = report.document(summary), report.text(summary)
    elif options.by:
        raise CheckpointError(f"{shown(folder)} is a run: --by groups the jobs of a sweep")
    else:
        document, files = run_document(folder)
        text = run_text(document)
    if options.format == "json":
        print(json.dumps({**document, "files": [str(path) for path in files]}, indent=2))
    else:
        print("\n\n".join([text, " · ".join(shown(path) for path in files)]).rstrip())
    return 0


main = verb(parser, _main)


if __name__ == "__main__":
    sys.exit(main())
