"""`worldflux search`: looks for hyperparameters with Optuna, one run of `worldflux-run` per trial."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

from hydra.core.utils import env_override
from rich.console import Console

from worldflux.cli.guarded import verb
from worldflux.cli.parser import Parser
from worldflux.config.overrides import command, override
from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import shown
from worldflux.search import PRUNERS, SAMPLERS, require_optuna
from worldflux.sweep.jobs import text_of
from worldflux.training.signals import StopSignals

if TYPE_CHECKING:
    from worldflux.search.study import Search
    from worldflux.search.trial import Result


def parser() -> Parser:
    made = Parser(
        prog="worldflux search",
        usage="worldflux search NAME [flags] [OVERRIDES of worldflux-run ...]",
        description="Looks for the hyperparameters with the best final evaluation. The same command"
        " again goes on with the search; several at once share it.",
        epilog="KEY=interval(1e-5,1e-3), KEY=tag(log,interval(1e-5,1e-3)), KEY=range(1,9) or KEY=a,b"
        " searches a key; KEY=VALUE fixes it for all trials. Exit codes: 0 fine, 1 no trial was"
        " completed, 2 wrong input, 130 Ctrl-C.",
    )
    made.add_argument("name", metavar="NAME", help="of the search and its folder")
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=argparse.SUPPRESS)
    made.add_argument("--trials", type=int, default=20, metavar="N", help="in all (20)")
    made.add_argument("--space", metavar="FILE", help="YAML file, or none; default: the family's")
    made.add_argument(
        "--storage", metavar="URL", help="of Optuna, or journal:FILE; default: SQLite in the folder"
    )
    made.add_argument(
        "--sampler", choices=SAMPLERS, default="tpe", help="what proposes values (tpe)"
    )
    made.add_argument("--pruner", choices=PRUNERS, default="median", help="by evaluations so far")
    made.add_argument("--seed", type=int, default=0, help="of the sampler (0)")
    made.add_argument("--config-dir", metavar="DIR", help="adds the YAML files of a folder")
    made.add_argument("--dry-run", action="store_true", help="show the search, start nothing")
    return made


def _main(options: argparse.Namespace) -> int:
    require_optuna()
    from worldflux.runner.preflight import check_trainable
    from worldflux.search.plan import Plan
    from worldflux.search.report import count, space_table
    from worldflux.search.study import Search
    from worldflux.search.trial import run_trials

    if options.trials < 1:
        raise ConfigurationError(f"--trials must be at least 1, got {options.trials}")
    fields = ("space", "config_dir", "storage", "sampler", "pruner", "seed")
    flags = {name: getattr(options, name) for name in fields}
    plan = Plan.of(options.name, options.overrides, **flags)
    plan.check()
    with env_override(plan.env_set()):
        check_trainable([plan.config])
    settings, recipe = plan.settings, plan.recipe()
    search = Search(settings, create=not options.dry_run)
    if options.dry_run:
        Console().print(space_table(settings.space, recipe))
    else:
        search.enqueue(recipe)
    trials = search.trials
    print(f"search {settings.name} in {shown(settings.root)}: {count(trials)}", flush=True)
    if options.dry_run:
        shared = " ".join(settings.words) or "the default configuration"
        left = max(0, options.trials - len(trials))
        print(f"{left} of {options.trials} trials to begin, each with {shared}")
        print(f"storage {search.storage_url()}; nothing was started")
        return 0
    words = [] if options.config_dir is None else ["--config-dir", options.config_dir]
    signals = StopSignals()
    with signals.catching():
        for number, values, result in run_trials(
            search, options.trials, words, lambda: signals.received
        ):
            line = f"{_how(result)}{_so_far(search)} · {text_of(values)}"
            print(f"trial {number} of {options.trials}: {line}", flush=True)
    return finish(search, signals.received, options)


def _how(result: Result) -> str:
    if result.score is not None:
        return f"score {result.score:.4g}"
    return "pruned" if result.reason is None else f"failed: {result.reason}"


def _so_far(search: Search) -> str:
    best = search.best
    return "" if best is None else f" (best {best.value:.4g} of trial {best.number})"


def finish(search: Search, stopped: int | None, options: argparse.Namespace) -> int:
    """Prints the table, the best parameters, and the command that trains them."""
    from worldflux.search.report import count, trial_table, write_table

    trials, settings = search.trials, search.settings
    path = write_table(search)
    Console().print(trial_table(trials, settings.space))
    print(f"{count(trials)} · {shown(path)}")
    if any(t.state.name == "RUNNING" for t in trials) or len(trials) < options.trials:
        if stopped is None:
            print("trials still run in other processes; this command takes over what they leave")
        print(f"continue with: {_command(options)}")
    best = search.best
    if best is None:
        print("no trial was completed")
    else:
        words = [*settings.words, *(override(key, value) for key, value in best.params.items())]
        print(f"best: trial {best.number}, score {best.value:.4g}; train it with")
        print(f"  {command('worldflux-run', *words)}")
    if stopped is not None:
        return 130 if stopped == signal.SIGINT else 0
    return 0 if best is not None else 1


def _command(options: argparse.Namespace) -> str:
    made = parser()
    flags = []
    for name in ("trials", "space", "storage", "sampler", "pruner", "seed", "config_dir"):
        value = getattr(options, name)
        if value != made.get_default(name):
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return command("worldflux", "search", options.name, *flags, *options.overrides)


main = verb(parser, _main)
