"""Official TD-MPC2 checkpoints: read safely, turned into model folders of ours, and written back.

A file is `{"model": weights by name}`. It holds no settings: sizes are read off the shapes; what
the shapes do not show (SimNorm groups, bins, planner, discount) are the official defaults.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldflux.core.config import TDMPC2Config
from worldflux.core.model import new_folder
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.tdmpc2.official import DETACHED, is_old, load_official, official_names
from worldflux.models.tdmpc2.world_model import TDMPC2

_META = ("__batch_size", "__device")  # beside the tensors of an ensemble
_ENSEMBLES = ("_Qs.params", DETACHED, "_target_Qs_params")
_BUFFERS = ("log_std_min", "log_std_dif")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of an official file, read without executing anything.

    Raises CheckpointError where it is missing, damaged or no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} cannot be read: {reason}") from error
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path} is no official TD-MPC2 checkpoint: it has no 'model'")
    tensors = {name: value for name, value in weights.items() if not name.endswith(_META)}
    wrong = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: not tensors: {', '.join(wrong)}")
    return tensors


def config_of(weights: Mapping[str, Tensor], name: str = "official") -> TDMPC2Config:
    """The configuration that the shapes of official weights belong to."""
    if "_task_emb.weight" in weights:
        raise CheckpointError("it is a multi-task checkpoint, which is not built yet")
    if any(key.startswith("_encoder.rgb.") for key in weights):
        raise CheckpointError("it observes pixels, which is not built for TD-MPC2 yet")
    old = is_old(weights)
    try:
        encoder, depth = _layers(weights, "_encoder.state"), _layers(weights, "_dynamics") - 1
        latent = weights[f"_encoder.state.{max(encoder, 1) - 1}.weight"]
        hidden, joint = weights["_dynamics.0.weight"].shape
        first, last = ("0", f"{4 * depth}") if old else ("0.weight", f"{depth}.weight")
        low = int(weights.get("log_std_min", torch.tensor(-10)))
        span = int(weights.get("log_std_dif", torch.tensor(12)))
        return TDMPC2Config(
            model_name=name,
            obs_shape=(weights["_encoder.state.0.weight"].shape[1],),
            action_dim=joint - latent.shape[0],
            latent_dim=latent.shape[0],
            hidden_dim=hidden,
            num_hidden_layers=depth,
            encoder_dim=weights["_encoder.state.0.weight"].shape[0],
            # The official settings 1 and 2 both mean two layers.
            encoder_layers=encoder,
            num_q_networks=weights[f"_Qs.params.{first}"].shape[0],
            num_bins=weights[f"_Qs.params.{last}"].shape[1],
            log_std_min=low,
            log_std_max=low + span,
            episodic="_termination.0.weight" in weights,
        )
    except KeyError as error:
        raise CheckpointError(f"the weight {error} is missing") from None


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers a network has."""
    rest = [key.removeprefix(f"{prefix}.") for key in weights if key.startswith(f"{prefix}.")]
    return len({key.split(".")[0] for key in rest})


def check_entries(path: Path, model: TDMPC2, weights: Mapping[str, Tensor]) -> None:
    """One CheckpointError that lists every missing, extra and misshapen weight."""
    state = model.state_dict()
    names = official_names(model, is_old(weights))
    shapes: dict[str, torch.Size] = {name: state[ours].shape for name, ours in names.items()}
    if not is_old(weights):
        copies = {n.replace("_Qs.params", DETACHED): s for n, s in shapes.items() if "_Qs." in n}
        shapes |= copies | {name: torch.Size() for name in _BUFFERS}
    faults = {
        "missing": [name for name in shapes if name not in weights],
        "not known": [name for name in weights if name not in shapes],
        "of another shape": [
            f"{name} {list(weights[name].shape)}, expected {list(shape)}"
            for name, shape in shapes.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    found = [f"{what}: {', '.join(names)}" for what, names in faults.items() if names]
    if found:
        raise CheckpointError(f"{path} is no TD-MPC2 checkpoint that is known; {'; '.join(found)}")


def load_checkpoint(path: str | Path) -> TDMPC2:
    """The model of an official checkpoint file, every name and shape checked."""
    file = Path(path)
    weights = read_checkpoint(file)
    try:
        model = TDMPC2(config_of(weights, file.stem))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    check_entries(file, model, weights)
    load_official(model, weights)
    return model


def import_checkpoint(path: str | Path, out: str | Path) -> TDMPC2:
    """Writes an official checkpoint file as a model folder of ours; returns the model.

    Raises CheckpointError for a file that is damaged or has other weights than one network layout
    explains and ConfigurationError where `out` is taken; nothing is written then.
    """
    target = new_folder(out)
    model = load_checkpoint(path)
    model.save_pretrained(target)
    return model


def official_entries(model: TDMPC2) -> OrderedDict[str, Any]:
    """The weights as the official code saves them, with its names, order and extra entries."""
    config, state = model.config, model.state_dict()
    low, high = config.log_std_min, config.log_std_max
    if model.pi.classes or low != int(low) or high != int(high):
        raise ConfigurationError(
            "the official code has neither discrete actions nor a fractional log_std_min or _max"
        )
    entries: OrderedDict[str, Any] = OrderedDict()
    entries["log_std_min"] = torch.tensor(int(low))
    entries["log_std_dif"] = torch.tensor(int(high) - int(low))
    weights = {name: state[ours].cpu() for name, ours in official_names(model).items()}
    plain = [name for name in weights if not name.startswith(_ENSEMBLES)]
    entries.update((name, weights[name]) for name in plain)
    for prefix in _ENSEMBLES:
        source = "_Qs.params" if prefix == DETACHED else prefix
        for name in [name for name in weights if name.startswith(f"{source}.")]:
            entries[f"{prefix}{name.removeprefix(source)}"] = weights[name].clone()
        entries[f"{prefix}.__batch_size"] = torch.Size([config.num_q_networks])
        entries[f"{prefix}.__device"] = None
    return entries


def export_checkpoint(model: TDMPC2, path: str | Path) -> None:
    """Writes a model as an official checkpoint file, which the official code loads."""
    file = Path(path)
    if file.exists():
        raise ConfigurationError(f"--out {file} exists already; name a new file")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": official_entries(model)}, file)
