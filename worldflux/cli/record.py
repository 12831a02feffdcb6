"""`worldflux record`: plays episodes and writes them as a file to train on."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldflux.cli.guarded import verb
from worldflux.cli.parser import SEED, TRUST, Parser, positive
from worldflux.errors import ConfigurationError


def parser() -> Parser:
    made = Parser(
        "worldflux record",
        description="Plays episodes and writes them as the agent sees them, for data=dataset: .npz,"
        " .hdf5, .parquet, or a folder for Minari (a name without suffix).",
    )
    made.add_argument(
        "words",
        nargs="*",
        metavar="RUN env...",
        help="a run folder, a checkpoint or a model folder, and the environment, as worldflux-run takes"
        " it; a run has its own, and without a run --policy says who acts",
    )
    made.add_argument(
        "--episodes", type=positive, default=10, metavar="N", help="of each task; default: 10"
    )
    made.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a new file or folder"
    )
    made.add_argument(
        "--policy",
        default="agent",
        metavar="WHO",
        help="agent (default), random, or module:function: a function from the environment's own"
        " observation to an action of it",
    )
    made.add_argument("--explore", action="store_true", help="the agent samples, as in training")
    made.add_argument(
        "--checkpoint", default="best", metavar="NAME", help="best (default), latest, step_..."
    )
    made.add_argument("--seed", type=int, default=SEED, help="of environments and actions")
    made.add_argument("--trust", action="store_true", help=TRUST)
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0…")
    return made


def _main(options: argparse.Namespace) -> int:
    from worldflux.data.recorded.writing import write_episodes, writer_of
    from worldflux.runner.recording import play  # PyTorch: nothing for --help

    writer_of(options.out)
    runs = [word for word in options.words if "=" not in word or Path(word).exists()]
    if len(runs) > 1:
        raise ConfigurationError(f"{runs[1]!r} is one run too many")
    played = play(
        Path(runs[0]) if runs else None,
        [word for word in options.words if word not in runs],
        policy=options.policy,
        episodes=options.episodes,
        seed=options.seed,
        checkpoint=options.checkpoint,
        explore=options.explore,
        trust=options.trust,
        device=options.device,
    )
    spaces = played.obs_spaces, played.action_spaces
    episodes, steps = write_episodes(options.out, played.episodes, *spaces)
    print(f"{episodes:,} episodes, {steps:,} steps: {options.out}")
    return 0


main = verb(parser, _main)
