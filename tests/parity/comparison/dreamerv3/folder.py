"""The three kinds of folders with recorded numbers: a set, units and a checkpoint."""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.comparison.compare import Comparison, Computation, Recorded, compare
from tests.parity.comparison.dreamerv3.official import to_official
from tests.parity.comparison.dreamerv3.parts import compare_parts
from tests.parity.comparison.dreamerv3.subject import Subject, read_config
from tests.parity.comparison.dreamerv3.train import compare_training
from tests.parity.comparison.dreamerv3.units import compare_units
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.modules import RECON
from worldflux.models.dreamerv3.official.checkpoint import import_checkpoint, read_checkpoint
from worldflux.models.dreamerv3.official.weights import load_official, official_names
from worldflux.models.dreamerv3.world_model import DreamerV3

# Files of each kind; `?` stands for the number of an update.
FILES = {
    "set": (
        "config.json",
        "params.npz",
        "parts.npz",
        "train_step?.npz",
        "grads_step?.npz",
        "params_after?.npz",
        "expected.json",
    ),
    "units": ("units.npz", "units.json"),
    "checkpoint": ("logdir", "expected"),
    "expected": ("config.json", "parts.npz"),
}


def kind_of(folder: Path) -> str:
    """`set`, `units` or `checkpoint`; ConfigurationError for any other folder."""
    if not folder.is_dir():
        raise ConfigurationError(f"no folder at {folder}")
    marks = {"set": "params.npz", "units": "units.npz", "checkpoint": "logdir"}
    for kind, mark in marks.items():
        if (folder / mark).exists():
            return kind
    raise ConfigurationError(
        f"{folder} holds neither params.npz (a set), units.npz nor logdir (a checkpoint)"
    )


def compare_folder(folder: Path, how: Computation) -> Comparison:
    """Compares every number of a folder; see the README of such folders for its format.

    how: compiled are whole updates, as in training (single components, acting and imports are not
    compiled there either). Raises ConfigurationError or CheckpointError for folders that cannot be
    read or set up.
    """
    comparison, kind = Comparison(), kind_of(folder)
    check_files(folder, kind, comparison)
    if kind == "units":
        with how.device:  # as a default; a compiler does not see through it
            compare_units(folder, comparison, how)
    elif kind == "set":
        compare_set(folder, comparison, how)
    else:
        compare_checkpoint(folder, comparison, how.eager())
    return comparison


def check_files(folder: Path, kind: str, comparison: Comparison) -> None:
    """A failure for every file that is missing or not known."""
    names = sorted(path.name for path in folder.iterdir())
    for pattern in FILES[kind]:
        if not fnmatch.filter(names, pattern):
            comparison.fail(pattern, "no such file in the folder")
    for name in names:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in FILES[kind]):
            comparison.fail(name, "no such file is known")


def compare_set(folder: Path, comparison: Comparison, how: Computation) -> None:
    config = read_config(folder / "config.json")
    subject = Subject(config, how.eager())
    load_official(subject.model, Recorded.load(folder / "params.npz").arrays)
    compare_settings(config, subject, comparison)
    compare_parts(subject, Recorded.load(folder / "parts.npz", "parts/"), comparison)
    compare_training(Subject(config, how), folder, comparison)


def compare_checkpoint(folder: Path, comparison: Comparison, how: Computation) -> None:
    """Imports the checkpoint, loads the model folder that was written and compares with it."""
    expected = folder / "expected"
    check_files(expected, "expected", comparison)
    config = read_config(expected / "config.json")
    with tempfile.TemporaryDirectory() as temporary:
        import_checkpoint(folder / "logdir", Path(temporary) / "model")
        model = DreamerV3.from_pretrained(Path(temporary) / "model")
    compare_weights(model, folder / "logdir", comparison)
    subject = Subject(config, how, model)
    compare_settings(config, subject, comparison)
    compare_parts(subject, Recorded.load(expected / "parts.npz", "parts/"), comparison)


def compare_weights(model: DreamerV3, logdir: Path, comparison: Comparison) -> None:
    """The imported weights, read back in the official layout, must be those of the file."""
    params, state = read_checkpoint(logdir).params, model.state_dict()
    for name, weight in official_names(model).items():
        ours = to_official(weight, state[weight.name])
        comparison.rows.append(compare(f"agent.pkl/{name}", params[name], ours, 0.0))


def compare_settings(config: Mapping[str, Any], subject: Subject, comparison: Comparison) -> None:
    """What our model made of the settings: spaces, sizes and loss scales."""
    model = subject.model
    for what, ours, theirs in (
        ("obs", model.obs_spaces, subject.obs_spaces),
        ("act", model.action_spaces, subject.action_spaces),
    ):
        if dict(ours) != dict(theirs):
            comparison.fail(f"config.json/{what}", f"our model has {ours}, expected {theirs}")
    trained = sum(param.numel() for param in model.parameters() if param.requires_grad)
    settings: dict[str, float] = {
        "param_count": trained,
        "context": subject.agent.replay_context,
        "H": model.config.imagination_horizon,
        "K": model.starts(config["T"]),
        **{f"loss_scales/{name.removeprefix(RECON)}": s for name, s in model.scales.items()},
    }
    scales = {f"loss_scales/{name}": value for name, value in config["loss_scales"].items()}
    expected = {key: config[key] for key in settings if key in config} | scales
    for name, value in expected.items():
        if name not in settings:
            comparison.fail(f"config.json/{name}", "no such setting is known")
            continue
        label = f"config.json/{name}"
        comparison.rows.append(compare(label, np.asarray(value), settings[name], 1e-12))
