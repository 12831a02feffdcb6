"""`worldflux imagine`: plays episodes and pictures what the model imagines of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from worldflux.cli.guarded import verb
from worldflux.cli.parser import SEED, TRUST, Parser, positive
from worldflux.errors import ConfigurationError
from worldflux.project.schema import FILE, load_config
from worldflux.run_folder.checkpoints import checkpoint_at
from worldflux.run_folder.names import REPORT

if TYPE_CHECKING:
    from worldflux.runner.trained import TrainedRun

HORIZON = 15


def parser() -> Parser:
    made = Parser(
        "worldflux imagine",
        description="Plays greedy episodes with a checkpoint and pictures reality and, from every"
        " N-th step, what the model imagines under the same actions. Pictures give a video too.",
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
        "--episodes", type=positive, default=1, metavar="N", help="of each task; default: 1"
    )
    made.add_argument("--seed", type=int, default=SEED, help="of environment and imagination")
    made.add_argument("--trust", action="store_true", help=TRUST)
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0…")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="where pictures go (default: RUN/report)"
    )
    return made


def _main(options: argparse.Namespace) -> int:
    from worldflux.runner.imagined import imagine_run  # PyTorch: nothing for --help

    run, horizon = chosen(options)
    if options.out is None and not os.access(run.folder, os.W_OK):
        raise ConfigurationError(f"{run.folder} may only be read: --out DIR draws elsewhere")
    for line in imagine_run(
        run,
        run.agent(options.device),
        horizon=horizon,
        episodes=options.episodes,
        seed=options.seed,
        out=options.out or run.folder / REPORT,
    ):
        print(line)
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
