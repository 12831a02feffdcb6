"""Where the weights of a model are: in a model folder, a run or a checkpoint."""

from __future__ import annotations

from pathlib import Path

from worldflux.config.model import WorldModelConfig
from worldflux.errors import CheckpointError
from worldflux.models.families import family_of_type
from worldflux.run_folder.checkpoints import checkpoint_at, checkpoint_named, read_state, run_of
from worldflux.run_folder.disk import has_facts
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import manifest_or_copy
from worldflux.run_folder.names import BEST, CHECKPOINTS, MANIFEST, MODEL, STATE


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds a model by itself, imported or saved."""
    return (path / "config.json").is_file() and not (path / MANIFEST).is_file()


def is_of_run(path: Path) -> bool:
    """Whether a path means a run or a checkpoint of one (also `checkpoints/best` and `latest`)."""
    if is_model_folder(path):
        return False
    if path.parent.name == CHECKPOINTS and path.exists():
        return True
    return any((path / name).exists() for name in (MANIFEST, CHECKPOINTS, STATE))


def saved_model(path: Path, checkpoint: str = BEST) -> tuple[WorldModelConfig, Path]:
    """The configuration of a saved model, and the folder of its weights.

    path: a model folder, a run, or a checkpoint. checkpoint: which one of a run. CheckpointError,
    ConfigurationError or FileNotFoundError says what is missing or wrong.
    """
    if not is_of_run(path):
        return WorldModelConfig.load(path), path
    if (path / CHECKPOINTS).is_dir() or (path / MANIFEST).exists():
        check_links(path)
        folder = checkpoint_named(path, checkpoint)
    else:
        folder = checkpoint_at(path)
        check_links(run_of(folder))
    run = run_of(folder)
    values = manifest_or_copy(run).get("model_config")
    if not isinstance(values, dict):
        raise CheckpointError(f"{run / MANIFEST} has no model_config, so its model is not known")
    return family_of_type(str(values.get("model_type"))).config_class().from_dict(values), folder


def check_checksum(folder: Path) -> None:
    """CheckpointError where the weights of a checkpoint folder are not those that were written."""
    if not (folder / STATE).is_file():
        return
    try:
        right = has_facts(folder / MODEL, read_state(folder)["files"][MODEL])
    except (OSError, KeyError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MODEL}: {error}") from error
    if not right:
        raise CheckpointError(f"checkpoint {folder} is damaged: checksum of {MODEL} differs")
