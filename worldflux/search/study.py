"""A study that several searchers share, and that outlives each of them.

Optuna keeps the trials: their parameters, evaluations and results. Whether the process of a trial
still lives is known from two locks in the trial's folder, of the searcher (``search.lock``) and of
the run itself; the kernel lets go of them however a process ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from worldflux.errors import ConfigurationError
from worldflux.search import JOURNAL
from worldflux.search.space import Space, Value, draw, plain

LOCK, STUDY, DATABASE = "search.lock", "study.lock", "study.db"
SEARCH, ERROR = "worldflux:search", "error"
STORAGE_ERRORS = (OptunaError, SQLAlchemyError, OSError, ValueError, ImportError)


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
        space = {key: plain(self.space[key]) for key in sorted(self.space)}
        return {"space": space, "words": sorted(self.words)}


class Search:
    """The study of one search.

    create: make it if there is none; else it is only looked at. ConfigurationError: there is one of
    another space, or the storage cannot be opened.
    """

    def __init__(self, settings: Settings, *, create: bool = True) -> None:
        self.settings = settings
        self.root = settings.root
        self.study: optuna.Study | None = None
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root / STUDY):
                self._open()
        elif self._exists():
            self._open(create=False)

    def _open(self, create: bool = True) -> None:
        settings = self.settings
        try:
            storage = self._storage()
            if not create and settings.name not in optuna.get_all_study_names(storage):
                return
            study = optuna.create_study(
                storage=storage,
                study_name=settings.name,
                direction="maximize",
                load_if_exists=True,
                pruner=self._pruner(),
            )
        except STORAGE_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            text = f"the storage {self.storage_url()} cannot be opened: {reason}"
            raise ConfigurationError(text) from error
        known, identity = study.user_attrs.get(SEARCH), settings.identity()
        if known is None:
            study.set_user_attr(SEARCH, identity)
        elif known != identity:
            text = f"search {settings.name} exists with {difference(known, identity)}"
            raise ConfigurationError(f"{text}; give this one another name")
        self.study = study

    def _exists(self) -> bool:
        url = self.storage_url()
        if url.startswith(JOURNAL):
            return Path(url.removeprefix(JOURNAL)).exists()
        return self.settings.storage is not None or (self.root / DATABASE).exists()

    def storage_url(self) -> str:
        return self.settings.storage or f"sqlite:///{self.root.resolve() / DATABASE}"

    def _storage(self) -> BaseStorage:
        url = self.storage_url()
        if url.startswith(JOURNAL):
            path = Path(url.removeprefix(JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        # SQLite lets one process write at a time: the others wait for it.
        waits = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {}
        return RDBStorage(url, engine_kwargs=waits)

    def _pruner(self) -> BasePruner:
        if self.settings.pruner == "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=1)
        return HyperbandPruner() if self.settings.pruner == "hyperband" else NopPruner()

    def _sampler(self, number: int) -> BaseSampler:
        """Seeded by the trial, so that a search that was broken off draws nothing again."""
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        if self.settings.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, constant_liar=True)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that were begun, by number."""
        if self.study is None:
            return []
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.state != TrialState.WAITING]

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
    def next_trial(self, total: int) -> Iterator[Trial | None]:
        """A trial that no other searcher takes while entered; None: there is nothing left to do.

        First those whose process ended before their result was noted, then new ones until `total`
        have been begun.
        """
        taken = self._take(total)
        try:
            yield None if taken is None else taken[0]
        finally:
            if taken is not None:
                os.close(taken[1])

    def _take(self, total: int) -> tuple[Trial, int] | None:
        assert self.study is not None
        with locked(self.root / STUDY):
            trials = self.trials
            for trial in trials:
                if trial.state != TrialState.RUNNING:
                    continue
                lock = self._lock(trial.number)
                if lock is None:
                    continue
                # Its searcher may have ended it after we looked and before it let go of the lock.
                if self.study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                    return Trial(self.study, trial._trial_id), lock
                os.close(lock)
            if len(trials) >= total:
                return None
            self.study.sampler = self._sampler(len(trials))
            fresh = self.study.ask(dict(self.settings.space))
            lock = self._lock(fresh.number)
            assert lock is not None
            return fresh, lock

    def _lock(self, number: int) -> int | None:
        folder = self.folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        return try_lock(folder / LOCK)

    def values(self, trial: Trial) -> dict[str, Value]:
        """The parameters of a trial, drawn now where a crash came before they were."""
        return {key: draw(trial, key, kind) for key, kind in self.settings.space.items()}

    def record(self, trial: Trial, score: float | None, reason: str | None = None) -> None:
        """Notes the result: a score; or, without one, pruned (no reason) or failed."""
        assert self.study is not None
        if reason is not None:
            trial.set_user_attr(ERROR, reason)
        if score is not None:
            self.study.tell(trial, score)
        else:
            self.study.tell(trial, state=TrialState.PRUNED if reason is None else TrialState.FAIL)

    @property
    def best(self) -> FrozenTrial | None:
        """The completed trial with the highest score; None: there is none."""
        done = [t for t in self.trials if t.state == TrialState.COMPLETE]
        return max(done, key=lambda t: (t.value, -t.number), default=None)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What sets a study apart from the one requested now, in a few words."""
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
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock until it is closed; None: another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
