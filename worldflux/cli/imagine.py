"""`worldflux imagine`: plays episodes and pictures what the model imagines of them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from worldflux.cli.guarded import verb
from worldflux.cli.parser import SEED, TRUST, Parser, positive
from worldflux.errors import ConfigurationError
from worldflux.project.schema import FILE, load_config
from worldflux.run_folder.checkpoints import checkpoint_at
from worldflux.run_folder.disk import shown
from worldflux.run_folder.names import REPORT

if TYPE_CHECKING:
    from worldflux.runner.trained import TrainedRun

HORIZON = 15


def parser() -> Parser:
    made = Parser(
        "worldflux imagine",
        description="Plays greedy episodes with a checkpoint and pictures reality and, from every"
        " N-th step, what the model imagines under the same actions. Pictures give a video too. With"
        " --measure, says how good the model is, on episodes of the policy and of random actions.",
    )
    made.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="a run folder or one checkpoint of it (default: [inference] checkpoint)",
    )
    made.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a project's file, whose [inference] holds (default: {FILE}, without RUN)",
    )
    made.add_argument(
        "--horizon",
        type=positive,
        metavar="N",
        help=f"steps that are imagined (default: {HORIZON})",
    )
    made.add_argument(
        "--episodes",
        type=positive,
        metavar="N",
        help="of each task; default: 1, with --measure 20 of each policy",
    )
    made.add_argument(
        "--measure", action="store_true", help="measure the world model: docs/measure.md"
    )
    made.add_argument("--json", action="store_true", help="with --measure: print one JSON object")
    made.add_argument("--seed", type=int, default=SEED, help="of environment and imagination")
    made.add_argument("--trust", action="store_true", help=TRUST)
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0…")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="where pictures go (default: RUN/report)"
    )
    return made


def _main(options: argparse.Namespace) -> int:
    from worldflux.runner.imagined import imagine_run  # PyTorch: nothing for --help

    if options.json and not options.measure:
        raise ConfigurationError("--json goes with --measure")
    run, horizon = chosen(options)
    if options.measure:
        return _measure(options, run, horizon)
    if options.out is None and not os.access(run.folder, os.W_OK):
        raise ConfigurationError(f"{run.folder} may only be read: --out DIR draws elsewhere")
    for line in imagine_run(
        run,
        run.agent(options.device),
        horizon=horizon,
        episodes=options.episodes or 1,
        seed=options.seed,
        out=options.out or run.folder / REPORT,
    ):
        print(line)
    return 0


def _measure(options: argparse.Namespace, run: TrainedRun, horizon: int) -> int:
    from worldflux.report.measurement import lines
    from worldflux.runner.measured import (
        EPISODES,
        measure_tasks,
        measurement_document,
        write_measurement,
    )

    title = f"{run.folder.name} · {run.checkpoint.name}"
    of_tasks = {}
    for task, measurements in measure_tasks(
        run.env,
        run.agent(options.device),
        horizon=horizon,
        episodes=options.episodes or EPISODES,
        seed=options.seed,
    ):
        of_tasks[task] = measurements
        if not options.json:
            print("\n".join([f"{task} · {title}", *lines(measurements)]), flush=True)
    text = json.dumps(measurement_document(run.checkpoint, of_tasks, options.seed), indent=2)
    files = write_measurement(options.out or run.folder / REPORT, of_tasks, title, text)
    print(text if options.json else "\n".join(map(shown, files)))
    return 0


def chosen(options: argparse.Namespace) -> tuple[TrainedRun, int]:
    """The run and the horizon: flags come first, then the project's file, then the default."""
    from worldflux.runner.trained import open_run

    if options.config is None and options.run is not None:
        return open_run(options.run, trust=options.trust), options.horizon or HORIZON
    config = load_config(options.config or FILE)
    path = options.run or checkpoint_at(config.inference.checkpoint)
    return open_run(path, trust=options.trust), options.horizon or config.inference.horizon


main = verb(parser, _main)
