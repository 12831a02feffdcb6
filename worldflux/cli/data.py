"""`worldflux data`: what recorded episodes hold, a picture of them, and the same in another format."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser, positive
from worldflux.errors import ConfigurationError

if TYPE_CHECKING:
    from worldflux.data.recorded.opening import RecordedSet
    from worldflux.data.recorded.survey import Survey

SECONDS = 3.0  # of --rate


def parser() -> Parser:
    made = Parser(
        "worldflux data",
        description="Prints what recorded episodes hold (episodes, steps, keys with their ranges,"
        " returns, damages) and draws one picture. Exits with 1 where a row is damaged.",
    )
    made.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="what data.path takes: files, globs, a run, a Minari dataset by folder or local name",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write all of them, as the agent sees them, to a new file: .npz, .hdf5, .parquet, or"
        " a folder for Minari (a name without suffix)",
    )
    made.add_argument(
        "--picture",
        type=Path,
        metavar="PNG",
        help="where the picture goes (default: beside the first PATH, with .png behind its name)",
    )
    made.add_argument("--no-picture", action="store_true", help="draw none")
    made.add_argument(
        "--rate",
        nargs=2,
        type=positive,
        metavar=("B", "T"),
        help="also measure how many batches of B sequences of T steps can be read in a second",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _main(options: argparse.Namespace) -> int:
    from worldflux.data.recorded.opening import format_of, open_recorded
    from worldflux.data.recorded.survey import rate, survey

    try:
        recorded = open_recorded(options.paths)
    except ConfigurationError as error:
        raise error.about("PATH") if error.key == "data.path" else error from None
    seen = survey(recorded)
    report: dict[str, Any] = {
        "paths": list(recorded.paths),
        "format": format_of(Path(recorded.paths[0])),
        **seen.as_dict(),
    }
    if options.rate:
        batch, length = options.rate
        report["batches_per_second"] = rate(recorded, batch, length, SECONDS)
    if options.out is not None:
        report["written"] = str(written(recorded, options.out))
    if not options.no_picture:
        report["picture"] = str(drawn(recorded, seen, options))
    print(json.dumps(report, indent=2) if options.json else text(report, seen, options))
    return int(bool(seen.damages))


def written(recorded: RecordedSet, out: Path) -> Path:
    """The set in one new file."""
    from worldflux.data.recorded.writing import write_episodes

    parts = recorded.parts
    whole = (parts[p].rows(int(e), 0, int(parts[p].lengths[e])) for p, e in recorded.episodes)
    write_episodes(out, whole, recorded.obs_spaces, recorded.action_spaces)
    return out


def drawn(recorded: RecordedSet, seen: Survey, options: argparse.Namespace) -> Path:
    from worldflux.report.recorded import draw_set
    from worldflux.run_folder.disk import disk_errors

    first = Path(recorded.paths[0]).resolve()
    beside = first.with_name(f"{first.name}.png") if first.exists() else Path(f"{first.name}.png")
    out: Path = options.picture or beside
    with disk_errors("picture", out):
        draw_set(recorded, seen, out)
    return out


def text(report: dict[str, Any], seen: Survey, options: argparse.Namespace) -> str:
    """The report for people."""
    files = f", {len(report['paths'])} files" * (len(report["paths"]) > 1)
    lines = [f"{report['paths'][0]} ({report['format']}{files})"]
    lengths, returns = np.array(seen.lengths), np.array(seen.returns)
    ends = f"{seen.terminated:,} ended in a terminal state"
    lines.append(f"{len(lengths):,} episodes, {lengths.sum():,} steps; {ends}")
    lines.append(f"steps of an episode: {_spread(lengths)}")
    lines.append(f"return of an episode: {_spread(returns)}")
    width = max(len(key) for key in seen.columns)
    for key, one in seen.columns.items():
        numbers = f"{one.low:g} to {one.high:g}, mean {one.mean:.4g}" if one.count else "no numbers"
        lines.append(f"  {key:<{width}}  {one.form:<20}  {numbers}")
    if "batches_per_second" in report:
        batch, length = options.rate
        per_second = report["batches_per_second"]
        text = f"reads {per_second:,.1f} batches of {batch} x {length} a second"
        lines.append(f"{text} ({per_second * batch * length:,.0f} steps)")
    lines += [f"damaged: {one}" for one in seen.damages]
    if seen.more:
        lines.append(f"damaged: {seen.more:,} more")
    lines += [f"{key} {report[key]}" for key in ("written", "picture") if key in report]
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}, mean {values.mean():.4g}"


main = verb(parser, _main)
