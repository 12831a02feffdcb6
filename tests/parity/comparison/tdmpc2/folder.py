"""A folder of recorded numbers of one TD-MPC2 instance."""

from __future__ import annotations

import fnmatch
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.parity.comparison.compare import Comparison, Computation, Recorded, compare, flatten_json
from tests.parity.comparison.tdmpc2.forward import Forward, compare_checkpoint_io
from tests.parity.comparison.tdmpc2.plan import Planning
from tests.parity.comparison.tdmpc2.subject import Doubles, Subject, compare_settings
from tests.parity.comparison.tdmpc2.update import Update
from worldflux.errors import ConfigurationError
from worldflux.models.tdmpc2.official.checkpoint import (
    import_checkpoint,
    official_entries,
    read_checkpoint,
)
from worldflux.models.tdmpc2.official.weights import is_old, load_official, official_names
from worldflux.models.tdmpc2.world_model import TDMPC2

FILES = (
    "config.json",
    "weights.npz",
    "forward.npz",
    "update.npz",
    "update_grads?.npz",
    "update_params?.npz",
    "plan.npz",
    "float64_outputs.npz",
    "agent.pt",
    "checkpoint_io.npz",
)
# May be absent: the older layout, and what the official float32 and float64 numbers differ by.
OPTIONAL = ("agent_oldformat.pt", "float32_vs_float64.json")


def compare_folder(folder: Path, how: Computation) -> Comparison:
    """Compares every number of a folder; see the README of such folders for its format.

    how: compiled are update and planner, as in training. Raises ConfigurationError or
    CheckpointError for folders that cannot be read or set up.
    """
    if not (folder / "weights.npz").is_file():
        raise ConfigurationError(f"{folder} holds no weights.npz: it is no TD-MPC2 folder")
    comparison = Comparison()
    check_files(folder, comparison)
    config = {name: value.tolist() for name, value in flatten_json(folder / "config.json").items()}
    doubles = Doubles.of(folder)
    subject = Subject(config, how)
    load_official(subject.model, Recorded.load(folder / "weights.npz").arrays)
    compare_settings(subject, comparison)
    if (folder / "forward.npz").is_file():
        forward = Recorded.load(folder / "forward.npz", "forward/")
        Forward(subject, forward, doubles, comparison).run()
        comparison.finish(forward)
    if (folder / "plan.npz").is_file():
        Planning(subject, Recorded.load(folder / "plan.npz", "plan/"), comparison).run()
    if (folder / "update.npz").is_file():
        Update(subject, folder, doubles, comparison).run()
    for name in ("agent.pt", "agent_oldformat.pt"):
        if (folder / name).is_file():
            compare_checkpoint(folder, name, config, doubles, comparison, how.eager())
    comparison.finish(doubles)
    return comparison


def check_files(folder: Path, comparison: Comparison) -> None:
    """A failure for every file that is missing or not known."""
    names = sorted(path.name for path in folder.iterdir())
    for pattern in FILES:
        if not fnmatch.filter(names, pattern):
            comparison.fail(pattern, "no such file in the folder")
    for name in names:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in (*FILES, *OPTIONAL)):
            comparison.fail(name, "no such file is known")


def compare_checkpoint(
    folder: Path,
    name: str,
    config: dict[str, object],
    doubles: Doubles,
    comparison: Comparison,
    how: Computation,
) -> None:
    """Imports a checkpoint, loads the model folder that was written and compares with it."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        import_checkpoint(folder / name, out, config=folder / "config.json")
        model = TDMPC2.from_pretrained(out)
    compare_weights(model, folder / name, comparison)
    if not (folder / "checkpoint_io.npz").is_file():
        return
    subject = Subject(config, how, model)
    recorded = Recorded.load(folder / "checkpoint_io.npz", f"{name}/checkpoint_io/")
    compare_checkpoint_io(subject, recorded, doubles, comparison)
    comparison.finish(recorded)


def compare_weights(model: TDMPC2, file: Path, comparison: Comparison) -> None:
    """What the imported model is as an official file must be what it was read from."""
    names = read_checkpoint(file)
    state, old = model.state_dict(), is_old(names)
    ours = {name: state[our] for name, our in official_names(model, old).items()}
    if not old:
        entries = official_entries(model)
        ours = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    recorded = Recorded({key: np.asarray(value) for key, value in names.items()}, f"{file.name}/")
    for name, value in ours.items():
        label = f"{file.name}/{name}"
        if name in recorded:
            comparison.rows.append(compare(label, recorded[name], value, 0.0))
        else:
            comparison.fail(label, "not in the file")
    comparison.finish(recorded)
