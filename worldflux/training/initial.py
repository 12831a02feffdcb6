"""`init_from`: fresh training from the weights of a model folder, a run or a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from worldflux.config.model import WorldModelConfig
from worldflux.core.memory import memory_for
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.factory import model_class
from worldflux.models.hub import local
from worldflux.run_folder.checkpoints import CheckpointFolder, checkpoint_named, read_state, run_of
from worldflux.run_folder.disk import file_facts, has_facts
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import BEST, CHECKPOINTS, MANIFEST, MODEL, STATE

SHOWN = 4  # keys that an error names

log = logging.getLogger("worldflux.training")


@dataclass(frozen=True)
class InitialWeights:
    """Weights to begin with. origin: what `init_from` names. file: where they are. family: of the
    model they were saved from, None where nothing says so."""

    origin: str
    file: Path
    family: str | None

    @classmethod
    def find(cls, origin: str) -> InitialWeights:
        """The weights of a model folder, of a run (its best checkpoint, else its newest), or of a
        checkpoint. ConfigurationError: it is none; CheckpointError: it is damaged."""
        path = local(origin)
        if (path / "config.json").is_file():
            weights = cls(origin, path / MODEL, WorldModelConfig.load(path).model_type)
        elif (path / MANIFEST).is_file() or (path / CHECKPOINTS).is_dir():
            if not CheckpointFolder(path / CHECKPOINTS).folders():
                raise ConfigurationError(f"init_from={origin}: this run has no checkpoint yet")
            weights = cls._of_checkpoint(origin, checkpoint_named(path, BEST))
        elif (path / STATE).is_file():
            weights = cls._of_checkpoint(origin, path)
        else:
            reason = "there is no such folder" if not path.exists() else "it is neither of them"
            raise ConfigurationError(
                f"init_from={origin} must be a model folder, a run or a checkpoint: {reason}"
            )
        if not weights.file.is_file():
            raise ConfigurationError(f"init_from={origin}: {weights.file} is missing")
        return weights

    @classmethod
    def _of_checkpoint(cls, origin: str, folder: Path) -> InitialWeights:
        facts = read_state(folder)["files"][MODEL]
        if (folder / MODEL).is_file() and not has_facts(folder / MODEL, facts):
            raise CheckpointError(f"checkpoint {folder} is damaged: checksum of {MODEL} differs")
        run = run_of(folder)
        family = None
        if (run / MANIFEST).is_file():
            family = (read_manifest(run).get("model_config") or {}).get("model_type")
        return cls(origin, folder / MODEL, family)

    def check(self, config: WorldModelConfig) -> None:
        """ConfigurationError if they are not those of such a model, naming the keys."""
        if self.family not in (None, config.model_type):
            raise ConfigurationError(
                f"init_from={self.origin} holds a {self.family!r} model, not a "
                f"{config.model_type!r} one"
            )
        config = self.fitted(config)
        if text := misfit(self.file, config, self.fresh(config)):
            raise ConfigurationError(f"init_from={self.origin} does not fit this model: {text}")

    def fitted(self, config: WorldModelConfig) -> WorldModelConfig:
        """The model's configuration with the optional parts that these weights have."""
        return config if self.fresh(config) else config.of_weights(weight_shapes(self.file))

    def fresh(self, config: WorldModelConfig) -> list[str]:
        """The weights of optional parts that such a model has and these have not."""
        if not config.optional:
            return []
        there = weight_shapes(self.file)
        names = [key for key in _shapes_of(config) if key.startswith(config.optional)]
        return [key for key in names if key not in there]

    def load_into(self, model: nn.Module) -> None:
        """Replaces the weights of a model that was checked in place; optional parts that are missing
        stay fresh, and a line says so."""
        fresh: list[str] = []
        with safe_open(self.file, "pt") as file, torch.no_grad():
            names = set(file.keys())
            for key, tensor in model.state_dict().items():
                if key in names:
                    tensor.copy_(file.get_tensor(key))
                else:
                    fresh.append(key.partition(".")[0])
        if fresh:
            parts = ", ".join(dict.fromkeys(fresh))
            log.warning("init_from=%s has no %s: fresh weights", self.origin, parts)

    def facts(self, config: WorldModelConfig) -> dict[str, Any]:
        """For the manifest: which weights exactly, and which ones begin fresh."""
        facts = {"path": self.origin, "file": str(self.file), **file_facts(self.file)}
        return {"init_from": {**facts, "fresh": self.fresh(config)}}


def weight_shapes(file: Path) -> dict[str, list[int]]:
    """Shape of every weight in a file, by its header alone. CheckpointError: it is damaged."""
    try:
        with safe_open(file, "pt") as weights:
            return {key: list(weights.get_slice(key).get_shape()) for key in weights.keys()}
    except (OSError, SafetensorError, MemoryError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error


def misfit(file: Path, config: WorldModelConfig, fresh: Collection[str] = ()) -> str:
    """Where a file of weights has other names or shapes than a model, by its header alone; empty if
    nowhere. fresh: names that it need not have. CheckpointError: it is damaged."""
    here, there = _shapes_of(config), weight_shapes(file)
    different = [
        f"{key} is {there[key]} there and {shape} here"
        for key, shape in here.items()
        if key in there and there[key] != shape
    ]
    different += [f"{key} is missing there" for key in here if key not in {*there, *fresh}]
    different += [f"{key} is not in this model" for key in there if key not in here]
    more = len(different) - SHOWN
    return "; ".join(different[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def check_weights(file: Path, config: WorldModelConfig) -> None:
    """CheckpointError where a file of weights is not that of such a model, or holds numbers that are
    not finite. Nothing is allocated for a model that does not fit."""
    text = misfit(file, config)
    if text:
        raise CheckpointError(f"{file} does not fit its model: {text}")
    with safe_open(file, "pt") as weights:
        for key in weights.keys():
            tensor = weights.get_tensor(key)
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{file}: weight {key} is not finite")


def check_continues(run: Path, config: WorldModelConfig) -> None:
    """CheckpointError where a run has no checkpoint of such a model, by the headers of their weights,
    before memory is taken. Damaged ones are left to who restores them."""
    reasons = []
    for folder, _ in CheckpointFolder(run / CHECKPOINTS).resumable():
        weights = InitialWeights(str(run), folder / MODEL, config.model_type)
        try:
            fresh = weights.fresh(config)
            text = misfit(weights.file, weights.fitted(config), fresh)
        except CheckpointError:
            continue
        if not text:
            return
        reasons.append(f"{weights.file} does not fit its model: {text}")
    if reasons:
        raise CheckpointError(reasons[0])


def _shapes_of(config: WorldModelConfig) -> dict[str, list[int]]:
    # Shapes only: no memory, no random numbers.
    with memory_for(f"a {config.model_type} model of these sizes"), torch.device("meta"):
        return shapes(model_class(config.model_type)(config))


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """Shape of every weight and buffer that is saved."""
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
