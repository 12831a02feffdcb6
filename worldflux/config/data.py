"""Schema of the `data` group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from worldflux.config.base import CheckedConfig
from worldflux.config.options import option, plain_text

# Name -> module that makes the source, see worldflux/data/sources.py.
SOURCES = {
    "gym": "worldflux.data.gym_source",
    "random": "worldflux.data.random_source",
    "dataset": "worldflux.data.dataset_source",
    "mixed": "worldflux.data.mixed_source",
}
RECORDED = ("dataset", "mixed")  # those that read data.path
COLLECTING = ("gym", "mixed")  # those that take steps in an environment


def _paths(value: Any) -> str | None:
    texts = value if isinstance(value, list | tuple) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        return f"must be a text or a list of texts, got {value!r}"
    return next(filter(None, map(plain_text, texts)), None)


@dataclass
class DataConfig(CheckedConfig):
    """Where experience comes from and how much of it each update uses."""

    source: str = option(
        "gym",
        choices=tuple(SOURCES),
        help="gym collects in the environment while training; dataset reads recorded episodes; mixed does both; random is noise of the environment's shapes, to test machinery.",
    )
    path: Any = option(  # a text or a list of them: one file is the usual case
        None,
        check=_paths,
        resumable=True,
        help="Recorded episodes for data.source=dataset and mixed: a file, folder, glob or local name of a Minari dataset, or a list of them. On resume it may name where the same data lie now.",
    )
    validation_fraction: float = option(
        0.0,
        at_least=0,
        below=1,
        help="Share of the recorded episodes that is not trained on; at each evaluation the model's losses on them are logged as validation/loss/....",
    )
    recorded_share: float = option(
        0.5,
        above=0,
        below=1,
        help="Share of recorded sequences in each batch of data=mixed, at least one of them and one collected.",
    )
    capacity: int = option(
        1_000_000,
        at_least=1,
        unit="environment steps",
        help="Size of the replay over all environments; the oldest steps are dropped. Lower it when memory runs out.",
    )
    prefill_steps: int = option(
        1_000,
        at_least=0,
        unit="environment steps",
        help="Steps with random actions before the first update.",
    )
    pretrain_updates: int = option(
        0,
        at_least=0,
        unit="updates",
        help="Updates on those first steps before collecting goes on.",
    )
    collect_steps_per_update: float | None = option(
        None,
        at_least=0,
        unit="environment steps per update",
        help="Steps collected for each update (may be below 1; 0 collects nothing after the prefill). Give this or train_ratio; the other is null.",
    )
    train_ratio: float | None = option(
        None,
        above=0,
        unit="replayed steps per environment step",
        help="Replayed steps for each collected one: batch_size x sequence_length / (environment steps per update). Higher needs fewer environment steps and more computation.",
    )
    online: bool = option(
        True,
        help="Hands each newest sequence to training once, first come first served, beside those drawn at random.",
    )
    consec: int = option(
        1,
        at_least=1,
        unit="updates",
        help="Updates that go on along each sampled sequence, every one from the latent where the last ended.",
    )
    record: bool = option(
        False,
        machine=True,
        help="Keeps every whole episode that is collected, in files of the run's folder episodes/, which data=dataset reads; the replay alone forgets.",
    )
    on_env_failure: str = option(
        "error",
        choices=("error", "degrade"),
        resumable=True,
        help="error stops the run when an environment fails; degrade goes on with what was collected (noise if that is less than a batch), and records it in degraded_modes.",
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """What `path` names, one or several."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    def with_paths(self, paths: Sequence[str]) -> DataConfig:
        """The same with other files."""
        return replace(self, path=[*paths]) if paths else self

    def _validate(self) -> None:
        if self.source in RECORDED and not self.paths:
            raise self.refuse("path", "must be given, e.g. data.path=episodes.npz")
        for name in ("validation_fraction", "recorded_share"):
            if self.source not in RECORDED and getattr(self, name) != self._default(name):
                text = f"is of recorded data, and data.source is {self.source}"
                raise self.refuse(name, text, "data=dataset and data=mixed read them")
        if self.source not in RECORDED and self.paths:
            raise self.refuse(
                "path", f"is of data=dataset and mixed, and data.source is {self.source}"
            )
        if (
            self.collect_steps_per_update == 0
            and self.prefill_steps == 0
            and self.source in COLLECTING
        ):
            text = "must be above 0 with collect_steps_per_update 0"
            raise self.refuse("prefill_steps", f"{text}: nothing would be collected at all")
        if self.collect_steps_per_update is not None and self.train_ratio is not None:
            text, hint = "and train_ratio are both given", "set one of them to null"
            raise self.refuse("collect_steps_per_update", text, hint)
