"""A study that several searchers share, and that outlives each of them.

Optuna keeps the trials: their parameters, evaluations and results. Whether the process of a trial
still lives is told by two locks in the trial's folder, of the searcher (``search.lock``) and of the
run itself; the kernel lets go of them however a process ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.errors import ConfigurationError, MissingDependencyError
from worldflux.search.space import Space, Value, plain

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

LOCK, STUDY, DATABASE = "search.lock", "study.lock", "study.db"
SEARCH, ERROR = "worldflux:search", "error"
JOURNAL = "journal:"
SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "hyperband", "none")


@dataclass(frozen=True)
class Settings:
    """How a search goes. name: of the study. root: its folder. storage: Optuna's URL, or
    ``journal:FILE``; None: SQLite in the folder. words: overrides that all trials share."""

    name: str
    root: Path
    space: Space
    words: tuple[str, ...]
    storage: str | None = None
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What makes it this search and no other."""
        return {"space": plain(self.space), "words": sorted(self.words)}


class Search:
    """The study of one search.

    create: make it if there is none; else it is only looked at. ConfigurationError: there is one of
    another space, or the storage cannot be opened.
    """

    def __init__(self, settings: Settings, *, create: bool = True) -> None:
        self.settings = settings
        self.root = settings.root
        self.optuna = import_optuna()
        self.study: Study | None = None
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root / STUDY):
                self._open(create=True)
        else:
            self._open(create=False)

    def _open(self, create: bool) -> None:
        optuna, settings = self.optuna, self.settings
        if not create and not self._exists():
            return
        try:
            storage = self._storage()
            names = optuna.get_all_study_names(storage)
            if settings.name not in names and not create:
                return
            study = optuna.create_study(
                storage=storage,
                study_name=settings.name,
                direction="maximize",
                load_if_exists=True,
                pruner=self._pruner(),
            )
        except _storage_errors(optuna) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigurationError(
                f"the storage {self.storage_url()} cannot be opened: {reason}"
            ) from error
        known = study.user_attrs.get(SEARCH)
        if known is None:
            study.set_user_attr(SEARCH, settings.identity())
        elif known != settings.identity():
            raise ConfigurationError(
                f"search {settings.name} exists with {difference(known, settings.identity())};"
                " give this one another name"
            )
        self.study = study

    def _exists(self) -> bool:
        url = self.storage_url()
        if url.startswith(JOURNAL):
            return Path(url.removeprefix(JOURNAL)).exists()
        return self.settings.storage is not None or (self.root / DATABASE).exists()

    def storage_url(self) -> str:
        return self.settings.storage or f"sqlite:///{self.root.resolve() / DATABASE}"

    def _storage(self) -> Any:
        url = self.storage_url()
        if url.startswith(JOURNAL):
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            path = Path(url.removeprefix(JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        from optuna.storages import RDBStorage

        # SQLite lets one process write at a time: the others wait for it.
        waits = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {}
        return RDBStorage(url, engine_kwargs=waits)

    def _pruner(self) -> Any:
        pruners = self.optuna.pruners
        kind = self.settings.pruner
        if kind == "median":
            return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
        return pruners.HyperbandPruner() if kind == "hyperband" else pruners.NopPruner()

    def _sampler(self, number: int) -> Any:
        """Seeded by the trial, so that a search that was broken off draws nothing again."""
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        if self.settings.sampler == "random":
            return self.optuna.samplers.RandomSampler(seed=seed)
        return self.optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that were begun, by number."""
        if self.study is None:
            return []
        waiting = self.optuna.trial.TrialState.WAITING
        return [t for t in self.study.get_trials(deepcopy=False) if t.state != waiting]

    def folder(self, number: int) -> Path:
        """The run folder of a trial: its number determines it."""
        return self.root / f"trial_{number:05d}"

    def enqueue(self, values: Mapping[str, Value]) -> None:
        """The parameters to try first, unless there are trials already."""
        assert self.study is not None
        with locked(self.root / STUDY):
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(dict(values))

    @contextmanager
    def next_trial(self, wanted: int) -> Iterator[Trial | None]:
        """A trial that is this searcher's own while entered; None: there is nothing to do for it.

        First those whose process ended before their result was noted, then new ones until `wanted`
        have been begun.
        """
        taken = self._take(wanted)
        try:
            yield None if taken is None else taken[0]
        finally:
            if taken is not None:
                os.close(taken[1])

    def _take(self, wanted: int) -> tuple[Trial, int] | None:
        assert self.study is not None
        optuna = self.optuna
        with locked(self.root / STUDY):
            trials = self.trials
            for trial in trials:
                if trial.state == optuna.trial.TrialState.RUNNING:
                    lock = self._lock(trial.number)
                    if lock is not None:
                        return optuna.Trial(self.study, trial._trial_id), lock
            if len(trials) >= wanted:
                return None
            self.study.sampler = self._sampler(len(trials))
            fresh = self.study.ask(
                {key: p.distribution() for key, p in self.settings.space.items()}
            )
            lock = self._lock(fresh.number)
            assert lock is not None
            return fresh, lock

    def _lock(self, number: int) -> int | None:
        folder = self.folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        return try_lock(folder / LOCK)

    def values(self, trial: Trial) -> dict[str, Value]:
        """The parameters of a trial, drawn now where a crash came before they were."""
        return {key: p.suggest(trial) for key, p in self.settings.space.items()}

    def tell(self, trial: Trial, score: float | None, reason: str | None = None) -> None:
        """Notes the result: a score; or, without one, pruned (no reason) or failed."""
        assert self.study is not None
        states = self.optuna.trial.TrialState
        if reason is not None:
            trial.set_user_attr(ERROR, reason)
        if score is not None:
            self.study.tell(trial, score)
        else:
            self.study.tell(trial, state=states.PRUNED if reason is None else states.FAIL)

    @property
    def best(self) -> FrozenTrial | None:
        """The completed trial with the highest score; None: there is none."""
        done = [t for t in self.trials if t.state == self.optuna.trial.TrialState.COMPLETE]
        return max(done, key=lambda t: (t.value, -t.number), default=None)


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError(
            "worldflux search needs optuna: pip install 'worldflux[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage_errors(optuna: Any) -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError  # Optuna brings it along

    own: type[Exception] = optuna.exceptions.OptunaError
    return (own, SQLAlchemyError, OSError, ValueError, ImportError)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What sets a study apart from what is asked for now, in a few words."""
    before, after = set(old["words"]), set(new["words"])
    words = sorted(before - after) + [f"no {word}" for word in sorted(after - before)]
    if words:
        return " ".join(words)
    keys = [
        key
        for key in sorted({*old["space"], *new["space"]})
        if old["space"].get(key) != new["space"].get(key)
    ]
    return f"another range of {', '.join(keys)}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else is inside while this is entered."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock until it is closed; None: another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def count(trials: Sequence[FrozenTrial]) -> str:
    """`3 complete, 1 pruned`."""
    names: dict[str, int] = {}
    for trial in trials:
        names[trial.state.name.lower()] = names.get(trial.state.name.lower(), 0) + 1
    return ", ".join(f"{number} {name}" for name, number in names.items()) or "no trial yet"
