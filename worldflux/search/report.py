"""The trials of a search as tables: on the terminal, and trials.csv."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table
from rich.text import Text

from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.search.space import Space, text
from worldflux.search.study import ERROR, Search
from worldflux.sweep.jobs import text_of

TABLE = "trials.csv"


def count(trials: Sequence[FrozenTrial]) -> str:
    """`3 complete, 1 pruned`."""
    numbers = Counter(trial.state.name.lower() for trial in trials)
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "no trial yet"


def space_table(space: Space, recipe: Mapping[str, Any]) -> Table:
    """What is varied, and what the first trial tries."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("key", "searched", "first trial"):
        table.add_column(title, overflow="fold")
    for key, kind in space.items():
        table.add_row(key, Text(text(kind)), Text(str(recipe.get(key, "drawn"))))
    return table


def trial_table(trials: Sequence[FrozenTrial], space: Space) -> Table:
    """Every trial with its score and parameters, or the reason why it failed."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("trial", "state", "score"):
        table.add_column(title, no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for trial in trials:
        values = {key.rpartition(".")[2]: trial.params[key] for key in space if key in trial.params}
        short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in values.items()}
        about = trial.user_attrs.get(ERROR) or (text_of(short) if short else "")
        table.add_row(str(trial.number), trial.state.name.lower(), _score(trial), Text(about))
    return table


def _score(trial: FrozenTrial) -> str:
    """Its score; of a trial that was pruned its newest evaluation."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return f"{trial.value:.4g}"
    newest = _newest(trial)
    return "-" if trial.state != TrialState.PRUNED or newest is None else f"({newest:.4g})"


def _newest(trial: FrozenTrial) -> float | None:
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]


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
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    space = search.settings.space
    rows.writerow(["trial", "state", "score", "newest_evaluation", *space, "folder", "reason"])
    for trial in search.trials:
        score = trial.value if trial.state == TrialState.COMPLETE else None
        values = [trial.params.get(key) for key in space]
        place = search.folder(trial.number).name, trial.user_attrs.get(ERROR)
        state = trial.state.name.lower()
        rows.writerow([trial.number, state, score, _newest(trial), *values, *place])
    return stream.getvalue()
