"""`worldflux eval`: the return of a trained run, with its interval, and a video."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.cli.run import make_agent
from worldflux.core.agent import Agent
from worldflux.core.config import WorldModelConfig
from worldflux.envs.config import EnvConfig
from worldflux.errors import CheckpointError, ConfigurationError, WorldFluxError
from worldflux.report.video import write_video
from worldflux.training.checkpoint import CheckpointStore, read_checkpoint
from worldflux.training.config import TrainingConfig
from worldflux.training.evaluate import Evaluation, GreedyEvaluator
from worldflux.training.manifest import read_manifest
from worldflux.training.run_folder import CHECKPOINTS, run_of

SEED = 1_000_003  # far from the seeds 0, 1, 2… that runs train with


@dataclass
class TrainedRun:
    """What evaluation needs of a run folder."""

    folder: Path
    checkpoint: Path
    model: WorldModelConfig
    env: EnvConfig
    training: TrainingConfig

    def agent(self, device: str) -> Agent:
        """The agent with the checkpoint's weights, on a device."""
        training = self.training.with_updates(device=device)
        if training.mixed_precision_dtype == "float16" and training.resolve_device() == "cpu":
            training = training.with_updates(mixed_precision=False)
        agent = make_agent(self.model, training)
        agent.load_state_dict(read_checkpoint(self.checkpoint).agent)
        return agent


def open_run(path: Path, wanted: str = "best") -> TrainedRun:
    """A run folder, or a checkpoint folder inside one.

    wanted: ``best`` (the newest where nothing was evaluated yet), ``latest`` or a folder name
    under ``checkpoints``. CheckpointError says what is missing.
    """
    if path.parent.name == CHECKPOINTS and path.is_dir():
        path, wanted = run_of(path), path.name
    if not path.is_dir():
        raise CheckpointError(f"no run folder at {path}")
    manifest = read_manifest(path)
    try:
        config, model = manifest["config"], manifest["model_config"]
        family = WorldModelConfig.families[model["model_type"]]
        return TrainedRun(
            folder=path,
            checkpoint=choose_checkpoint(path, wanted),
            model=family.from_dict(model),
            env=EnvConfig.from_dict(config["env"]),
            training=TrainingConfig.from_dict(config["training"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: its manifest has no {error}, so it cannot be run") from None


def choose_checkpoint(run: Path, wanted: str) -> Path:
    store = CheckpointStore(run / CHECKPOINTS)
    folders = store.folders()
    if not folders:
        raise CheckpointError(f"{run} has no checkpoint yet")
    if wanted == "best":
        return store.best() or folders[-1]
    if wanted == "latest":
        return folders[-1]
    for folder in folders:
        if folder.name == wanted:
            return folder
    names = ", ".join(folder.name for folder in folders)
    raise CheckpointError(f"{run} has no checkpoint {wanted!r}; it has best, latest, {names}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux eval",
        description="Plays greedy episodes in the run's environment and tells the mean return.",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one checkpoint of it")
    made.add_argument("--episodes", type=_positive, default=20, metavar="N")
    made.add_argument(
        "--checkpoint", default="best", metavar="NAME", help="best (default), latest, step_..."
    )
    made.add_argument("--seed", type=int, default=SEED, help="of environments and sampled latents")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0…")
    made.add_argument(
        "--video",
        nargs="?",
        const="",
        metavar="FILE",
        help="also record one episode: .gif or .webp (default: RUN/videos/…)",
    )
    made.add_argument(
        "--at-least", type=float, metavar="R", help="exit with 1 if the mean return is below R"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, 1 below ``--at-least``, 2 wrong input)."""
    options = parser().parse_args(argv)
    try:
        return _main(options)
    except WorldFluxError as error:
        print(f"worldflux eval: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _main(options: argparse.Namespace) -> int:
    run = open_run(options.run, options.checkpoint)
    agent = run.agent(options.device)
    video = None
    if options.video is not None:
        video = record(run, agent, options.seed, Path(options.video) if options.video else None)
    result = GreedyEvaluator(run.env, options.episodes)(agent, options.seed)
    assert result is not None
    report = summary(run, result, options, video)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(text(report))
    return int(options.at_least is not None and result.mean < options.at_least)


def record(run: TrainedRun, agent: Agent, seed: int, path: Path | None) -> Path:
    """Records one episode in an environment of its own (scored episodes draw no frames)."""
    path = path or run.folder / "videos" / f"eval_{run.checkpoint.name}.gif"
    played = GreedyEvaluator(run.env, episodes=1)(agent, seed, record=True)
    if played is None or not played.frames:
        raise ConfigurationError(f"env.id={run.env.id} draws no frames, so there is no video")
    write_video(path, np.stack(played.frames))
    return path


def summary(
    run: TrainedRun, result: Evaluation, options: argparse.Namespace, video: Path | None
) -> dict[str, Any]:
    low, high = result.interval()
    return {
        "run": str(run.folder),
        "checkpoint": run.checkpoint.name,
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
        f"{report['env']} · {report['run']} · {report['checkpoint']}",
        f"return {report['mean_return']:.4g} (95 % interval {low:.4g} to {high:.4g}), "
        f"{report['episodes']} episodes of {report['mean_length']:.4g} steps",
    ]
    lines += [f"  {task}: {mean:.4g}" for task, mean in report["tasks"].items()]
    if report["video"]:
        lines.append(f"video {report['video']}")
    return "\n".join(lines)


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
