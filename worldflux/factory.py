"""Models by name: `family:size`, an alias, or the folder of a saved model."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldflux.core.config import WorldModelConfig
from worldflux.core.fields import near_miss
from worldflux.core.presets import GROUP_OF_TYPE, size_names, unknown_size_text
from worldflux.errors import ConfigurationError, UnknownPresetError

if TYPE_CHECKING:
    from worldflux.core.model import WorldModel

# Name of a family -> the model_type of its configuration.
FAMILIES = {"dreamer": "dreamer", "dreamerv3": "dreamer", "tdmpc": "tdmpc2", "tdmpc2": "tdmpc2"}
ALIASES = {
    "dreamer": "dreamerv3:size12m",
    "dreamerv3": "dreamerv3:size12m",
    "dreamer-small": "dreamerv3:size12m",
    "dreamer-medium": "dreamerv3:size50m",
    "dreamer-large": "dreamerv3:size200m",
    "dreamer-ci": "dreamerv3:ci",
    "dreamerv3:official": "dreamerv3:official_xl",
    "tdmpc": "tdmpc2:5m",
    "tdmpc2": "tdmpc2:5m",
    "tdmpc-small": "tdmpc2:5m",
    "tdmpc-medium": "tdmpc2:48m",
    "tdmpc-large": "tdmpc2:317m",
    "tdmpc2-ci": "tdmpc2:ci",
    "tdmpc-proof": "tdmpc2:proof_5m",
    "tdmpc2:proof": "tdmpc2:proof_5m",
    "tdmpc-legacy": "tdmpc2:5m_legacy",
}
# model_type -> module and class of the model.
_CLASSES = {
    "dreamer": ("worldflux.models.dreamerv3", "DreamerV3"),
    "tdmpc2": ("worldflux.models.tdmpc2", "TDMPC2"),
}
ENTRY_POINTS = "worldflux.models"
API_VERSIONS = ("v3", "v0.2")


def create_world_model(
    model: str,
    *,
    obs_shape: tuple[int, ...] | None = None,
    action_dim: int | None = None,
    observation_modalities: dict[str, Any] | None = None,
    action_spec: dict[str, Any] | None = None,
    component_overrides: dict[str, Any] | None = None,
    device: str = "cpu",
    api_version: str = "v3",
    **config_overrides: Any,
) -> WorldModel:
    """A model by name, alias or folder.

    model: `family:size`, an alias such as `dreamer-small`, or a folder that `save_pretrained`
        wrote. config_overrides: any field of the family's configuration; a folder takes none.
    Raises UnknownPresetError (a ValueError) for a name that does not exist and ConfigurationError
    for overrides that do not fit, both before any tensor is made.
    """
    if api_version not in API_VERSIONS:
        raise UnknownPresetError(f"api_version must be v3 or v0.2, got {api_version!r}")
    if component_overrides:
        raise ConfigurationError("component_overrides is not built: models are made whole")
    overrides = {
        "obs_shape": obs_shape,
        "action_dim": action_dim,
        "observation_modalities": observation_modalities,
        "action_spec": action_spec,
        **config_overrides,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    if is_folder(model):
        if given:
            text = f"{model} is a saved model, whose configuration is fixed"
            raise ConfigurationError(f"{text}; leave out {', '.join(given)}")
        config = WorldModelConfig.load(model)
        return model_class(config.model_type).from_pretrained(model, device=device)
    config = get_config(model, device=device, **given)
    return model_class(config.model_type)(config).to(device)


def get_config(model: str, **overrides: Any) -> WorldModelConfig:
    """The configuration that `create_world_model` would build from this name."""
    if is_folder(model):
        return WorldModelConfig.load(model).with_overrides(**overrides)
    model_type, size = resolve(model)
    family = WorldModelConfig.families[model_type]
    if model_type == "tdmpc2" and not overrides.keys() & {"obs_shape", "observation_modalities"}:
        raise ConfigurationError(f"[{size}] obs_shape must be given for {model}")
    return family.from_size(size, **overrides)


def resolve(model: str) -> tuple[str, str]:
    """(model_type, size) of a name or alias, upper or lower case; UnknownPresetError."""
    name = model.strip().lower()
    name = ALIASES.get(name, name)
    family, separator, size = name.partition(":")
    if not separator:
        options = [*ALIASES, *third_party()]
        text = f"{model!r} is neither family:size, such as dreamerv3:size12m, nor an alias"
        raise UnknownPresetError(f"{text}.{near_miss(name, options)}")
    if family not in FAMILIES:
        if family in third_party():
            model_class(family)
            return family, size
        options = [*GROUP_OF_TYPE.values(), *third_party()]
        text = f"unknown family {family!r} in {model!r}; there are {', '.join(options)}."
        raise UnknownPresetError(text + near_miss(family, [*FAMILIES, *options]))
    if size not in size_names(FAMILIES[family]):
        raise UnknownPresetError(unknown_size_text(FAMILIES[family], size))
    return FAMILIES[family], size


def is_folder(model: str) -> bool:
    """Whether the text names an existing folder, or can only be meant as a path."""
    path = Path(model)
    if path.is_dir():
        return True
    if path.is_absolute() or model.startswith((".", "~")):
        raise FileNotFoundError(f"no model folder at {model}")
    return False


def third_party() -> dict[str, Any]:
    """Families that installed packages register as entry points `worldflux.models`.

    Each entry point is a subclass of `worldflux.core.model.WorldModel` whose `config_class` has
    the entry point's name as its `model_type`.
    """
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def available(model_type: str) -> bool:
    """Whether the family's model is part of this installation; imports nothing heavy."""
    if model_type in _CLASSES:
        return importlib.util.find_spec(_CLASSES[model_type][0]) is not None
    return model_type in third_party()


def model_class(model_type: str) -> type[Any]:
    """The class of a family's model; ConfigurationError if there is none here."""
    if model_type in _CLASSES and available(model_type):
        module, name = _CLASSES[model_type]
        return getattr(importlib.import_module(module), name)
    if model_type in third_party():
        found = third_party()[model_type].load()
        WorldModelConfig.families[model_type] = found.config_class
        return found
    family = GROUP_OF_TYPE.get(model_type, model_type)
    raise ConfigurationError(f"the {family} model is not available yet in this version")


def list_models() -> list[str]:
    """Every preset as `family:size`, smallest first."""
    return [f"{GROUP_OF_TYPE[kind]}:{size}" for kind in GROUP_OF_TYPE for size in sizes(kind)]


def sizes(model_type: str) -> list[str]:
    """Sizes of a family without their aliases."""
    return size_names(model_type, aliases=False)


def get_model_info(model: str) -> dict[str, Any]:
    """Family, size, aliases and configuration of a preset, as plain data."""
    model_type, size = resolve(model)
    family = GROUP_OF_TYPE.get(model_type, model_type)
    config = WorldModelConfig.families[model_type].from_size(size)
    names = [name for name in ALIASES if resolve(name) == (model_type, config.model_name)]
    return {
        "id": f"{family}:{config.model_name}",
        "family": family,
        "model_type": model_type,
        "size": config.model_name,
        "aliases": sorted(names),
        "available": available(model_type),
        "config": config.to_dict(),
    }
