"""Where the weights of a model are: in a model folder, a run or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldflux.config.base import read_json
from worldflux.config.model import WorldModelConfig
from worldflux.errors import CheckpointError
from worldflux.models.families import family_of_type
from worldflux.models.hub import local
from worldflux.run_folder.checkpoints import checkpoint_at, checkpoint_named, read_state, run_of
from worldflux.run_folder.disk import has_facts
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import manifest_or_copy
from worldflux.run_folder.names import BEST, CHECKPOINTS, MANIFEST, MODEL, STATE
from worldflux.run_folder.trust import SIGNATURE, check_modules


def is_model_folder(path: Path) -> bool:
    """Whether a folder, which may be one of the hub, holds a model by itself, imported or saved."""
    path = local(path)
    return (path / "config.json").is_file() and not (path / MANIFEST).is_file()


def is_of_run(path: Path) -> bool:
    """Whether a path means a run or a checkpoint of one (also `checkpoints/best` and `latest`)."""
    if is_model_folder(path):
        return False
    if path.parent.name == CHECKPOINTS and path.exists():
        return True
    return any((path / name).exists() for name in (MANIFEST, CHECKPOINTS, STATE))


META = "worldflux_meta.json"  # of a model folder
TRUSTING = "worldflux.load_model(PATH, trust=True), --trust of a command"


def saved_model(
    path: Path, checkpoint: str = BEST, trust: bool = False
) -> tuple[WorldModelConfig, Path]:
    """The configuration of a saved model, and the folder of its weights.

    path: a model folder, a run, or a checkpoint. checkpoint: which one of a run. trust: parts of it
    may be imported although another user made it. CheckpointError, ConfigurationError or
    FileNotFoundError says what is missing or wrong.
    """
    path = local(path)
    if not is_of_run(path):
        config = WorldModelConfig.load(path)
        if not trust:
            check_parts(path, config)
        return config, path
    if (path / CHECKPOINTS).is_dir() or (path / MANIFEST).exists():
        check_links(path)
        folder = checkpoint_named(path, checkpoint)
    else:
        folder = checkpoint_at(path)
        check_links(run_of(folder))
    run = run_of(folder)
    manifest = manifest_or_copy(run)
    values = manifest.get("model_config")
    if not isinstance(values, dict):
        raise CheckpointError(f"{run / MANIFEST} has no model_config, so its model is not known")
    if not trust:
        check_modules(run, manifest, {"model": values}, hint=TRUSTING)
    return family_of_type(str(values.get("model_type"))).config_class().from_dict(values), folder


def check_parts(folder: Path, config: WorldModelConfig) -> None:
    """ConfigurationError where a model folder names parts of its own although another user wrote it."""
    meta = read_json(folder / META) if (folder / META).is_file() else {}
    signed = meta.get(SIGNATURE) if isinstance(meta, dict) else None
    content = {**as_manifest(config), SIGNATURE: signed}
    check_modules(folder, content, {"model": config.to_dict()}, hint=TRUSTING)


def as_manifest(config: WorldModelConfig) -> dict[str, Any]:
    """What of a model's configuration is signed, as a run's manifest has it."""
    return {"config": {"env": {}, "model": config.to_dict()}}


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
