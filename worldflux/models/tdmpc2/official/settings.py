"""Settings of the official TD-MPC2 as ours: what a file of weights shows of them, and what must be
named or assumed, since it holds weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldflux.config.presets import size_fields, size_names
from worldflux.core.math import episode_discount
from worldflux.errors import ConfigurationError
from worldflux.models.official import Named, file_settings, unknown_names, word_settings
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.official.names import OFFICIAL_NAMES

# Official setting -> our field.
FIELDS = {
    theirs: key.removeprefix("model.")
    for key, (theirs,) in OFFICIAL_NAMES.items()
    if key.startswith("model.") and theirs != "obs_shape"
}
FIELDS |= {"discount": "gamma", "lr": "learning_rate", "grad_clip_norm": "grad_clip"}
FIELDS |= {"obs_dim": "obs_dim", "num_channels": "num_channels"}
# What only the shapes show; our configuration has no field for it.
SHAPES_ONLY = ("obs_dim", "num_channels")
SIZES = ("num_enc_layers", "enc_dim", "mlp_dim", "latent_dim", "num_q")  # model_size sets them
TASKS = ("tasks", "action_dims", "episode_lengths")
# What the official code sets itself, whatever its file says.
SETTLED = ("task_dim", *TASKS)
PICTURELESS = ("enc_dim", "num_enc_layers", "obs_dim")  # of the encoder of vectors
# Of the run, of the optimizer's batches and of what made a file: nothing of the model.
RUN = """
task obs_shape obs_shapes checkpoint eval_episodes eval_freq steps batch_size buffer_size exp_name
data_dir mpc multitask model_size obs bin_size wandb_project wandb_entity wandb_silent enable_wandb
save_csv save_video save_agent compile seed work_dir task_title seed_steps total_params torch
official_commit tensordict
""".split()


def named_settings(config: Path | None, words: Sequence[str]) -> tuple[dict[str, Named], list[str]]:
    """What a file and the words of a command line name, by our field, and what of the file says
    nothing of a model. ConfigurationError for a name that does not exist; words come first."""
    file = {} if config is None else file_settings(config)
    typed, names = word_settings(words), {*FIELDS, *FIELDS.values()}
    if unknown := unknown_names(typed, names | {*RUN}):
        raise ConfigurationError(f"{unknown[0]}: TD-MPC2 has no such setting")
    unused = unknown_names(file, names, RUN)
    settled = {*SETTLED, *(SIZES if file.get("model_size") is not None else ())}
    named: dict[str, Named] = {}
    for source, values, loose in ((f"{config}: ", file, settled), ("", typed, set[str]())):
        named |= _by_field(values, source, loose)
    return named, unused


def _by_field(values: Mapping[str, Any], source: str, loose: set[str]) -> dict[str, Named]:
    named: dict[str, Named] = {}
    for name, value in values.items():
        field = FIELDS.get(name, name)
        if field not in (*FIELDS.values(), *RUN):
            continue
        if field == "encoder_layers" and value == 1:
            value = 2  # the official code makes two of them
        entry = Named(source + name, value, name in loose)
        if field in named and named[field].value != value:
            both = f"{named[field].name}={named[field].value} and {name}={value}"
            raise ConfigurationError(f"{both} are the same setting")
        named[field] = entry
    return named


def check_facts(named: Mapping[str, Named], shown: Mapping[str, Any], pictures: bool) -> None:
    """Refuses what the weights contradict. shown: what they have, by our field."""
    _check_kinds(named, shown, pictures)
    for field, entry in named.items():
        if field in shown and not entry.loose and not _same(entry.value, shown[field]):
            raise ConfigurationError(
                f"{entry.name} is {entry.value}, but the weights have {shown[field]}"
            )
    size = named.get("model_size")
    if size is None:
        return
    if (name := f"{size.value}m") not in size_names("tdmpc2"):
        raise ConfigurationError(f"{size.name} is {size.value}, which no official model has")
    fields = size_fields("tdmpc2", name)
    for theirs in SIZES:
        ours = FIELDS[theirs]
        if ours in shown and fields.get(ours, shown[ours]) != shown[ours]:
            text = f"{size.name}={size.value} has {theirs}={fields[ours]}"
            raise ConfigurationError(f"{text}, but the weights have {shown[ours]}")


def _check_kinds(named: Mapping[str, Named], shown: Mapping[str, Any], pictures: bool) -> None:
    several = shown.get("num_tasks", 1) > 1
    facts = {"obs": "rgb" if pictures else "state", "multitask": several, "mpc": True}
    for name, expected in facts.items():
        if name in named and named[name].value != expected:
            text = f"{named[name].name} is {named[name].value}"
            reason = "ours always plans" if name == "mpc" else f"the weights are of {expected}"
            raise ConfigurationError(f"{text}, but {reason}")
    task = named.get("task")
    if task is not None and str(task.value) in ("mt30", "mt80"):
        if shown.get("num_tasks", 1) != int(str(task.value)[2:]):
            text = f"the weights know {shown.get('num_tasks', 1)} task(s)"
            raise ConfigurationError(f"{task.name} is {task.value}, but {text}")


def _same(value: Any, shown: Any) -> bool:
    if isinstance(value, int | float) and isinstance(shown, int | float):
        return isinstance(value, bool) == isinstance(shown, bool) and value == shown
    return bool(list(value) == list(shown)) if isinstance(value, list | tuple) else value == shown


def check_derived(named: Mapping[str, Named], config: TDMPC2Config) -> None:
    """Refuses a width of the bins or a discount that the other settings do not make."""
    low, high, bins = config.bin_min, config.bin_max, config.num_bins
    derived = {"bin_size": (high - low) / (bins - 1)}
    if config.episode_length is not None:
        rule = config.discount_denom, config.discount_min, config.discount_max
        derived["gamma"] = episode_discount(config.episode_length, *rule)
    for field, expected in derived.items():
        entry = named.get(field)
        if entry is None or entry.value is None:
            continue
        if not isinstance(entry.value, int | float) or not math.isclose(entry.value, expected):
            text = f"but the other settings make it {expected:g}"
            raise ConfigurationError(f"{entry.name} is {entry.value}, {text}")
