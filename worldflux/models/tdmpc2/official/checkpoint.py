"""Official TD-MPC2 checkpoints: read safely, turned into model folders of ours, and written back.

A file is `{"model": weights by name}`. It holds no settings: sizes are read off the shapes; what
the shapes do not show (SimNorm groups, range of the bins, planner, discount) is named by the caller
or assumed to be the official default.
"""

from __future__ import annotations

import pickle
from argparse import ArgumentParser, ArgumentTypeError
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from worldflux.config.files import DAMAGED_ARCHIVE, check_stored
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.official import (
    Imported,
    Named,
    add_settings,
    defaults_of,
    faults,
    new_folder,
    renamed,
)
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.official.settings import (
    FIELDS,
    PICTURELESS,
    SHAPES_ONLY,
    TASKS,
    check_derived,
    check_facts,
    named_settings,
)
from worldflux.models.tdmpc2.official.tasks import official_tasks
from worldflux.models.tdmpc2.official.weights import DETACHED, is_old, load_official, official_names
from worldflux.models.tdmpc2.pixels import SIDE
from worldflux.models.tdmpc2.tasks import action_masks
from worldflux.models.tdmpc2.world_model import TDMPC2

IMPORT_HELP = "a .pt file of either layout"
EXPORT_HELP = "a new .pt file"
_META = ("__batch_size", "__device")  # beside the tensors of an ensemble
_ENSEMBLES = ("_Qs.params", DETACHED, "_target_Qs_params")
_BUFFERS = ("log_std_min", "log_std_dif")
TASK_EMBEDDING, ACTION_MASKS = "_task_emb.weight", "_action_masks"


def recognises(path: Path) -> bool:
    """Whether a path looks like one of these files."""
    return path.suffix == ".pt" and path.is_file()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of an official file, read without executing anything.

    Raises CheckpointError where it is missing, damaged or no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at {path}")
    try:
        check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's text advises to run what is in it
        raise CheckpointError(f"{path} cannot be read: it is no pickle of tensors alone") from error
    except (OSError, ValueError, *DAMAGED_ARCHIVE) as error:
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


def shown_fields(weights: Mapping[str, Tensor], action_dims: Sequence[int] = ()) -> dict[str, Any]:
    """What the shapes of official weights show, by our field; CheckpointError: of no model.

    action_dims: of each task, for multi-task files of the first layout, which lack them.
    """
    old, pictures = is_old(weights), has_pictures(weights)
    try:
        depth = _layers(weights, "_dynamics") - 1
        latent = weights[f"_dynamics.{depth}.weight"].shape[0]
        hidden, joint = weights["_dynamics.0.weight"].shape
        tasks, task_dim = weights.get(TASK_EMBEDDING, torch.empty(1, 0)).shape
        first, last = ("0", f"{4 * depth}") if old else ("0.weight", f"{depth}.weight")
        fields: dict[str, Any] = {
            "action_dim": joint - latent - task_dim,
            "latent_dim": latent,
            "hidden_dim": hidden,
            "num_hidden_layers": depth,
            "num_q_networks": weights[f"_Qs.params.{first}"].shape[0],
            "num_bins": weights[f"_Qs.params.{last}"].shape[1],
            "episodic": "_termination.0.weight" in weights,
        }
        if "log_std_min" in weights:
            low = int(weights["log_std_min"])
            fields |= {"log_std_min": low, "log_std_max": low + int(weights["log_std_dif"])}
        fields |= _picture_fields(weights) if pictures else _vector_fields(weights, task_dim)
        if TASK_EMBEDDING in weights:
            fields |= {"num_tasks": tasks, "task_dim": task_dim}
            fields |= _task_fields(weights, tasks, action_dims)
        return fields
    except KeyError as error:
        raise CheckpointError(f"the weight {error} is missing") from None
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"its shapes belong to no model: {error}") from None


def config_of(
    weights: Mapping[str, Tensor],
    name: str = "official",
    action_dims: Sequence[int] = (),
    named: Mapping[str, Named] = MappingProxyType({}),
) -> tuple[TDMPC2Config, dict[str, Any]]:
    """The configuration of official weights, and what of it is assumed, by official names.

    named: settings that the caller named, by our field. CheckpointError for shapes of no model,
    ConfigurationError for settings that do not fit them.
    """
    dims = named["task_action_dims"].value if "task_action_dims" in named else ()
    shown = shown_fields(weights, action_dims or dims)
    check_facts(named, shown, has_pictures(weights))
    taken = {f for f in FIELDS.values() if f not in (*shown, *unused_fields(weights))}
    chosen = {field: entry.value for field, entry in named.items() if field in taken}
    if "episode_length" in chosen:
        chosen.pop("gamma", None)  # follows from it; checked below
    fields = {name: value for name, value in shown.items() if name not in SHAPES_ONLY}
    try:
        config = TDMPC2Config(model_name=name, **fields, **chosen)
    except ConfigurationError as error:
        if chosen:
            raise renamed(error, named) from None
        hint = "; the official setting simnorm_dim=N says otherwise" * (error.key == "latent_dim")
        raise CheckpointError(f"its shapes belong to no model: {error}{hint}") from None
    check_derived(named, config)
    assumed = defaults_of(TDMPC2Config, FIELDS, taken - chosen.keys() - {"gamma"})
    if "episode_length" in assumed:
        assumed["episode_length"] = "that of the environment it plays in"
    return config, assumed


