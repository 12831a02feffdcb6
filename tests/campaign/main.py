"""The campaign on the command line: its parts, their trials, the table."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.campaign import (
    bombs,
    damages,
    environments,
    hostile,
    matrix,
    places,
    projects,
    words,
)
from tests.campaign.runs import FAMILIES
from tests.campaign.trials import BAD, VERDICTS, Part, Trial, Verdict, run_all
from tests.training import crash

PARTS = {
    module.PART.name: module.PART
    for module in (damages, hostile, bombs, environments, words, projects, places, matrix)
}
CRASH = "crash"
KILLS = {True: 4, False: 100}  # interruptions of the short form, and of the long one


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Tries what is foreign, damaged or nonsense in numbers, and prints a table. Exit"
        " code 1: a traceback, a hang, a result that is silently wrong, or something executed."
    )
    made.add_argument("--part", nargs="+", choices=[*PARTS, CRASH], default=[*PARTS, CRASH])
    made.add_argument("--short", action="store_true", help="a few of each, as the tests run it")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--count", type=int, help="trials of each part (default: its own)")
    made.add_argument("--first", type=int, default=0, metavar="N", help="number of the first trial")
    made.add_argument("--only", type=int, nargs="+", metavar="N", help="these trials alone")
    made.add_argument("--jobs", type=int, default=1, help="trials at a time")
    made.add_argument("--verbose", action="store_true", help="print every trial")
    made.add_argument(
        "--results", type=Path, metavar="FILE",
        help="append every verdict to this file as it comes (JSON lines), and print the table of all that it holds",
    )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts and prints the table; returns the exit code."""
    options = parser().parse_args(argv)
    torch.set_num_threads(1)  # a fork has no other threads
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignored
        signal.signal(number, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="campaign_"))
    os.environ["XDG_STATE_HOME"] = str(root / "state")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # for workers
    os.environ["MPLCONFIGDIR"] = str(root / "matplotlib")
    _import_everything()
    rows: dict[str, Counter[str]] = {}
    failed = False
    for name in options.part:
        if name == CRASH:
            failed |= _crash(options) != 0
        else:
            rows[name] = _part(PARTS[name], options, root / name)
    print(table(rows if options.results is None else recorded(options.results)))
    failed |= any(row[kind] for row in rows.values() for kind in BAD)
    if failed:
        print(f"kept for a look: {root}", file=sys.stderr)
    else:
        shutil.rmtree(root)
    return int(failed)


def _part(part: Part, options: argparse.Namespace, root: Path) -> Counter[str]:
    count = options.count
    if count is None:
        count = part.short if options.short else part.long
    if not count:
        return Counter()
    numbers = range(options.first, options.first + count)
    base = root.parent / "base"  # of all parts
    base.mkdir(exist_ok=True)
    os.environ["WORLDFLUX_CANARY"] = str(base / "canary")
    part.prepare(base)
    gc.collect()
    gc.freeze()  # a fork need not copy what it never changes
    tally: Counter[str] = Counter()
    drawn = _drawn(part, options, options.only or numbers, base)
    for trial, verdict in until_interrupted(run_all(drawn, root, options.jobs, part.seconds)):
        tally[verdict.kind] += 1
        if options.results is not None:
            with options.results.open("a") as file:
                row = [part.name, options.seed, trial.number, verdict.kind, trial.name]
                file.write(json.dumps([*row, verdict.detail]) + "\n")
        if verdict.kind in BAD or options.verbose or options.only:
            print(f"{part.name} {trial.number} {verdict.kind}: {trial.name}: {verdict.detail}")
        if verdict.kind in BAD:
            again = f"--part {part.name} --seed {options.seed} --only {trial.number}"
            print(f"    python scripts/campaign.py {again}", flush=True)
    return tally


def recorded(path: Path) -> dict[str, Counter[str]]:
    """The rows of the table of a file of results: the last verdict on each trial."""
    last: dict[tuple[str, int, int], str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        name, seed, number, kind, *_ = json.loads(line)
        last[name, seed, number] = kind
    return {
        name: Counter(kind for (part, *_), kind in last.items() if part == name)
        for name in dict.fromkeys(part for part, *_ in last)
    }


def until_interrupted(verdicts: Iterator[tuple[Trial, Verdict]]) -> Iterator[tuple[Trial, Verdict]]:
    """The verdicts; Ctrl-C ends the part, and the table has what was tried."""
    try:
        yield from verdicts
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)


def _drawn(
    part: Part, options: argparse.Namespace, numbers: Sequence[int], base: Path
) -> Iterator[Trial]:
    for number in numbers:
        rng = random.Random(f"{options.seed} {part.name} {number // part.group}")
        yield part.make(rng, number, base)


def _crash(options: argparse.Namespace) -> int:
    kills = options.count or KILLS[options.short]
    words = ["--kills", str(kills), "--seed", str(options.seed)]
    return crash.main([*words, *(("--updates", "12", "--envs", "1") if options.short else ())])


def table(rows: dict[str, Counter[str]]) -> str:
    """The summary for a person."""
    lines = [("part", "tried", *VERDICTS)]
    for name, row in rows.items():
        lines.append((name, str(row.total()), *(str(row[kind]) for kind in VERDICTS)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _import_everything() -> None:
    """So that a fork finds it: what commands import when they need it."""
    import importlib

    from worldflux.cli.verbs import VERBS

    more = ("report.curves", "report.imagination", "runner.imagined", "runner.run", "data.sources")
    more += ("envs.make", "models.dreamerv3.agent", "models.tdmpc2.agent", "verify.quick")
    more += ("runner.trained", "envs.gym_suite", "data.gym_source", "sweep.run")
    for module in (*(module for module, _ in VERBS.values()), *(f"worldflux.{m}" for m in more)):
        importlib.import_module(module)
    more = ("torch.utils.tensorboard", "matplotlib.pyplot", "worldflux.training.tensorboard")
    for module in (*more, "worldflux.dashboard.live", "worldflux.models.official"):
        importlib.import_module(module)
    from worldflux.config.composition import composed
    from worldflux.models.factory import count_parameters

    for family in FAMILIES:  # Hydra's plugins, and half of torch for tensors without memory
        count_parameters(composed([f"model={family}"]).model)


if __name__ == "__main__":
    sys.exit(main())
