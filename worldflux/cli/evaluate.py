"""`worldflux eval`: the return of a trained run or model, with its interval, and a video."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.cli.guarded import verb
from worldflux.cli.parser import SEED, TRUST, Parser, positive
from worldflux.config.overrides import key_of
from worldflux.errors import ConfigurationError
from worldflux.run_folder.names import VIDEOS

if TYPE_CHECKING:
    from worldflux.core.agent import Agent
    from worldflux.runner.trained import SavedModel, TrainedRun
    from worldflux.training.evaluate import Evaluation


def parser() -> Parser:
    made = Parser(
        "worldflux eval",
        description="Plays greedy episodes in an environment and prints the mean return.",
    )
    made.add_argument(
        "run",
        type=Path,
        metavar="DIR",
        help="a run folder, one checkpoint of it, a model folder (imported, or of save_pretrained), or"
        " an official checkpoint as `worldflux import` takes it",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="env...",
        help="the environment, as worldflux-run takes it: env=dmc env.id=walker-walk; a run's own"
        " unless given, a model needs one; for an official checkpoint also its settings, NAME=VALUE",
    )
    made.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings that an official checkpoint was trained with, as its code writes them",
    )
    made.add_argument(
        "--episodes", type=positive, default=20, metavar="N", help="of each task; default: 20"
    )
    made.add_argument(
        "--checkpoint", default="best", metavar="NAME", help="best (default), latest, step_..."
    )
    made.add_argument("--seed", type=int, default=SEED, help="of environments and sampled latents")
    made.add_argument("--trust", action="store_true", help=TRUST)
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0…")
    made.add_argument(
        "--video",
        nargs="?",
        const="",
        metavar="FILE",
        help="also record one episode: .gif or .webp (default: DIR/videos/…)",
    )
    made.add_argument(
        "--at-least", type=float, metavar="R", help="exit with 1 if the mean return is below R"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def opened(options: argparse.Namespace) -> tuple[TrainedRun | SavedModel, Agent]:
    """What is evaluated, with its agent; an official checkpoint is imported on the fly."""
    from worldflux.models.hub import local
    from worldflux.models.official import importer_of  # PyTorch: nothing for --help
    from worldflux.runner.trained import open_trained

    options.run = local(options.run)
    importer = importer_of(options.run)
    if importer is not None:
        return imported(importer, options)
    if options.config is not None:
        raise ConfigurationError(f"--config is for official checkpoints, {options.run} is none")
    run = open_trained(options.run, options.checkpoint, options.overrides, options.trust)
    return run, run.agent(options.device)


def imported(importer: ModuleType, options: argparse.Namespace) -> tuple[SavedModel, Agent]:
    """An official checkpoint in the environment that is named; prints what is assumed of it."""
    from worldflux.runner.trained import chosen_env, fitted

    named = [word for word in options.overrides if key_of(word).partition(".")[0] == "env"]
    settings = [word for word in options.overrides if word not in named]
    if not named:
        text = f"{options.run} is a model and knows no environment"
        raise ConfigurationError(f"{text}: name one, for example env=dmc env.id=walker-walk")
    made = importer.load_checkpoint(options.run, config=options.config, settings=settings)
    for line in made.lines():
        print(line, file=sys.stderr)
    config = made.model.config
    run = fitted(options.run, config, chosen_env(config.model_type, named))
    with TemporaryDirectory() as folder:
        made.model.save_pretrained(folder)
        return run, replace(run, folder=Path(folder)).agent(options.device)


def _main(options: argparse.Namespace) -> int:
    if options.video and options.video.startswith("env"):
        options.overrides.append(options.video)
        options.video = ""
    run, agent = opened(options)
    video = None
    if options.video is not None:
        home = run.folder if run.folder.is_dir() else run.folder.parent
        video = Path(options.video or home / VIDEOS / f"eval_{run.name}.gif")
        run.record(agent, options.seed, video)
    result = run.evaluator(options.episodes)(agent, options.seed)
    assert result is not None
    report = summary(run, result, options, video)
    print(json.dumps(report, indent=2) if options.json else text(report))
    return int(options.at_least is not None and result.mean < options.at_least)


def summary(
    run: TrainedRun | SavedModel,
    result: Evaluation,
    options: argparse.Namespace,
    video: Path | None,
) -> dict[str, Any]:
    low, high = result.interval()
    return {
        "run": str(run.folder),
        "checkpoint": run.name if hasattr(run, "checkpoint") else None,
        "env": run.env.id,
        "episodes": len(result.returns),
        "mean_return": result.mean,
        "interval": [low, high],
        "confidence": 0.95,
        "std": float(np.std(result.returns)),
        "mean_length": float(np.mean(result.lengths)),
        "returns": result.returns,
        "lengths": result.lengths,
        "tasks": result.task_means(),
        "seed": options.seed,
        "video": None if video is None else str(video),
    }


def text(report: dict[str, Any]) -> str:
    """The summary for people."""
    low, high = report["interval"]
    lines = [
        " · ".join(filter(None, [report["env"], report["run"], report["checkpoint"]])),
        f"return {report['mean_return']:.4g} (95 % interval {low:.4g} to {high:.4g}), "
        f"{report['episodes']} episodes of {report['mean_length']:.4g} steps",
    ]
    lines += [f"  {task}: {mean:.4g}" for task, mean in report["tasks"].items()]
    if report["video"]:
        lines.append(f"video {report['video']}")
    return "\n".join(lines)


main = verb(parser, _main)
