"""Observation and action descriptions of a config, as plain data and as spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldflux.config.fields import near_miss
from worldflux.config.spaces import Space, flat_action_dim
from worldflux.errors import ConfigurationError

_KINDS = {0: "vector", 1: "vector", 3: "image", 4: "video"}
_DTYPE = {"image": "uint8", "discrete": "int64"}
_KEYS = ("shape", "kind", "dtype", "classes")


def _entry(name: str, described: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A complete {shape, kind, dtype[, classes]} of one key; raises ConfigurationError."""
    key = f"{where}.{name}"
    if not isinstance(described, Mapping):
        raise ConfigurationError(f"must be a mapping with a shape, got {described!r}", key=key)
    for word in described:
        if word not in _KEYS:
            text = f"has an unknown key {word!r}."
            raise ConfigurationError(text, key=key, hint=near_miss(word, _KEYS))
    shape, classes = described.get("shape", None), described.get("classes", ())
    if shape is None and not classes:
        raise ConfigurationError("must be given", key=f"{key}.shape")
    shape = tuple(shape) if shape is not None else (len(classes),)
    classes = (classes,) if isinstance(classes, int) else tuple(classes)
    for word, sizes in (("shape", shape), ("classes", classes)):
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
            text = f"must hold whole numbers above 0, got {sizes}"
            raise ConfigurationError(text, key=f"{key}.{word}")
    kind = "discrete" if classes else _KINDS.get(len(shape), "other")
    if described.get("kind", kind) != kind:
        text = f"is {described['kind']!r}, but shape {shape} is {kind!r}"
        raise ConfigurationError(text, key=f"{key}.kind")
    space = Space(shape, str(described.get("dtype", _DTYPE.get(kind, "float32"))), classes)
    if classes and len(classes) != space.size:
        text = f"must have {space.size} entries, one for each of shape {shape}, got {len(classes)}"
        raise ConfigurationError(text, key=f"{key}.classes")
    return _describe(space)


def _describe(space: Space) -> dict[str, Any]:
    kind = "discrete" if space.discrete else _KINDS.get(len(space.shape), "other")
    entry: dict[str, Any] = {"shape": tuple(space.shape), "kind": kind, "dtype": space.dtype}
    return {**entry, "classes": tuple(space.classes)} if space.discrete else entry


def modalities_of(spaces: Mapping[str, Space]) -> dict[str, Any]:
    """Observation spaces as the plain data of ``observation_modalities``."""
    return {name: _describe(space) for name, space in spaces.items()}


def complete_modalities(modalities: Mapping[str, Any]) -> dict[str, Any]:
    """``observation_modalities`` with every entry's shape, kind and dtype filled in."""
    where = "observation_modalities"
    return {name: _entry(name, entry, where) for name, entry in modalities.items()}


def spaces_of(modalities: Mapping[str, Any]) -> dict[str, Space]:
    """Complete modalities as spaces, by name: networks take the keys in this order, and a saved
    configuration keeps none."""
    return {
        name: Space(tuple(entry["shape"]), entry["dtype"], tuple(entry.get("classes", ())))
        for name, entry in sorted(modalities.items())
    }


def primary_shape(modalities: Mapping[str, Any]) -> tuple[int, ...]:
    """``obs_shape`` of several keys: that of the first image by name, else of the first key."""
    names = sorted(modalities, key=lambda n: (modalities[n]["kind"] != "image", n))
    return tuple(modalities[names[0]]["shape"]) or (1,)


def action_type_of(spaces: Mapping[str, Space]) -> str:
    """``continuous``, ``discrete`` or, with keys of both, ``hybrid``."""
    kinds = {space.discrete for space in spaces.values()}
    return "hybrid" if len(kinds) > 1 else ("discrete" if kinds == {True} else "continuous")


def action_spec_of(spaces: Mapping[str, Space]) -> dict[str, Any]:
    """Action spaces as the plain data of ``action_spec``.

    {kind, dim, discrete[, num_actions]}; actions that are not one choice or one vector also get
    ``keys``, a description of each key.
    """
    kind, dim = action_type_of(spaces), flat_action_dim(spaces)
    spec: dict[str, Any] = {"kind": kind, "dim": dim, "discrete": kind == "discrete"}
    if kind == "discrete":
        spec["num_actions"] = dim
    if dict(spaces) != simple_action_spaces(kind, dim):
        spec["keys"] = modalities_of(spaces)
    return spec


def simple_action_spaces(action_type: str, action_dim: int) -> dict[str, Space]:
    """One key ``action``: one choice among `action_dim`, or a vector of that width."""
    if action_type == "discrete":
        return {"action": Space((), "int64", (action_dim,))}
    return {"action": Space((action_dim,), "float32")}


def action_spaces_from(spec: Mapping[str, Any]) -> dict[str, Space]:
    """The spaces that an ``action_spec`` describes; raises ConfigurationError."""
    known = ("kind", "dim", "discrete", "num_actions", "keys")
    for key in spec:
        if key not in known:
            text = f"has an unknown key {key!r}."
            raise ConfigurationError(text, key="action_spec", hint=near_miss(key, known))
    if spec.get("keys"):
        entries = {name: _entry(name, e, "action_spec.keys") for name, e in spec["keys"].items()}
        spaces = spaces_of(entries)
    else:
        kind = spec.get("kind", "discrete" if spec.get("discrete") else "continuous")
        dim = spec.get("dim", spec.get("num_actions"))
        if kind not in ("continuous", "discrete"):
            text = f"of kind {kind!r} needs keys, one description for each"
            raise ConfigurationError(text, key="action_spec")
        if not isinstance(dim, int) or dim < 1:
            text = f"must be a whole number above 0, got {dim!r}"
            raise ConfigurationError(text, key="action_spec.dim")
        spaces = simple_action_spaces(kind, dim)
    for key, value in action_spec_of(spaces).items():
        if key != "keys" and spec.get(key, value) != value:
            text = f"is {spec[key]!r}, but its actions make it {value!r}"
            raise ConfigurationError(text, key=f"action_spec.{key}")
    return spaces
