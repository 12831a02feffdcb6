"""`worldflux train`: trains what a worldflux.toml describes, as `worldflux-run` would."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from worldflux.cli.guarded import guarded_hydra
from worldflux.cli.main import start
from worldflux.cli.parser import Parser
from worldflux.config.composition import Composition, composed
from worldflux.config.overrides import key_of, override, parse_overrides
from worldflux.config.run import register
from worldflux.errors import ConfigurationError
from worldflux.project.convert import overrides
from worldflux.project.mapping import Setting, settings
from worldflux.project.origins import origins, shown
from worldflux.project.schema import FILE, ProjectConfig, load_config
from worldflux.project.sections import DELEGATED
from worldflux.run_folder.checkpoints import run_at
from worldflux.runner.continuation import changes, saved_config
from worldflux.runner.job import Job

if TYPE_CHECKING:
    from worldflux.project.runtime import Project

PROGRAM = "worldflux train"
# Flag -> the key of worldflux.toml it stands for.
OF_FILE = {
    "steps": "training.total_steps",
    "device": "training.device",
    "output_dir": "training.output_dir",
}
# Flag -> the Hydra key it sets; the file has none.
OF_RUN = {"num_envs": "training.num_envs", "env_mode": "training.env_mode", "seed": "training.seed"}
# Flags of older versions.
GONE = {
    "--use-ddp": "worldflux-run trains with several processes, training.nproc=N",
    "--cloud": "runs are local",
    "--gpu": "runs are local; --device cuda:0 takes a GPU of this machine",
}


def parser() -> Parser:
    made = Parser(
        prog=PROGRAM,
        description="Trains what worldflux.toml describes. Flags go before what the file says.",
        epilog="exit codes: 0 fine, 2 wrong input, 3 training stopped itself, 130 Ctrl-C",
        gone=GONE,
    )
    made.add_argument(
        "-c",
        "--config",
        type=Path,
        default=Path(FILE),
        metavar="FILE",
        help="default: ./worldflux.toml",
    )
    made.add_argument("--steps", type=int, metavar="N", help="gradient updates in all")
    made.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    made.add_argument("--output-dir", metavar="DIR", help="the run folder")
    made.add_argument(
        "--resume-from", metavar="RUN", help="continue a run folder, such as ./outputs"
    )
    made.add_argument(
        "--strict", action="store_true", help="an error where the run would train on random data"
    )
    made.add_argument("--seed", type=int, metavar="N", help="of every random stream of the run")
    made.add_argument("--num-envs", type=int, metavar="N", help="environments stepped together")
    made.add_argument(
        "--env-mode",
        choices=("sync", "async", "auto"),
        help="environments in this process, or in one each",
    )
    made.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of worldflux-run, such as training.eval_episodes=20",
    )
    made.add_argument(
        "--show", action="store_true", help="print the configuration, and where each value is from"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    return guarded_hydra(PROGRAM, lambda: _main(parser().read(argv)))


def _main(options: argparse.Namespace) -> int:
    config = with_flags(load_config(options.config), options)
    if options.resume_from is not None:
        return _resume(config, options)
    of_file = with_strictness(settings(config), options.strict)
    extra = _extra(options)
    replaced = {key_of(word) for word in extra}
    if "resume" in replaced:
        raise ConfigurationError(": --resume-from RUN continues a run", key="resume")
    kept = {key: item for key, item in of_file.items() if key not in replaced}
    words = [*overrides(kept), *extra, "hydra.run.dir=${training.output_dir}"]
    with told_with_lines(config, of_file):
        register()
        parse_overrides(words)
        job = Job.compose(Composition.of(None), words)
        sources = origins(job.config, config, kept, _flags(options))
        if options.show:
            print(shown(job.config, sources))
            return 0
        _warn_of_ignored(config)
        project = _project(config, options)
        project.facts = {"config_origins": sources}
        job.start(project)
    return 0


def _resume(config: ProjectConfig, options: argparse.Namespace) -> int:
    """Continues a run with the configuration it was started with; flags go before it."""
    if options.output_dir is not None:
        raise ConfigurationError("--output-dir: a run is resumed in its own folder; leave it out")
    run = run_at(options.resume_from)
    words = [override("resume", str(run))]
    if options.steps is not None:
        words.append(override("training.total_steps", options.steps))
    if options.device is not None:
        words.append(override("training.device", options.device))
    if options.strict:
        words.append("data.on_env_failure=error")
    words += _extra(options)
    if options.show:
        return start([*words, "--cfg", "job"])
    _warn_of_ignored(config)
    _warn_of_kept(run, config, _flags(options))
    return start(words, _project(config, options))


def _project(config: ProjectConfig, options: argparse.Namespace) -> Project:
    from worldflux.project.runtime import Project  # PyTorch: nothing for --help and --show

    return Project(config.path.parent, strict=options.strict)


def with_flags(config: ProjectConfig, options: argparse.Namespace) -> ProjectConfig:
    """The file's configuration with the flags that stand for its keys in their place."""
    changed = {}
    for flag, key in OF_FILE.items():
        value = getattr(options, flag)
        if value is None:
            continue
        name = key.partition(".")[2]
        try:
            replace(config.training, **{name: value})
        except ConfigurationError as error:
            raise error.about(f"--{flag.replace('_', '-')}", error.hint) from None
        changed[name] = value
    return replace(config, training=replace(config.training, **changed))


def with_strictness(of_file: dict[str, Setting], strict: bool) -> dict[str, Setting]:
    if strict and "data.on_env_failure" in of_file:
        return {**of_file, "data.on_env_failure": Setting("error", None, "--strict")}
    return of_file


def _extra(options: argparse.Namespace) -> list[str]:
    set_here = {key: getattr(options, flag) for flag, key in OF_RUN.items()}
    words = [override(key, value) for key, value in set_here.items() if value is not None]
    return [*words, *options.override]


def _flags(options: argparse.Namespace) -> dict[str, str]:
    """Key of the file or of the run -> the flag that set it."""
    named = {
        key: f"flag --{flag.replace('_', '-')}"
        for flag, key in {**OF_FILE, **OF_RUN}.items()
        if getattr(options, flag) is not None
    }
    return named | {key_of(word): f"flag --override {word}" for word in options.override}


def _warn_of_ignored(config: ProjectConfig) -> None:
    if config.ignored:
        names = ", ".join(config.ignored)
        print(
            f"{PROGRAM}: {config.path} asks for {names}: ignored, as runs are local",
            file=sys.stderr,
        )
    if config.training.backend.endswith(DELEGATED):
        print(f"{PROGRAM}: training with the native_torch backend instead", file=sys.stderr)


def _warn_of_kept(run: Path, config: ProjectConfig, flags: dict[str, str]) -> None:
    """What the file says by now and a run that continues does not take over."""
    now = composed(overrides(settings(config)))
    for key, (old, new) in changes(saved_config(run), now).items():
        if key not in flags and not key.startswith(("project", "data.on_env_failure")):
            text = f"{key} stays {old!r} in a run that continues ({config.path} makes it {new!r})"
            print(f"{PROGRAM}: {text}", file=sys.stderr)


@contextmanager
def told_with_lines(config: ProjectConfig, of_file: dict[str, Setting]) -> Iterator[None]:
    """Tells what is wrong with a value by the key of the file that gave it, and its line."""
    try:
        yield
    except ConfigurationError as error:
        item = of_file.get(error.key)
        if item is None or item.source is None or item.source not in config.explicit:
            raise
        mistake = error.about(item.source)
        raise mistake.labelled(f"{config.where(item.source)}: ") from error
