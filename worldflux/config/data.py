"""Schema of the `data` group."""

from __future__ import annotations

from dataclasses import dataclass

from worldflux.config.base import CheckedConfig
from worldflux.config.options import option

# Name -> module that makes the source, see worldflux/data/sources.py.
SOURCES = {"gym": "worldflux.data.gym_source", "random": "worldflux.data.random_source"}


@dataclass
class DataConfig(CheckedConfig):
    """Where experience comes from and how much of it each update uses.

    source: `gym` collects in the environment while training; `random` is noise of the
        environment's shapes, to test machinery.
    capacity: replay capacity in environment steps over all environments.
    prefill_steps: environment steps with random actions before the first update.
    pretrain_updates: updates on those steps before collecting goes on.
    collect_steps_per_update: environment steps per gradient update (may be below 1; 0 collects
        nothing after the prefill), or
    train_ratio: replayed steps per environment step; one of the two, not both.
    online: hand each newest sequence to training once, first come first served.
    consec: updates that go on along each sampled sequence, every one from where the last ended.
    on_env_failure: `error` stops the run; `degrade` goes on with what was collected, with random
        noise if that is not enough for a batch, and says so.
    """

    source: str = option("gym", choices=tuple(SOURCES))
    capacity: int = option(1_000_000, at_least=1)
    prefill_steps: int = option(1_000, at_least=0)
    pretrain_updates: int = option(0, at_least=0)
    collect_steps_per_update: float | None = option(None, at_least=0)
    train_ratio: float | None = option(None, above=0)
    online: bool = True
    consec: int = option(1, at_least=1)
    on_env_failure: str = option("error", choices=("error", "degrade"), resumable=True)

    def _validate(self) -> None:
        if self.collect_steps_per_update == 0 and self.prefill_steps == 0 and self.source == "gym":
            text = "must be above 0 with collect_steps_per_update 0"
            raise self.refuse("prefill_steps", f"{text}: nothing would be collected at all")
        if self.collect_steps_per_update is not None and self.train_ratio is not None:
            text, hint = "and train_ratio are both given", "set one of them to null"
            raise self.refuse("collect_steps_per_update", text, hint)
