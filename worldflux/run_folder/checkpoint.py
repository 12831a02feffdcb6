"""Checkpoints: complete or absent, checked by checksum, without pickle.

A checkpoint is a folder with ``model.safetensors``, ``optimizer.safetensors`` (every other array:
optimizer, normalisers, random streams, running metrics, environment state) and ``state.json``
(numbers, and the checksums of all three). It is written under a temporary name, flushed to the disk
and renamed; the text files ``latest`` and ``best`` name one folder each, and the weights in it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldflux.errors import BufferError, CheckpointError, DiskError, TrainingError
from worldflux.run_folder.checkpoints import (
    SCHEMA,
    CheckpointFolder,
    binding,
    no_checkpoint,
    read_state,
)
from worldflux.run_folder.disk import (
    disk_errors,
    file_facts,
    has_facts,
    replaced,
    seal,
    sync_folder,
    write_atomic,
)
from worldflux.run_folder.names import BEST, CHECKPOINTS, LATEST, MANIFEST, MODEL, OPTIMIZER, STATE

ARRAY = "$array"

# What damage that a checksum does not show makes of reading and restoring a checkpoint.
DAMAGE = (
    CheckpointError,
    BufferError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

log = logging.getLogger(__name__)


def damage(error: Exception) -> str:
    """What is wrong with a checkpoint, in one line."""
    text = " ".join(str(error).split())[:300]
    return f"it holds no {text}" if isinstance(error, LookupError) else text


@dataclass
class Checkpoint:
    """What one checkpoint holds.

    agent: the agent's groups of named tensors; ``model`` gets a file for itself.
    state: a tree of dicts with JSON values, NumPy arrays and tensors; arrays come back as tensors.
    """

    agent: dict[str, dict[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint folder, replacing one of the same name only once the new one is complete.

    Raises TrainingError when a parameter is not finite, CheckpointError when the disk refuses.
    """
    for name, tensor in checkpoint.agent["model"].items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"parameter {name} is not finite; no checkpoint was written")
    arrays: dict[str, Tensor] = {}
    groups = {name: group for name, group in checkpoint.agent.items() if name != "model"}
    _pack(groups, "agent", arrays)
    state = _pack(checkpoint.state, "state", arrays)
    temporary = folder.with_name(f".tmp-{folder.name}")
    with disk_errors("checkpoint", folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            files = {
                MODEL: _write_tensors(temporary / MODEL, checkpoint.agent["model"]),
                OPTIMIZER: _write_tensors(temporary / OPTIMIZER, arrays),
            }
            document = {"schema_version": SCHEMA, "groups": [*groups], "files": files}
            write_atomic(temporary / STATE, seal({**document, "state": state}, indent=2))
            _swap(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_files(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json; CheckpointError where a file is not as written."""
    document = read_state(folder)
    for name, facts in document["files"].items():
        try:
            whole = has_facts(folder / name, facts)
        except (OSError, AttributeError) as error:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name}: {error}") from error
        if not whole:
            raise CheckpointError(f"checkpoint {folder} is damaged: checksum of {name} differs")
    return document


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint folder; CheckpointError names the file that is missing or damaged."""
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder at {folder}")
    document = check_files(folder)
    loaded = {}
    for name in document["files"]:
        try:
            loaded[name] = load_file(folder / name)
        except (OSError, SafetensorError, MemoryError) as error:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name}: {error}") from error
    arrays = loaded[OPTIMIZER]
    agent = {"model": loaded[MODEL]}
    for group in document["groups"]:
        prefix = f"agent/{group}/"
        agent[group] = {
            name.removeprefix(prefix): tensor
            for name, tensor in arrays.items()
            if name.startswith(prefix)
        }
    return Checkpoint(agent, _unpack(document["state"], arrays))


class CheckpointStore(CheckpointFolder):
    """Saves checkpoints, loads the newest good one and removes old ones.

    keep: resumable checkpoints kept besides the best.
    """

    def __init__(self, folder: Path, keep: int | None = 2) -> None:
        super().__init__(folder)
        self.keep = keep
        self.damaged: list[str] = []

    def save(self, step: int, checkpoint: Checkpoint, *, resumable: bool = True) -> Path:
        """Writes ``step_<step>`` and, for a resumable one, moves ``latest`` to it. One that is not
        resumable stays only if `mark_best` is called next."""
        folder = self.folder / self.name(step)
        checkpoint.state = {**checkpoint.state, "step": step, "resumable": resumable}
        with disk_errors("checkpoint", folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, checkpoint)
        if resumable:
            self._point(LATEST, folder.name)
            self.prune()
        return folder

    def mark_best(self, step: int) -> None:
        self._point(BEST, self.name(step))
        self.prune()

    def load_latest(
        self, accept: Callable[[Path, Checkpoint], None] | None = None
    ) -> tuple[Path, Checkpoint]:
        """The newest resumable checkpoint that is not damaged.

        accept: called with folder and checkpoint; it may refuse by raising a WorldFluxError.
        Damaged ones are named in a warning and in ``damaged``. CheckpointError if none is left.
        """
        reason = "it holds none that a run can continue from"
        for folder in reversed(self.folders()):
            try:
                if not read_state(folder)["state"].get("resumable"):
                    continue
                checkpoint = read_checkpoint(folder)
                if accept is not None:
                    accept(folder, checkpoint)
                return folder, checkpoint
            except (DiskError, torch.OutOfMemoryError):
                raise
            except DAMAGE as error:
                self.damaged.append(folder.name)
                reason = damage(error)
                if str(folder) not in reason and not isinstance(error, BufferError):
                    reason = f"checkpoint {folder} is damaged: {reason}"
                log.warning("%s; trying the checkpoint before it", reason)
        raise CheckpointError(f"no usable checkpoint in {self.folder}: {reason}")

    def forget_after(self, step: int) -> None:
        """Removes checkpoints newer than a step, when a run continues from that step."""
        for folder in self.folders():
            if folder.name > self.name(step):
                self._remove(folder)
        self._point(LATEST, self.name(step))
        if self.best() is None:
            (self.folder / BEST).unlink(missing_ok=True)

    def prune(self) -> None:
        """Keeps the newest resumable checkpoints and the best, removes the others."""
        if self.keep is None:
            return
        kept = [self.best(), *[folder for folder, _ in self.resumable()][: self.keep]]
        for folder in self.folders():
            if folder not in kept:
                self._remove(folder)

    def _point(self, pointer: str, name: str) -> None:
        with disk_errors("checkpoint pointer", self.folder / pointer):
            text = f"{name}\n{binding(pointer, self.folder / name)}".strip()
            write_atomic(self.folder / pointer, text + "\n")

    def _remove(self, folder: Path) -> None:
        # Renamed first: a crash while deleting must not leave something that looks like a
        # damaged checkpoint.
        trash = folder.with_name(f".tmp-{folder.name}")
        shutil.rmtree(trash, ignore_errors=True)
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def tidy(self) -> None:
        """Clears what a crash left. Only for the process that writes the run."""
        for old in self.folder.glob(".old-*"):
            original = old.with_name(old.name.removeprefix(".old-"))
            if original.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(original)
        for temporary in self.folder.glob(".tmp-*"):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def load_checkpoint(
    path: Path,
    accept: Callable[[Path, Checkpoint], None] | None = None,
    damaged: list[str] | None = None,
) -> tuple[Path, Checkpoint]:
    """The checkpoint that a run continues from: a checkpoint folder, or the newest good one of a run.

    accept: see `CheckpointStore.load_latest`. damaged: gets the names of those passed over.
    CheckpointError: there is none.
    """
    if (path / STATE).exists():
        checkpoint = read_checkpoint(path)
        if accept is not None:
            accept(path, checkpoint)
        return path, checkpoint
    store = CheckpointStore(path / CHECKPOINTS)
    if store.folders():
        try:
            return store.load_latest(accept)
        finally:
            if damaged is not None:
                damaged += store.damaged
    if (path / MANIFEST).exists() or store.folder.is_dir():
        raise no_checkpoint(path)
    raise CheckpointError(f"{path} is neither a run folder nor a checkpoint")


def _swap(temporary: Path, folder: Path) -> None:
    sync_folder(temporary)
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    saved: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        cpu = tensor.detach().to("cpu").contiguous()
        storage = cpu.untyped_storage()
        # safetensors refuses tensors that share memory or are windows into a larger one.
        if storage.data_ptr() in storages or storage.nbytes() != cpu.nbytes:
            cpu = cpu.clone()
        storages.add(cpu.untyped_storage().data_ptr())
        saved[name] = cpu
    with replaced(path) as temporary:
        save_file(saved, temporary)
    return file_facts(path)


def _pack(tree: Any, path: str, arrays: dict[str, Tensor]) -> Any:
    """Moves the arrays of a tree into `arrays`, leaving references."""
    if isinstance(tree, Mapping):
        return {str(key): _pack(value, f"{path}/{key}", arrays) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_pack(value, f"{path}/{index}", arrays) for index, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray):
        tree = torch.from_numpy(np.array(tree, order="C"))
    if isinstance(tree, Tensor):
        arrays[path] = tree
        return {ARRAY: path}
    return tree


def _unpack(tree: Any, arrays: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {ARRAY}:
            return arrays[tree[ARRAY]]
        return {key: _unpack(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unpack(value, arrays) for value in tree]
    return tree
