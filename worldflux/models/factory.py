"""Models by name: `family:size`, an alias, or where one is saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldflux.config.fields import near_miss
from worldflux.config.model import WorldModelConfig
from worldflux.config.presets import size_names, unknown_size
from worldflux.config.targets import entry_of
from worldflux.errors import ConfigurationError, UnknownPresetError
from worldflux.models.families import DEFAULT, OURS, Family, families, family, family_of_type, names
from worldflux.models.hub import is_address
from worldflux.models.saved import is_of_run, saved_model
from worldflux.run_folder.names import BEST

if TYPE_CHECKING:
    from worldflux.models.world_model import WorldModel

API_VERSIONS = ("v3", "v0.2")


def create_world_model(
    model: str,
    *,
    obs_shape: tuple[int, ...] | None = None,
    action_dim: int | None = None,
    observation_modalities: dict[str, Any] | None = None,
    action_spec: dict[str, Any] | None = None,
    component_overrides: dict[str, Any] | None = None,
    losses: dict[str, Any] | None = None,
    device: str = "cpu",
    api_version: str = "v3",
    **config_overrides: Any,
) -> WorldModel:
    """A model by name, alias or folder.

    model: `family:size`, an alias such as `dreamer-small`, a folder that `save_pretrained` wrote, a
        run (its best checkpoint) or one of its checkpoints. component_overrides: networks of your own
        by the part's name (``encoder``, ``decoder``, ``reward`` …): a class, or
        ``{"_target_": class or "module.Class", "argument": value}``; the field `components`. losses:
        loss terms of your own, likewise. config_overrides: any field of the family's configuration;
        a folder takes none.
    Raises UnknownPresetError (a ValueError) for a name that does not exist and ConfigurationError
    for overrides that do not fit, both before any tensor is made.
    """
    if api_version not in API_VERSIONS:
        raise UnknownPresetError(f"api_version must be v3 or v0.2, got {api_version!r}")
    for field, entries in (("components", component_overrides), ("losses", losses)):
        if entries:
            named = {name: entry_of(f"{field}.{name}", one) for name, one in entries.items()}
            config_overrides[field] = {**config_overrides.get(field, {}), **named}
    overrides = {
        "obs_shape": obs_shape,
        "action_dim": action_dim,
        "observation_modalities": observation_modalities,
        "action_spec": action_spec,
        **config_overrides,
    }
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if is_folder(model):
        if overrides:
            text = f"{model} is a saved model, whose configuration is fixed"
            raise ConfigurationError(f"{text}; leave out {', '.join(overrides)}")
        return load_saved(Path(model), device=device)
    config = get_config(model, device=device, **overrides)
    return make_model(config).to(device)


def load_saved(
    path: Path, checkpoint: str = BEST, device: str = "cpu", trust: bool = False
) -> WorldModel:
    """The model of a model folder, a run or a checkpoint. checkpoint: which one of a run. trust: what
    it names as parts is imported although another user made it."""
    config, folder = saved_model(path, checkpoint, trust)
    kind = model_class(config.model_type)
    model: WorldModel = kind.from_pretrained(folder, device=device, trust=trust)
    return model


def get_config(model: str, **overrides: Any) -> WorldModelConfig:
    """The configuration that `create_world_model` would build from this name."""
    if is_folder(model):
        return saved_model(Path(model))[0].with_overrides(**overrides)
    kind, size = resolve(model)
    config = kind.config_class()
    if config.needs_obs_shape and not overrides.keys() & {"obs_shape", "observation_modalities"}:
        text = f"must be given for {model}"
        raise ConfigurationError(text, key="obs_shape").labelled(f"[{size}] ")
    return config.from_size(size, **overrides)


def aliases() -> dict[str, tuple[str, str]]:
    """Alias -> family and size."""
    return {alias: (one.name, size) for one in families() for alias, size in one.aliases.items()}


def resolve(model: str) -> tuple[Family, str]:
    """Family and size of a name or alias, upper or lower case; UnknownPresetError."""
    name = model.strip().lower()
    known = aliases()
    name = ":".join(known[name]) if name in known else name
    kind, separator, size = name.partition(":")
    if not separator:
        example = f"{DEFAULT.name}:{DEFAULT.aliases[DEFAULT.name]}"
        text = f"{model!r} is neither family:size, such as {example}, nor an alias"
        raise UnknownPresetError(f"{text}.", hint=near_miss(name, [*known, *names()]))
    owners = {synonym: one.name for one in OURS for synonym in one.synonyms}
    owners |= {one: one for one in names()}
    if kind not in owners:
        text = f"unknown family {kind!r} in {model!r}; there are {', '.join(names())}."
        raise UnknownPresetError(text, hint=near_miss(kind, owners))
    match = family(owners[kind])
    sizes = size_names(match.model_type)
    if sizes and size not in sizes:  # a family without YAML knows its sizes itself
        raise unknown_size(match.model_type, size)
    return match, size


def is_folder(model: str) -> bool:
    """Whether the text names something saved, or can only be meant as a path."""
    path = Path(model)
    if is_address(model) or path.is_dir() or is_of_run(path):
        return True
    if path.is_absolute() or model.startswith((".", "~")):
        raise FileNotFoundError(f"no model folder at {model}")
    return False


def make_model(config: WorldModelConfig) -> Any:
    """A model with fresh weights; ConfigurationError where the machine lacks the memory."""
    from worldflux.core.memory import memory_for  # PyTorch

    with memory_for(f"a {config.model_type} model of these sizes"):
        return model_class(config.model_type)(config)


def model_class(model_type: str) -> type[Any]:
    """The class of a family's models; ConfigurationError if there is no such family."""
    return family_of_type(model_type).model_class()


def list_models() -> list[str]:
    """Every preset as `family:size`, smallest first."""
    return [
        f"{one.name}:{size}"
        for one in families()
        for size in size_names(one.model_type, aliases=False)
    ]


def get_model_info(model: str) -> dict[str, Any]:
    """Family, size, aliases and configuration of a preset, as plain data."""
    kind, size = resolve(model)
    config = kind.config_class().from_size(size)
    names = [name for name in kind.aliases if resolve(name) == (kind, config.model_name)]
    return {
        "id": f"{kind.name}:{config.model_name}",
        "family": kind.name,
        "model_type": kind.model_type,
        "size": config.model_name,
        "aliases": sorted(names),
        "available": True,
        "config": config.to_dict(),
    }


def count_parameters(config: WorldModelConfig) -> int:
    """Trainable parameters of the whole agent; nothing is allocated.

    Target networks, which no gradient reaches, are not counted.
    """
    import torch

    if hasattr(config, "actor_critic"):
        config = config.with_overrides(actor_critic=True)
    with torch.device("meta"):
        model = model_class(config.model_type)(config)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
