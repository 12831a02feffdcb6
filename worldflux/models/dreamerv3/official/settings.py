"""Settings of an official DreamerV3 run: those of its config.yaml, of the caller, and, where neither
names them, what the weights show or the official defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.config import LOSS_SCALES, DreamerV3Config
from worldflux.models.dreamerv3.official.config import FIXED, LOSSES, SAME
from worldflux.models.dreamerv3.official.names import FIELDS
from worldflux.models.official import file_settings, unknown_names, word_settings

SECTION = "agent."  # of config.yaml, which holds what is the model's
CONTEXT = "replay_context"
# Of the first weights, of the optimizer, of reports, or of nothing that the official code still does.
IGNORED = re.compile(
    r"repl_loss.slowtar|(opt|report\w*|valnorm|advnorm)\b.*|.+\.(winit|outscale)|policy\.unimix|seed|"
    r"batch_(size|length)|(dyn|enc|dec)\.(?!rssm|simple|typ).*|" + CONTEXT
)
SIZES = {field for field in FIELDS if field.endswith("_units")} | {
    "deter_dim",
    "hidden_dim",
    "stoch_classes",
}
ALIASES = {
    **FIELDS,
    "learning_rate": ("opt.lr",),
    **{f"loss_scales.{ours}": (f"loss_scales.{theirs}",) for ours, theirs in LOSSES.items()},
}


@dataclass(frozen=True)
class Settings:
    """agent: nested, complete as far as a model needs it. assumed: what nothing named. unused: names
    of config.yaml or of the caller's file that say nothing of a model."""

    agent: dict[str, Any]
    replay_context: int
    assumed: dict[str, Any]
    unused: list[str]


def settings_of(
    run: Mapping[str, Any],
    params: Mapping[str, np.ndarray],
    config: Path | None,
    words: Sequence[str],
) -> Settings:
    """run: config.yaml by dotted names, which the caller's file comes before, and that the words.

    ConfigurationError for names that do not exist and values that the weights contradict.
    """
    defaults, shown = official_defaults(), shown_settings(params)
    paths = [path for paths in ALIASES.values() for path in paths]
    known = dict.fromkeys([*paths, *defaults, *ALIASES, CONTEXT])
    values: dict[str, Any] = {}
    unused: list[str] = []
    file = {} if config is None else _model_settings(file_settings(config))
    for source, named in (("", _model_settings(run)), (f"{config}: ", file)):
        unused += unknown_names([n for n in named if not IGNORED.fullmatch(n)], known)
        values |= _official(named)
        if named is file:
            _check(_official(named), shown, source)
    typed = {name.removeprefix(SECTION): value for name, value in word_settings(words).items()}
    for name in unknown_names(typed, known):
        raise ConfigurationError(f"{name}: DreamerV3 has no such setting of a model")
    _check(_official(typed), shown, "")
    values |= _official(typed)
    context = values.pop(CONTEXT, None)
    missing = {name: value for name, value in defaults.items() if name not in values | shown}
    if values.get("retnorm.impl") == "none":
        missing = {name: value for name, value in missing.items() if "retnorm." not in name}
    assumed = missing | ({CONTEXT: 1} if context is None else {})
    complete = _with_classes({**defaults, **shown, **values}, params, values)
    return Settings(nested(complete), int(1 if context is None else context), assumed, unused)


def _model_settings(named: Mapping[str, Any]) -> dict[str, Any]:
    """What is the model's of a whole config.yaml, or of its section `agent` alone."""
    if not any(name.startswith(SECTION) for name in named):
        return dict(named)
    inner = {n.removeprefix(SECTION): v for n, v in named.items() if n.startswith(SECTION)}
    return inner | {name: named[name] for name in (CONTEXT,) if name in named}


def _official(named: Mapping[str, Any]) -> dict[str, Any]:
    """The same by official names alone."""
    return {path: value for name, value in named.items() for path in ALIASES.get(name, (name,))}


