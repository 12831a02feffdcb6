"""Models of the Hugging Face hub: `hf://user/name` wherever a model is read, and where one goes."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from worldflux.errors import CheckpointError, ConfigurationError, MissingDependencyError, described

# Path() makes one slash of two. The file or folder inside is optional, and so is the revision.
ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(/(?P<inside>[^@]+))?(@(?P<revision>.+))?")
SCHEME = "hf:/"
# Of a model folder. An official checkpoint is named with its file.
FOLDER = ("config.json", "model.safetensors", "worldflux_meta.json", "README.md")


class Address(NamedTuple):
    """A repository of models, what of it is meant (empty: all), and which revision."""

    repo: str
    inside: str
    revision: str | None

    @classmethod
    def of(cls, text: str) -> Address:
        """ConfigurationError: it is none."""
        match = ADDRESS.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"{text} must be hf://user/name, hf://user/name/FILE or …@REVISION"
            )
        return cls(match["repo"], match["inside"] or "", match["revision"])

    def __str__(self) -> str:
        inside = f"/{self.inside}" if self.inside else ""
        return f"hf://{self.repo}{inside}{f'@{self.revision}' if self.revision else ''}"


def is_address(path: str | Path) -> bool:
    """Whether a path means something on the hub."""
    return str(path).startswith(SCHEME)


def local(path: str | Path) -> Path:
    """The path on this machine: what the hub has is downloaded once and kept in its own cache.

    CheckpointError: the hub has no such thing, or cannot be reached. MissingDependencyError.
    """
    if not is_address(path):
        return Path(path)
    hub, address = _package(), Address.of(str(path))
    common: dict[str, Any] = {"revision": address.revision, "endpoint": _endpoint()}
    try:
        if Path(address.inside).suffix:
            return Path(hub.hf_hub_download(address.repo, address.inside, **common))
        patterns = [str(Path(address.inside) / name) for name in FOLDER]
        return (
            Path(hub.snapshot_download(address.repo, allow_patterns=patterns, **common))
            / address.inside
        )
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # of the hub, of requests, of the disk
        raise CheckpointError(f"{address} cannot be had: {_reason(error)}") from error


def push(folder: Path, target: str, private: bool = False) -> str:
    """Uploads a model folder, as one commit; returns its web address. CheckpointError: the hub does
    not take it."""
    hub, address = _package(), Address.of(target)
    if address.inside:
        raise ConfigurationError(f"{target}: a model folder is pushed to a whole repository")
    api = hub.HfApi(endpoint=_endpoint())
    try:
        api.create_repo(address.repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=address.repo,
            folder_path=folder,
            revision=address.revision,
            allow_patterns=list(FOLDER),
            commit_message="Upload of a WorldFlux model",
        )
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"{address} does not take the model: {_reason(error)}") from error
    return str(done)


def _reason(error: Exception) -> str:
    return described(error)[:300]


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _package() -> ModuleType:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingDependencyError(
            "hf:// needs huggingface_hub: pip install 'worldflux[hub]'"
        ) from error
