"""`worldflux search`: looks for hyperparameters with Optuna, one run of `worldflux-run` per trial."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from worldflux.cli.guarded import guarded
from worldflux.config import composition
from worldflux.config import run as schema
from worldflux.config.hydra_errors import explain
from worldflux.config.presets import conf_dir
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.run_folder.disk import disk_errors, shown, write_atomic
from worldflux.runner.preflight import check_trainable
from worldflux.search.space import Space, changed, read_space, word
from worldflux.search.study import (
    ERROR,
    JOURNAL,
    PRUNERS,
    SAMPLERS,
    Search,
    Settings,
    count,
    import_optuna,
)
from worldflux.search.trial import Result, Watched
from worldflux.sweep.launch import quoted
from worldflux.sweep.words import NAME
from worldflux.training.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

    from worldflux.config.run import RunConfig

TABLE = "trials.csv"
# What the search itself decides.
OWN = ("resume", "init_from", "sweep", "hydra")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
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
    made.add_argument("--sampler", choices=SAMPLERS, default="tpe")
    made.add_argument("--pruner", choices=PRUNERS, default="median", help="by evaluations so far")
    made.add_argument("--seed", type=int, default=0, help="of the sampler (0)")
    made.add_argument("--config-dir", metavar="DIR", help="adds the YAML files of a folder")
    made.add_argument("--dry-run", action="store_true", help="show the search, start nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parser().parse_intermixed_args(argv)
    return guarded("worldflux search", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    import_optuna()
    source, settings, config = plan(options)
    check(source, settings, config)
    starts = defaults(source, settings)
    if options.dry_run:
        show(Search(settings, create=False), starts, options.trials)
        return 0
    search = Search(settings)
    search.enqueue(starts)
    print(f"search {settings.name} in {shown(settings.root)}: {count(search.trials)}", flush=True)
    with Asked() as asked:
        while asked.number is None and _one(search, options, asked):
            pass
    return finish(search, asked.number, options)


# === Before the first trial ===================================================================


def plan(options: argparse.Namespace) -> tuple[composition.Composition, Settings, RunConfig]:
    """What the command line asks for, checked but for the ranges."""
    if not NAME.fullmatch(options.name):
        text = "a name of letters, digits, '.', '_' and '-'"
        raise ConfigurationError(f"search {options.name!r}: expected {text}")
    if options.trials < 1:
        raise ConfigurationError(f"--trials must be at least 1, got {options.trials}")
    storage = options.storage
    if storage is not None and "://" not in storage and not storage.startswith(JOURNAL):
        raise ConfigurationError(
            f"--storage {storage}: expected a URL such as sqlite:///study.db, or journal:FILE"
        )
    schema.register()
    overrides = composition.parse_overrides(options.overrides)
    for override in overrides:
        if override.get_key_element().split(".")[0] in OWN:
            raise ConfigurationError(f"{override.input_line}: a search decides that itself")
    _, shared = changed({}, overrides)
    flags: tuple[str, ...] = ()
    if options.config_dir is not None:
        if not Path(options.config_dir).is_dir():
            raise ConfigurationError(f"--config-dir {options.config_dir} is no folder")
        flags = (f"hydra.searchpath=['file://{Path(options.config_dir).resolve()}']",)
    source = composition.Composition(conf_dir(), "config", flags)
    config = source.check(shared)
    space, shared = changed(_space(options.space, config), overrides)
    if not space:
        raise ConfigurationError("nothing is searched: give a key a range, or leave out --space")
    settings = Settings(
        name=options.name,
        root=Path(config.training.output_dir).resolve() / "search" / options.name,
        space=space,
        words=tuple(shared),
        storage=storage,
        sampler=options.sampler,
        pruner=options.pruner,
        seed=options.seed,
    )
    return source, settings, config


def _space(asked: str | None, config: RunConfig) -> Space:
    if asked == "none":
        return {}
    if asked is not None:
        return read_space(Path(asked))
    one = family_of_type(config.model.model_type)
    family, path = one.name, (one.conf or conf_dir()) / "search" / f"{one.name}.yaml"
    if not path.is_file():
        raise ConfigurationError(f"model={family} has no ready search space: give --space FILE")
    return read_space(path)


def check(source: composition.Composition, settings: Settings, config: RunConfig) -> None:
    """Every choice and both ends of every range make a valid run, and the environment is there."""
    for key, parameter in settings.space.items():
        for value in parameter.bounds:
            try:
                source.check([*settings.words, word(key, value)])
            except Exception as error:
                line = explain(error)
                if line is None:
                    raise
                raise ConfigurationError(f"{word(key, value)}: {line}") from None
    if config.env.suite == "none":
        raise ConfigurationError("a search needs an environment: its score is the evaluation there")
    check_trainable([config])


def defaults(source: composition.Composition, settings: Settings) -> dict[str, Any]:
    """The recipe's own values, where the space holds them: what the first trial tries."""
    composed = source.compose(settings.words)
    found = {key: OmegaConf.select(composed, key) for key in settings.space}
    return {key: value for key, value in found.items() if settings.space[key].holds(value)}


