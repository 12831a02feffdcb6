"""`worldflux-run`: the one entry point that trains.

Hydra composes and runs the jobs. Around it stands what a person needs: every configuration is
checked before anything is created on disk, and every mistake is one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from omegaconf import DictConfig

from worldflux import __version__
from worldflux.cli import arguments
from worldflux.cli.guarded import guarded_hydra
from worldflux.cli.help import help_text
from worldflux.cli.leaving import leaving
from worldflux.config import composition
from worldflux.config import run as schema
from worldflux.config.composition import Composition, Expansion
from worldflux.config.overrides import key_of, parse_overrides, plain_paths
from worldflux.config.presets import conf_dir
from worldflux.errors import ConfigurationError
from worldflux.runner.continuation import AUTO
from worldflux.runner.job import check_alone, train
from worldflux.runner.parts import Parts
from worldflux.runner.preflight import check_trainable
from worldflux.runner.resume import Request, requested
from worldflux.sweep import words as sweep_words

PROGRAM, CONFIG_NAME = "worldflux-run", "config"
MANY = 100  # jobs whose check takes so long that a line says so
# What makes one run a sweep of one job: Hydra has launchers in sweeps only.
SWEEPING = ("hydra/launcher=", "hydra.mode=MULTIRUN")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    0 fine, 1 jobs of a sweep failed, 2 the user's input is wrong, 3 training stopped itself, 130
    Ctrl-C. A bug keeps its traceback and gives 1. HYDRA_FULL_ERROR=1 gives every traceback in full.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = partial(guarded_hydra, PROGRAM, lambda: start(words))
    return leaving(command) if argv is None else command()


def start(words: Sequence[str], parts: Parts | None = None) -> int:
    """Checks and runs a command line of `worldflux-run`. parts: of its run, where they are not
    those of the configuration alone."""
    sweep, words = sweep_words.take(plain_paths(words))
    args = arguments.parse(words)
    if "hydra/sweeper=optuna" in args.overrides:
        raise ConfigurationError(
            "hydra/sweeper=optuna: `worldflux search NAME` searches with Optuna"
        )
    if not args.multirun and not args.show and any(map(_is_for_a_launcher, args.overrides)):
        args.multirun, args.flags = True, ["-m", *args.flags]
    if sweep is not None and not args.multirun:
        raise ConfigurationError("sweep names and steers a sweep: add -m")
    if args.help and args.overrides:
        from worldflux.reference import explained

        print("\n\n".join(explained(key_of(word)) for word in args.overrides))
        return 0
    if args.version or args.help:
        print(help_text(args.config_dir) if args.help else f"worldflux {__version__}\n", end="")
        return 0
    schema.register(*([Path(args.config_dir)] if args.config_dir else []))
    if args.shell_completion:
        return _hydra(words, CONFIG_NAME)
    if args.multirun and requested(parse_overrides(args.overrides)) not in (None, AUTO):
        text = "resume continues one run, in this process: leave out -m and hydra/launcher"
        raise ConfigurationError(text)
    request = Request.of(
        args.overrides,
        config_dir=args.config_dir,
        config_path=args.config_path,
        config_name=args.config_name or CONFIG_NAME,
    )
    if args.multirun and not args.show:
        check_alone()
        steering = sweep or sweep_words.SweepWords()
        return _sweep(request.source, request.overrides, args.flags, steering)
    if args.show:
        if args.cfg in ("job", "all"):
            request.source.check(request.overrides)
        return _hydra([*args.flags, *request.overrides], request.source.name)
    job = request.job()
    if job.launched:
        steering = sweep_words.SweepWords()
        return _sweep(request.source, request.overrides, ["-m", *args.flags], steering)
    job.start(parts or Parts())
    return 0


def _is_for_a_launcher(word: str) -> bool:
    return word.startswith(SWEEPING) and word != "hydra/launcher=basic"


def _sweep(
    source: Composition,
    overrides: Sequence[str],
    flags: Sequence[str],
    words: sweep_words.SweepWords,
) -> int:
    expansion = source.expand(overrides)
    if expansion.jobs is None:
        if words != sweep_words.SweepWords():
            raise ConfigurationError("sweep.* is for hydra/sweeper=basic, which lists its jobs")
        _preflight(expansion, expansion.check())
        return _hydra([*flags, *overrides], source.name)
    from worldflux.sweep import run as sweep

    if len(expansion.jobs) > MANY:
        text = f"checking {len(expansion.jobs):,} jobs before the first one starts"
        print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)
    plan = sweep.plan(overrides, expansion, words, flags)
    _preflight(expansion, sweep.unfinished(plan, expansion))
    return sweep.run(plan, expansion.source)


def _preflight(expansion: Expansion, configs: Sequence[schema.RunConfig]) -> None:
    with env_override(expansion.base.hydra.job.env_set):
        check_trainable(configs)


def _hydra(words: Sequence[str], config_name: str) -> int:
    """Leaves a command line to Hydra: what it only prints, and the jobs of its other sweepers."""

    def job(cfg: DictConfig) -> float:
        return train(schema.run_config(cfg), Path(HydraConfig.get().runtime.output_dir))

    before, sys.argv = sys.argv, [PROGRAM, *words]
    try:
        hydra.main(str(conf_dir()), config_name, **composition.VERSION)(job)()
    finally:
        sys.argv = before
    return 0


if __name__ == "__main__":
    sys.exit(main())
