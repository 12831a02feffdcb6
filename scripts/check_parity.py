"""Compares a model family with numbers that its official implementation computed.

    python scripts/check_parity.py FAMILY DIR [--float64] [--compile] [--device cuda] [--failures]

DIR is a folder of recorded sets, units or checkpoints. Prints one row for each array and exits
with 1 if any of them differs, is missing or is not known, with 2 if DIR cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the comparison lies in tests/

from tests.parity.comparison import dreamerv3, tdmpc2
from tests.parity.comparison.compare import Comparison, Computation, Row
from worldflux.errors import WorldFluxError

FAMILIES = {"dreamerv3": dreamerv3.compare_folder, "tdmpc2": tdmpc2.compare_folder}


def line(row: Row, width: int) -> str:
    errors = (f"{e:10.3g}" if e is not None else f"{'-':>10}" for e in (row.absolute, row.relative))
    verdict = "ok" if row.ok else "FAIL"
    return f"{row.name:<{width}} {' '.join(errors)} {row.tolerance:10.3g} {verdict:<4} {row.note}"


def table(comparison: Comparison, failures: bool) -> str:
    """All rows, or those that failed, and a summary."""
    rows = comparison.failures() if failures else comparison.rows
    width = max((len(row.name) for row in rows), default=4)
    head = f"{'name':<{width}} {'absolute':>10} {'relative':>10} {'tolerance':>10}"
    failed = len(comparison.failures())
    summary = f"{len(comparison.rows)} arrays compared, {failed} failed"
    return "\n".join([head, *(line(row, width).rstrip() for row in rows), summary])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--float64", action="store_true", help="compute in float64")
    parser.add_argument("--compile", action="store_true", help="compile the update")
    parser.add_argument("--device", default="cpu", help="where ours computes")
    parser.add_argument("--failures", action="store_true", help="print only rows that failed")
    options = parser.parse_args(argv)
    dtype = torch.float64 if options.float64 else torch.float32
    try:
        how = Computation(dtype, options.compile, torch.device(options.device))
        comparison = FAMILIES[options.family](options.folder, how)
    except WorldFluxError as error:
        print(f"check_parity: {error}", file=sys.stderr)
        return error.exit_code
    print(table(comparison, options.failures))
    return 0 if comparison.ok else 1


if __name__ == "__main__":
    sys.exit(main())