def show(search: Search, starts: dict[str, Any], wanted: int) -> None:
    """The dry run: what would be searched, and what there is already."""
    settings = search.settings
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("key", "searched", "first trial"):
        table.add_column(title, overflow="fold")
    for key, parameter in settings.space.items():
        table.add_row(key, parameter.text(), str(starts.get(key, "drawn")))
    console = Console(soft_wrap=False)
    console.print(table)
    there = search.trials
    print(f"search {settings.name} in {shown(settings.root)}: {count(there)}")
    shared = " ".join(settings.words) or "the default configuration"
    print(f"{max(0, wanted - len(there))} of {wanted} trials to begin, each with {shared}")
    print(f"storage {search.storage_url()}; nothing was started")


# === Trials ===================================================================================


class Asked:
    """While entered, stop signals only ask; `number` is the first one. A second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Asked:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number


def _one(search: Search, options: argparse.Namespace, asked: Asked) -> bool:
    """Runs one trial; False where there is none left for this searcher."""
    with search.next_trial(options.trials) as trial:
        if trial is None:
            return False
        values = search.values(trial)
        folder = search.folder(trial.number)
        words = [*search.settings.words, *(word(key, value) for key, value in values.items())]
        run = [f"hydra.run.dir={quoted(str(folder))}", "resume=auto"]
        flags = [] if options.config_dir is None else ["--config-dir", options.config_dir]
        watched = Watched(trial, folder, [*flags, *words, *run], lambda: asked.number)
        result = watched.run()
        if result.left:
            return asked.number is not None
        search.tell(trial, result.score, result.reason)
        _tell(search, trial, result, values, options.trials)
        write_table(search)
        return True


def _tell(
    search: Search, trial: Trial, result: Result, values: dict[str, Any], wanted: int
) -> None:
    if result.score is not None:
        how = f"score {result.score:.4g}"
    else:
        how = "pruned" if result.reason is None else f"failed: {result.reason}"
    best = search.best
    told = "" if best is None else f" (best {best.value:.4g} of trial {best.number})"
    text = " ".join(word(key, value) for key, value in values.items())
    print(f"trial {trial.number} of {wanted}: {how}{told} · {text}", flush=True)


# === At the end ===============================================================================


def finish(search: Search, stopped: int | None, options: argparse.Namespace) -> int:
    """The table, the best parameters, and the command that trains them."""
    trials = search.trials
    path = write_table(search)
    Console().print(_table(trials, search.settings.space))
    print(f"{count(trials)} · {shown(path)}")
    running = search.optuna.trial.TrialState.RUNNING
    if any(t.state == running for t in trials) or len(trials) < options.trials:
        if stopped is None:
            print("trials still run in other processes; this command takes over what they leave")
        print(f"continue with: {_command(options)}")
    best = search.best
    if best is None:
        print("no trial was completed")
    else:
        words = [*search.settings.words, *(word(k, v) for k, v in best.params.items())]
        print(f"best: trial {best.number}, score {best.value:.4g}; train it with")
        print(f"  {shlex.join(['worldflux-run', *words])}")
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
    return shlex.join(["worldflux", "search", options.name, *flags, *options.overrides])


def _table(trials: list[FrozenTrial], space: Space) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("trial", "state", "score"):
        table.add_column(title, no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for trial in trials:
        values = {key.rpartition(".")[2]: trial.params[key] for key in space if key in trial.params}
        words = [f"{k}={v:.3g}" if isinstance(v, float) else word(k, v) for k, v in values.items()]
        about = trial.user_attrs.get(ERROR) or " ".join(words)
        table.add_row(str(trial.number), trial.state.name.lower(), _score(trial), about)
    return table


def _score(trial: FrozenTrial) -> str:
    """Its score; of a trial that was pruned its newest evaluation."""
    if trial.state.name == "COMPLETE" and trial.value is not None:
        return f"{trial.value:.4g}"
    last = trial.last_step
    if trial.state.name == "PRUNED" and last is not None:
        return f"({trial.intermediate_values[last]:.4g})"
    return "-"


def write_table(search: Search) -> Path:
    """``trials.csv``: one row for each trial, with the reason where one failed."""
    path, written = search.root / TABLE, ""
    # Another searcher may end a trial between our look at the study and our write: look again.
    while (table := _csv(search)) != written:
        with disk_errors("table", path):
            write_atomic(path, table)
        written = table
    return path


def _csv(search: Search) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    space = search.settings.space
    rows.writerow(["trial", "state", "score", "newest_evaluation", *space, "folder", "reason"])
    for t in search.trials:
        complete = t.state.name == "COMPLETE"
        newest = None if t.last_step is None else t.intermediate_values[t.last_step]
        values = [t.params.get(key) for key in space]
        folder, reason = search.folder(t.number).name, t.user_attrs.get(ERROR)
        score = t.value if complete else None
        rows.writerow([t.number, t.state.name.lower(), score, newest, *values, folder, reason])
    return text.getvalue()