def unused_fields(weights: Mapping[str, Tensor]) -> set[str]:
    """Our fields that mean nothing for a model of such weights."""
    names = {*SHAPES_ONLY, *(PICTURELESS if has_pictures(weights) else ())}
    names |= {"episode_length"} if TASK_EMBEDDING in weights else {"task_dim", *TASKS}
    return {FIELDS[name] for name in names}


def has_pictures(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("_encoder.rgb.") for key in weights)


def _vector_fields(weights: Mapping[str, Tensor], task_dim: int) -> dict[str, Any]:
    units, inputs = weights["_encoder.state.0.weight"].shape
    # The official settings 1 and 2 both mean two layers.
    layers = _layers(weights, "_encoder.state")
    width = inputs - task_dim
    fields = {"obs_shape": (width,), "encoder_dim": units, "encoder_layers": layers}
    return {**fields, "obs_dim": width}


def _picture_fields(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, inputs, *_ = weights["_encoder.rgb.2.weight"].shape
    shape = (inputs, SIDE, SIDE)
    modalities = {"obs": {"shape": shape, "dtype": "uint8"}}
    return {"observation_modalities": modalities, "num_channels": channels}


def _task_fields(
    weights: Mapping[str, Tensor], tasks: int, action_dims: Sequence[int]
) -> dict[str, Any]:
    """What a multi-task file holds of its tasks, or the official set of so many tasks."""
    known = official_tasks(tasks)
    if ACTION_MASKS in weights:
        masks = weights[ACTION_MASKS]
        dims = tuple(int(dim) for dim in masks.sum(-1))
        if not torch.equal(masks, action_masks(dims, masks.shape[1]).to(masks)):
            raise CheckpointError(f"{ACTION_MASKS} must hold ones, then zeros, in each row")
    elif action_dims:
        dims = tuple(action_dims)
    elif known:
        dims = tuple(task.action_dim for task in known)
    else:
        text = f"it has no {ACTION_MASKS} and {tasks} tasks, not the 30 or 80 of the official sets"
        raise CheckpointError(f"{text}: give --action-dims, one number for each task")
    fields: dict[str, Any] = {"task_action_dims": dims}
    if known and dims == tuple(task.action_dim for task in known):
        fields["task_names"] = tuple(task.name for task in known)
        fields["task_episode_lengths"] = tuple(task.episode_length for task in known)
    return fields


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
    if model.config.multitask and (ACTION_MASKS in weights or not is_old(weights)):
        shapes[ACTION_MASKS] = model.action_masks.shape
    expected = {name: list(shape) for name, shape in shapes.items()}
    if text := faults({name: list(value.shape) for name, value in weights.items()}, expected):
        raise CheckpointError(f"{path} is no TD-MPC2 checkpoint that is known; {text}")


def load_checkpoint(
    path: str | Path,
    action_dims: Sequence[int] = (),
    config: Path | None = None,
    settings: Sequence[str] = (),
) -> Imported:
    """The model of an official checkpoint file, every name and shape checked; see `config_of`.

    config, settings: a file of settings and words NAME=VALUE, which come before it.
    """
    file = Path(path)
    weights = read_checkpoint(file)
    named, unused = named_settings(config, settings)
    try:
        made, assumed = config_of(weights, file.stem, action_dims, named)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    model = TDMPC2(made)
    check_entries(file, model, weights)
    load_official(model, weights)
    return Imported(model, assumed, unused)


def add_arguments(parser: ArgumentParser) -> None:
    """Options of `worldflux import` for this family, by the names of `import_checkpoint`."""
    add_settings(parser)
    parser.add_argument(
        "--action-dims",
        type=_numbers,
        metavar="N,N,...",
        help="action width of each task, for old multi-task files of other tasks than the official"
        " 30 or 80, which do not hold it",
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no list such as 6,2,1") from None


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    action_dims: Sequence[int] | None = None,
    config: Path | None = None,
    settings: Sequence[str] = (),
) -> Imported:
    """Writes an official checkpoint file as a model folder of ours; returns the model.

    action_dims, config, settings: see `load_checkpoint`. Raises CheckpointError for a file that is
    damaged or has other weights than one network layout explains, ConfigurationError where `out` is
    taken or a setting contradicts the weights; nothing is written then.
    """
    target = new_folder(out)
    imported = load_checkpoint(checkpoint, action_dims or (), config, settings)
    imported.model.save_pretrained(target)
    return imported


def official_entries(model: TDMPC2) -> OrderedDict[str, Any]:
    """The weights as the official code saves them, with its names, order and extra entries."""
    config, state = model.config, model.state_dict()
    low, high = config.log_std_min, config.log_std_max
    if model.pi.classes or low != int(low) or high != int(high):
        raise ConfigurationError(
            "the official code has neither discrete actions nor a fractional log_std_min or _max"
        )
    entries: OrderedDict[str, Any] = OrderedDict()
    if config.multitask:
        entries[ACTION_MASKS] = model.action_masks.cpu()
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


def export_checkpoint(model: TDMPC2, out: str | Path) -> None:
    """Writes a model as an official checkpoint file, which the official code loads."""
    if model.joins:
        text = (
            "a model of pictures and vectors, or with an encoder of its own, has no official form"
        )
        raise ConfigurationError(text)
    file = Path(out)
    if file.exists():
        raise ConfigurationError(f"--out {file} exists already; name a new file")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": official_entries(model)}, file)
