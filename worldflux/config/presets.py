"""The size presets: YAML files under ``conf/model/size``, read alike by Hydra and by Python."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from worldflux.config.fields import near_miss
from worldflux.errors import ConfigurationError, UnknownPresetError
from worldflux.models.families import conf_folders, model_types, warn_broken


@functools.cache
def conf_dir() -> Path:
    """Folder of the YAML groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigurationError(f"the conf folder of worldflux is missing beside {package}")


def _read(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict), path
    return {str(key): value for key, value in content.items()}


@functools.cache
def _presets() -> dict[tuple[str, str], dict[str, Any]]:
    """(model_type, size name) -> fields, aliases included."""
    presets: dict[tuple[str, str], dict[str, Any]] = {}
    aliases: dict[str, str] = {}
    for owner, folder in {"": conf_dir(), **conf_folders()}.items():
        for path in sorted((folder / "model/size").rglob("*.yaml")):
            try:
                content = _read(path)
                if "defaults" not in content:
                    # A size that both families have is a folder with one file for each family.
                    name = path.stem if path.parent.name == "size" else path.parent.name
                    presets[str(content["model_type"]), name] = {"model_name": name, **content}
                elif isinstance(content["defaults"][0], str):
                    aliases[path.stem] = content["defaults"][0]
            except Exception as error:
                if not owner:
                    raise
                warn_broken(f"{path} of the installed family {owner!r} is no size: {error!r}")
    for alias, target in aliases.items():
        for (model_type, name), content in list(presets.items()):
            if name == target:
                presets[model_type, alias] = content
    return presets


def size_names(model_type: str, *, aliases: bool = True) -> list[str]:
    """Names of a family's sizes, smallest first; aliases last, or left out."""
    sizes = {name: fields for (kind, name), fields in _presets().items() if kind == model_type}
    names = [name for name in sizes if aliases or sizes[name]["model_name"] == name]

    def order(name: str) -> tuple[bool, int, int, str]:
        fields = sizes[name]
        widths = fields.get("hidden_dim", 0), fields.get("deter_dim", 0)
        return fields["model_name"] != name, *widths, name

    return sorted(names, key=order)


def size_fields(model_type: str, size: str) -> dict[str, Any]:
    """Field values of a preset, without its ``model_type``; raises UnknownPresetError."""
    presets = _presets()
    if (model_type, size) not in presets:
        raise unknown_size(model_type, size)
    return {k: v for k, v in presets[model_type, size].items() if k != "model_type"}


def unknown_size(model_type: str, size: str) -> UnknownPresetError:
    """The mistake of a size that this family does not have."""
    types, options = model_types(), size_names(model_type)
    owners = [types[kind] for kind, name in _presets() if name == size and kind in types]
    hint = f"{size!r} is a size of {owners[0]}." if owners else near_miss(size, options)
    text = f"{types[model_type]} takes the sizes {', '.join(options)}; got {size!r}."
    return UnknownPresetError(text, hint=hint)
