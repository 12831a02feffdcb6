"""The command that repeats a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldflux.config.files import environment_hidden
from worldflux.config.groups import is_machine
from worldflux.config.overrides import command, key_of, override
from worldflux.config.run import run_config
from worldflux.errors import WorldFluxError
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import HYDRA, SAVED_CONFIG, SAVED_OVERRIDES
from worldflux.runner.continuation import changes, loaded, saved_config, typed

SAVED_HYDRA = f"{HYDRA}/hydra.yaml"
CONFIG_NAME = "config"


def words_of(folder: Path) -> list[str]:
    """The overrides of the command line that began a run, as Hydra saved them; none where it did
    not, or they cannot be read."""
    content = _saved(folder, SAVED_OVERRIDES)
    return [str(word) for word in content] if isinstance(content, list) else []


def repeating(folder: Path) -> str | None:
    """The command that trains again what the run in `folder` was trained with, as a person types
    it: the overrides that it began with, and those of what has changed on resume. None where Hydra
    saved none, as of a run that Python put together, or where it refers to variables of the environment
    that it began in. CheckpointError: it is no run."""
    if read_manifest(folder).get("data_provenance"):
        return command("worldflux", "train")  # its data came from the project's own dataset.py
    words = words_of(folder)
    hydra = _saved(folder, SAVED_HYDRA)
    if not words and not isinstance(hydra, dict):
        return None
    try:
        with environment_hidden():
            begun = run_config(typed(folder / SAVED_CONFIG))
        different = changes(saved_config(folder), begun)
    except (WorldFluxError, OmegaConfBaseException):  # also what refers to the environment
        return None
    changed = {key: value for key, (value, _) in different.items() if not is_machine(key)}
    kept = [word for word in words if key_of(word) not in changed and _repeats(word)]
    try:
        added = [override(key, value) for key, value in changed.items()]
    except WorldFluxError:
        return None
    return command("worldflux-run", *_flags(hydra), *kept, *added)


def _repeats(word: str) -> bool:
    """Whether a word is about what is trained: not the folder of that run, nor how it came there."""
    key = key_of(word)
    return key != "resume" and key.partition(".")[0].partition("/")[0] != "hydra"


def _flags(hydra: Any) -> list[str]:
    """The flags that name files of the user's own."""
    section = _mapping(_mapping(hydra).get("hydra"))
    paths = section.get("searchpath")
    flags = []
    for path in paths if isinstance(paths, list) else []:
        flags += ["--config-dir", urlsplit(str(path)).path]
    name = _mapping(section.get("job")).get("config_name") or CONFIG_NAME
    return [*flags, *(["--config-name", str(name)] if name not in (CONFIG_NAME, "resume") else [])]


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _saved(folder: Path, name: str) -> Any:
    """The content of a file of Hydra, as it stands there; None where it cannot be read."""
    try:
        check_links(folder, (HYDRA, name))
        content = loaded(folder / name)
    except WorldFluxError:
        return None
    return OmegaConf.to_container(content, resolve=False)
