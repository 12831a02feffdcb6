"""Official DreamerV3 checkpoints: reading them safely and turning them into model folders of ours.

Layout: `LOGDIR/ckpt/latest` names the newest save, `LOGDIR/ckpt/<time>/` holds `agent.pkl` (or
`agent-0000.pkl`, ...) and the empty file `done`; `LOGDIR/config.yaml` the settings;
`LOGDIR/replay/*.npz` the recorded steps, from which the shapes of the observations are known.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import read_text
from worldflux.config.spaces import Space
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.dreamerv3.official.config import config_from_official, setting
from worldflux.models.dreamerv3.official.pickled_arrays import read_pickled_arrays
from worldflux.models.dreamerv3.official.settings import SECTION, Settings, settings_of
from worldflux.models.dreamerv3.official.spaces import action_spaces_of, obs_spaces_of
from worldflux.models.dreamerv3.official.weights import load_official, official_names
from worldflux.models.dreamerv3.world_model import DreamerV3
from worldflux.models.official import Imported, add_settings, faults, file_settings, new_folder

IMPORT_HELP = "a run's log folder (with config.yaml), its ckpt folder or one save in it"
SLOW_COUNT = "slowval_count/value"


@dataclass(frozen=True)
class OfficialCheckpoint:
    """A complete save. params: arrays by official names. task: from config.yaml."""

    folder: Path
    params: dict[str, np.ndarray]
    settings: Settings
    task: str
    replay: list[Path]


def recognises(path: Path) -> bool:
    """Whether a path looks like a run's log folder, its `ckpt` folder or one save in it."""
    saves = path if path.name == "ckpt" else path / "ckpt"
    return (saves / "latest").is_file() or any(path.glob("agent*.pkl"))


def find_save(path: Path) -> Path:
    """The folder of a save: of a run's log folder, its `ckpt` folder or the save itself."""
    if path.is_file() and path.name.startswith("agent"):
        path = path.parent
    if (path / "ckpt").is_dir():
        path = path / "ckpt"
    if (path / "latest").is_file():
        path = path / _latest(path / "latest")
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}")
    if not any(path.glob("agent*.pkl")):
        raise CheckpointError(
            f"{path} is no official checkpoint: it has neither ckpt/latest nor agent.pkl"
        )
    if not (path / "done").exists():
        raise CheckpointError(f"{path} is not complete: its file 'done' is missing")
    return path


def _latest(file: Path) -> str:
    """The name of the newest save. CheckpointError: it leads out of its folder, or is none."""
    try:
        name = read_text(file, 4096).strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    if name in ("", ".", "..") or "/" in name:
        raise CheckpointError(f"{file} names no save beside it: {name[:60]!r}")
    return name


def read_checkpoint(
    path: Path, config: Path | None = None, settings: Sequence[str] = ()
) -> OfficialCheckpoint:
    """Reads weights and settings. CheckpointError or ConfigurationError name what is wrong.

    config, settings: a file of settings, which comes before config.yaml and can stand for it, and
    words NAME=VALUE, which come before both.
    """
    folder = find_save(path)
    logdir = next((p for p in folder.parents if (p / "config.yaml").is_file()), None)
    run: dict[str, Any] = {}
    if logdir is not None and len(folder.relative_to(logdir).parts) <= 2:
        run = file_settings(logdir / "config.yaml")
        if not any(name.startswith(SECTION) for name in run):
            raise ConfigurationError(f"{logdir / 'config.yaml'} has no section 'agent'")
    elif config is None:
        text = f"{folder.parent.parent} has no config.yaml with the run's settings"
        raise CheckpointError(f"{text}; --config FILE names one")
    params = read_params(folder)
    replay = (logdir or folder.parent.parent) / "replay"
    return OfficialCheckpoint(
        folder=folder,
        params=params,
        settings=settings_of(run, params, config, settings),
        task=str(run.get("task", "official")),
        replay=sorted(replay.glob("*.npz"), reverse=True),
    )


