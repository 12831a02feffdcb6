"""Reading files that somebody else may have written: regular ones of a limited size and depth."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What the modules of archives and of arrays raise for bytes that are none, an encrypted entry or an
# unknown compression, beside OSError and ValueError.
DAMAGED_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
)
LIMIT = 2**26  # bytes of a text file: 64 MiB
DEPTH = 64  # of lists and mappings in each other
ALIASES = 16  # of a YAML file; each may stand for everything before it


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def open_regular(path: Path) -> BinaryIO:
    """A file to read. OSError: it is missing, or a pipe or device."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a file; OSError, or ValueError: it is larger than `limit` bytes."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return content


def read_text(path: Path, limit: int = LIMIT) -> str:
    """The text of a file. OSError: it is missing, or a pipe or device; ValueError: it is larger than
    `limit` bytes or not UTF-8."""
    return read_bytes(path, limit).decode("utf-8")


def read_arrays(path: Path, limit: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. OSError; ValueError: it is damaged, an entry has another size than
    its array, or all need more than `limit` bytes (by default the machine's memory). Memory is taken
    only for what is right."""
    limit = memory() if limit is None else limit
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            needed = 0
            for entry in archive.infolist():
                with archive.open(entry) as content:
                    needed += _array_bytes(content, entry)
            if needed > limit:
                raise ValueError(f"its arrays need {needed:,} bytes, and {limit:,} are what may be")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
    except DAMAGED_ARCHIVE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def map_arrays(path: Path, limit: int | None = None) -> dict[str, np.ndarray]:
    """As `read_arrays`, but arrays that are stored as they are stay on the disk and are mapped, read
    only; memory is taken for compressed ones, of `limit` bytes in all."""
    limit = memory() if limit is None else limit
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            arrays: dict[str, np.ndarray] = {}
            compressed: dict[str, str] = {}
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as content:
                    shape, fortran, dtype, skip = _header(content, entry)
                if fortran or 0 in shape or entry.compress_type != zipfile.ZIP_STORED:
                    limit -= math.prod(shape) * dtype.itemsize
                    compressed[name] = entry.filename
                else:
                    begin = _content_at(file, entry) + skip
                    arrays[name] = np.memmap(path, dtype, "r", begin, shape)
            if limit < 0:
                raise ValueError("its arrays are compressed, and memory has no room for them")
            for name, inner in compressed.items():
                with archive.open(inner) as content:
                    arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
            return arrays
    except DAMAGED_ARCHIVE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _content_at(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where in an archive the content of an entry begins."""
    file.seek(entry.header_offset)
    local = file.read(30)
    if local[:4] != b"PK\3\4":
        raise ValueError(f"{entry.filename} is not where the archive says")
    name, extra = struct.unpack("<HH", local[26:30])
    begin = entry.header_offset + 30 + int(name) + int(extra)
    if begin + entry.file_size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{entry.filename} is cut short")
    return begin


def _array_bytes(content: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Bytes of the array that an entry declares, which has just as many."""
    shape, _, dtype, _ = _header(content, entry)
    return math.prod(shape) * dtype.itemsize


def _header(
    content: IO[bytes], entry: zipfile.ZipInfo
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """What an entry declares, which has just as many bytes: shape, whether columns come first, type,
    and where its numbers begin."""
    read_header = _HEADERS.get(np.lib.format.read_magic(content))
    if read_header is None:
        raise ValueError(f"{entry.filename} is no array")
    shape, fortran, dtype = read_header(content)
    begin = content.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != entry.file_size - begin:
        raise ValueError(f"{entry.filename} is no array of its size")
    return shape, fortran, dtype, begin


def check_stored(path: Path) -> None:
    """ValueError where a .pt file, which is never compressed, would take more memory than disk."""
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("its entries are larger than the file")


def read_document(path: Path) -> Any:
    """The content of a JSON file; OSError or ValueError."""
    return parsed(read_text(path))


def parsed(text: str | bytes) -> Any:
    """The content of JSON text; ValueError."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [content]
    for _ in range(DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return content
    raise ValueError(f"it is nested deeper than {DEPTH} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list) else []


def has_aliases(path: Path) -> bool:
    """Whether a YAML file may repeat itself without end; OSError or ValueError: it is no text."""
    return len(re.findall(r"(?:^|[\s\[{,:-])\*[^\s\]},*]", read_text(path))) > ALIASES


def check_yaml(path: Path) -> None:
    """ValueError where a YAML file is no text or repeats itself by aliases; OSError."""
    if has_aliases(path):
        raise ValueError(f"it has more than {ALIASES} aliases (*name)")


@contextmanager
def environment_hidden() -> Iterator[None]:
    """Refuses references to variables of the environment: what somebody else wrote may not carry
    their values into files."""

    def refuse(key: str, default: Any = None) -> Any:
        raise ValueError(f"${{oc.env:{key}}}: a file of others may not refer to the environment")

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def references(tree: Any, key: str = "") -> Iterator[str]:
    """Keys of texts in a tree of plain data that OmegaConf would follow as references."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from references(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value, key)
    elif isinstance(tree, str) and "${" in tree:
        yield key


def wrong_kinds(content: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    """What is wrong with the keys that are there, None if nothing is. kinds: by key, with dots for
    what lies in a mapping, the types that a value may have."""
    for key, kind in kinds.items():
        value: Any = content
        for name in key.split("."):
            value = value.get(name, ...) if isinstance(value, Mapping) else ...
        if value is ... or (isinstance(value, kind) and not _only_number(value, kind)):
            continue
        names = [one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,))]
        words = " or ".join(WORDS.get(name, name) for name in names)
        return f"{key} must be {words}, got {str(value)[:60]!r}"
    return None


WORDS = {
    "dict": "a mapping",
    "list": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "NoneType": "null",
    "bool": "true or false",
}


def _only_number(value: Any, kind: Any) -> bool:
    """Whether true or false stands where a number must."""
    return isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else (kind,))