def _check(named: Mapping[str, Any], shown: Mapping[str, Any], source: str) -> None:
    for name, value in named.items():
        if name in shown and value != shown[name]:
            text = f"{source}{name} is {value}, but the weights have {shown[name]}"
            raise ConfigurationError(text)


def official_defaults() -> dict[str, Any]:
    """Every setting that a model follows from, sizes apart, as the official code has it."""
    defaults = dict(FIXED) | {
        "retnorm.impl": "perc",
        "repval_loss": True,
        "opt.lr": 4e-5,
        "opt.wd": 0.0,
    }
    for field, paths in FIELDS.items():
        value = DreamerV3Config._default(SAME.get(field, field))
        if field not in SIZES and field != "critic_num_bins":
            value = list(value) if isinstance(value, tuple) else value
            defaults |= dict.fromkeys(paths, value)
    defaults["value.bins"] = defaults["rewhead.bins"]
    return defaults | {f"loss_scales.{LOSSES[ours]}": LOSS_SCALES[ours] for ours in LOSSES}


def shown_settings(params: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Sizes that the shapes of the weights show."""
    shapes = {name: array.shape for name, array in params.items()}

    def count(pattern: str) -> int:
        return sum(bool(re.fullmatch(pattern + r"\d+/kernel", name)) for name in shapes)

    shown: dict[str, Any] = {}
    widths = {
        "dyn.rssm.hidden": "dyn/dynin0",
        "enc.simple.units": "enc/mlp0",
        "dec.simple.units": "dec/mlp/linear0",
        "rewhead.bins": "rew/head/logits",
        "value.bins": "val/head/logits",
    }
    layers = {
        "dyn.rssm.dynlayers": "dyn/dynhid",
        "dyn.rssm.obslayers": "dyn/obs",
        "dyn.rssm.imglayers": "dyn/prior",
        "enc.simple.layers": "enc/mlp",
        "dec.simple.layers": "dec/mlp/linear",
    }
    heads = {"rew": "rewhead", "con": "conhead", "pol": "policy", "val": "value"}
    widths |= {f"{name}.units": f"{short}/mlp/linear0" for short, name in heads.items()}
    layers |= {f"{name}.layers": f"{short}/mlp/linear" for short, name in heads.items()}
    shown |= {p: shapes[f"{n}/bias"][0] for p, n in widths.items() if shapes.get(f"{n}/bias")}
    shown |= {path: number for path, name in layers.items() if (number := count(name))}
    if len(kernel := shapes.get("dyn/dyngru/kernel", ())) == 3:
        shown |= {"dyn.rssm.blocks": kernel[0], "dyn.rssm.deter": kernel[0] * kernel[2] // 3}
    kernels = {"enc.simple.kernel": "enc/cnn0", "dec.simple.kernel": "dec/imgout"}
    kernels |= {"dec.simple.bspace": "dec/sp0"}
    shown |= {p: shapes[f"{n}/kernel"][0] for p, n in kernels.items() if f"{n}/kernel" in shapes}
    return shown


def _with_classes(
    complete: dict[str, Any], params: Mapping[str, np.ndarray], named: Mapping[str, Any]
) -> dict[str, Any]:
    """With sizes that follow from others: of the latent, of pictures, of networks that are absent."""
    latent, first = params.get("dyn/priorlogit/bias"), params.get("enc/cnn0/bias")
    if latent is not None and "dyn.rssm.classes" not in complete:
        if "dyn.rssm.stoch" not in named:
            raise ConfigurationError("dyn.rssm.stoch and dyn.rssm.classes: name at least one")
        complete["dyn.rssm.classes"] = latent.size // int(complete["dyn.rssm.stoch"])
    elif latent is not None and "dyn.rssm.stoch" not in named:
        complete["dyn.rssm.stoch"] = latent.size // int(complete["dyn.rssm.classes"])
    for net in ("enc", "dec"):
        if first is not None and f"{net}.simple.depth" not in named:
            complete[f"{net}.simple.depth"] = first.size // int(complete["enc.simple.mults"][0])
        complete.setdefault(f"{net}.simple.units", complete.get("dyn.rssm.hidden"))
    return complete


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as sections in each other."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tree
