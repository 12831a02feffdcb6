"""What the metrics of metrics.jsonl say: those of every training here, those of a family in its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError
from worldflux.models.families import families

METRICS = {
    "counters/updates": "Updates done.",
    "counters/env_steps": "Environment steps taken, of all environments and processes.",
    "fps/update": "Updates per second since the last record, evaluations and saves left out.",
    "fps/env": "Environment steps per second, likewise.",
    "episode/return": "Undiscounted return of a training episode, before reward clipping.",
    "episode/length": "Its length in environment steps.",
    "episode/return/<task>": "The same return under the name of its task, where one model learns several.",
    "eval/return": "Mean return of greedy evaluation episodes.",
    "eval/return_low": "Lower end of the 95 % bootstrap interval of that mean.",
    "eval/return_high": "Upper end of the 95 % bootstrap interval of that mean.",
    "eval/return_std": "Standard deviation of the returns of those episodes.",
    "eval/length": "Mean length of those episodes in environment steps.",
    "eval/episodes": "Number of those episodes.",
    "validation/loss/total": "Total loss of the model on held-out recorded episodes (data.validation_fraction).",
    "validation/loss/<key>": "Each of its parts there, under the name that the model's loss gives it.",
    "eval/return/<task>": "Mean return of the evaluation episodes of one task.",
    "world_model/<key>/first": "Squared error of an observation, the reward or a latent after one imagined step, as a share"
    " of that of predicting the mean (docs/measure.md).",
    "world_model/<key>/last": "The same after 15 imagined steps.",
    "world_model/continue/brier": "Brier score of the predicted probability that the episode goes on, over 15 imagined steps.",
    "world_model/value/correlation": "Correlation of the value with the return that came, on episodes of the policy.",
    "world_model/value/bias": "Mean of the value minus the return that came.",
}


@dataclass(frozen=True)
class Metric:
    """A name in metrics.jsonl and its sentence; ``<key>`` in a name stands for any text. family:
    title of the only family that logs it."""

    name: str
    help: str
    family: str = ""

    def covers(self, name: str) -> bool:
        """Whether a name as it was logged is this one."""
        return bool(re.fullmatch(re.sub("<[a-z]+>", ".+", re.escape(self.name)), name))


def metrics() -> list[Metric]:
    """What every training logs, then what the updates of each family do."""
    made = [Metric(name, text) for name, text in METRICS.items()]
    for family in families():
        sentences = family.metric_sentences().items()
        made += [Metric(f"train/{name}", text, family.title) for name, text in sentences]
    return made


def metrics_named(name: str) -> list[Metric]:
    """The sentences on a metric as it was logged, one of each family that has it.

    Raises ConfigurationError with the near miss where there is none.
    """
    known = metrics()
    if exact := [one for one in known if one.name == name]:
        return exact
    covering = sorted((one for one in known if one.covers(name)), key=lambda one: len(one.name))
    if not covering:
        hint = near_miss(name, [one.name for one in known])
        raise ConfigurationError(f"there is no metric {name!r}.", hint=hint)
    return list({one.family: one for one in covering}.values())  # of each family the longest name
