"""Reads pickles that hold numpy arrays in plain containers, without running anything they name.

Names in the file select one of a few classes below, which only store their arguments; nothing
is imported and no code of numpy runs before the whole file is read.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldflux.config.files import open_regular
from worldflux.errors import CheckpointError

_KINDS = "?biuf"  # booleans, integers and floats


class _Type:
    """A number type: its code, then (by `__setstate__`) its byte order."""

    def __init__(self, code: str, *_: object):
        if not isinstance(code, str) or code.lstrip("<>=|")[:1] not in _KINDS:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not admitted")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, *compound = state[1:5]
        if any(part is not None for part in compound):
            raise pickle.UnpicklingError("arrays of compound types are not admitted")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array: created empty, then filled by `__setstate__`."""

    value: np.ndarray

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        self.value = _from_bytes(raw, kind, shape, "F" if fortran else "C").value


def _from_bytes(
    raw: bytes, kind: _Type, shape: tuple[int, ...], order: Literal["C", "F"]
) -> _Array:
    array = _Array()
    # Copied in the machine's own byte order, writable.
    native = kind.dtype.newbyteorder("=")
    array.value = np.frombuffer(raw, kind.dtype).reshape(shape, order=order).astype(native)
    return array


def _scalar(kind: _Type, raw: bytes) -> _Array:
    return _from_bytes(raw, kind, (), "C")


# numpy 2 renamed the modules; files have either name.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_bytes for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, but only numpy arrays in plain containers are admitted"
            )
        return _ADMITTED[module, name]


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays in place of what was read for them. done: containers by identity, as a
    small pickle may hold one container a million times."""
    if isinstance(value, _Array):
        return value.value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        done[id(value)] = {key: _plain(item, done) for key, item in value.items()}
        return done[id(value)]
    if isinstance(value, list | tuple):
        done[id(value)] = type(value)(_plain(item, done) for item in value)
        return done[id(value)]
    if isinstance(value, _Type):
        raise pickle.UnpicklingError("it holds a type where an array is expected")
    return value


def read_pickled_arrays(path: Path) -> dict[str, Any]:
    """The dict of arrays, numbers, texts and plain containers in a pickle.

    Raises CheckpointError for a file that is damaged, holds anything else or names any code.
    """
    try:
        with open_regular(path) as file:
            whole = _Unpickler(file).load()
            content = _plain(whole, {})
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # bytes that are no pickle fail in any way
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dict of arrays")
    return content