def read_params(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a save, of every part that it was cut into."""
    whole = folder / "agent.pkl"
    parts = [whole] if whole.is_file() else sorted(folder.glob("agent-*.pkl"))
    params: dict[str, np.ndarray] = {}
    for part in parts:
        content = read_pickled_arrays(part).get("params", {})
        if not isinstance(content, dict):
            raise CheckpointError(f"{part}: its params are no dict of arrays")
        for key, value in content.items():
            if not isinstance(value, np.ndarray | int | float):
                raise CheckpointError(f"{part}: params[{key!r}] is no array")
            params[str(key)] = np.asarray(value)
    if not params:
        raise CheckpointError(f"{folder / 'agent.pkl'} holds no params")
    return params


def model_for(checkpoint: OfficialCheckpoint) -> DreamerV3:
    """An untrained model of the checkpoint's settings and spaces."""
    agent = checkpoint.settings.agent
    obs = obs_spaces_of(checkpoint.params, agent, checkpoint.replay)
    actions = action_spaces_of(checkpoint.params, checkpoint.replay)
    if not obs or not actions:
        what = "observation (dec/...)" if not obs else "action (pol/head/...)"
        raise CheckpointError(f"{checkpoint.folder} holds no weights of any {what}")
    config = config_from_official(
        agent,
        obs,
        actions,
        replay_context=checkpoint.settings.replay_context,
        name=checkpoint.task,
    )
    return DreamerV3(config)


def expected_shapes(model: DreamerV3, agent: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every array that the official code saves for this model, with its official shape."""
    state = model.state_dict()
    shapes = {
        name: weight.official_shape(state[weight.name].shape)
        for name, weight in official_names(model).items()
    }
    frozen = ("slowval/", "retnorm/")
    trained = {name: shape for name, shape in shapes.items() if not name.startswith(frozen)}
    return shapes | {SLOW_COUNT: ()} | dict(_optimizer_shapes(trained, agent))


def _optimizer_shapes(
    trained: Mapping[str, tuple[int, ...]], agent: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Entries of the optimizer: clipping (0) has none, then moments, weight decay and schedule."""
    yield "opt/step/value", ()
    for stage in (1, 2):
        yield f"opt/state/{stage}/0", ()
        for name, shape in trained.items():
            yield f"opt/state/{stage}/1/{name}", shape
    yield f"opt/state/{4 if setting(agent, 'opt.wd') else 3}/count", ()


def check_entries(
    folder: Path, params: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """One CheckpointError that lists every missing, extra and misshapen entry."""
    shapes = {name: array.shape for name, array in params.items()}
    no_numbers = [name for name, array in params.items() if array.dtype.kind not in "fiu"]
    if text := faults(shapes, expected, {"not numbers": no_numbers}):
        raise CheckpointError(f"{folder} does not fit its config.yaml; {text}")


def load_checkpoint(
    path: str | Path, config: Path | None = None, settings: Sequence[str] = ()
) -> Imported:
    """The model of an official checkpoint, every weight and statistic checked; see `read_checkpoint`."""
    checkpoint = read_checkpoint(Path(path), config, settings)
    model, chosen = model_for(checkpoint), checkpoint.settings
    check_entries(checkpoint.folder, checkpoint.params, expected_shapes(model, chosen.agent))
    spaces = obs_spaces_of(checkpoint.params, chosen.agent, checkpoint.replay)
    load_official(model, pictures_by_name(checkpoint.params, spaces))
    return Imported(model, chosen.assumed, chosen.unused)


def pictures_by_name(
    params: Mapping[str, np.ndarray], spaces: Mapping[str, Space]
) -> dict[str, np.ndarray]:
    """The weights with the channels of the decoder's pictures by name, as our model has them; the
    official code keeps the environment's order, which is that of `spaces`."""
    channels: dict[str, list[int]] = {}
    for key, space in spaces.items():
        if space.image:
            first = sum(map(len, channels.values()))
            channels[key] = list(range(first, first + space.shape[0]))
    order = [place for key in sorted(channels) for place in channels[key]]
    return {
        name: array[..., order] if name.startswith("dec/imgout/") else array
        for name, array in params.items()
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Options of `worldflux import` for this family, by the names of `import_checkpoint`."""
    add_settings(parser)


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    config: Path | None = None,
    settings: Sequence[str] = (),
) -> Imported:
    """Writes an official checkpoint as a model folder of ours; returns the model.

    checkpoint: a run's log folder, its `ckpt` folder or one save in it. config, settings: see
    `read_checkpoint`. Raises CheckpointError for a checkpoint that is damaged, incomplete or does
    not fit its own settings and ConfigurationError for settings that our model does not have or that
    the weights contradict; nothing is written then.
    """
    target = new_folder(out)
    imported = load_checkpoint(checkpoint, config, settings)
    imported.model.save_pretrained(target)
    return imported
