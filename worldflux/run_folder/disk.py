"""Files that outlive a crash: replaced whole, flushed to the disk, checked by checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worldflux.config.files import read_document
from worldflux.errors import ConfigurationError, DiskError

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

log = logging.getLogger(__name__)


@contextmanager
def where_allowed(path: Path) -> Iterator[None]:
    """For what a command that looks at a run leaves there: a warning where the folder may only be
    read."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("%s is not written: %s", path, error.strerror)


@contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Raises DiskError where the disk is full or read-only or the folder was deleted, and
    ConfigurationError for a name that is too long."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:  # no disk takes it
            raise ConfigurationError(f"cannot write {what} {path}: {reason}") from error
        raise DiskError(f"cannot write {what} {path}: {reason}") from error


def write_atomic(path: Path, content: str) -> None:
    """Replaces a text file; a reader, or a crash, sees the old or the new one, never half."""
    with replaced(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A new file to write, which then replaces `path`: what is there now, or what a link there
    points to, is never written into. It has the mode that the umask gives."""
    # Two processes may write one file at a time (searchers of a study): each has a draft for itself.
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # a library may have put a file of its own there
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new names and renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(document: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON text of a document together with its checksum."""
    sealed = {**document, "sha256": _digest(document)}
    return json.dumps(sealed, indent=indent, sort_keys=True, allow_nan=False) + "\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """The document that `seal` made a file of; ValueError or OSError say what is wrong with it."""
    document = read_document(path)
    if not isinstance(document, dict) or document.pop("sha256", None) != _digest(document):
        raise ValueError("its checksum differs")
    return document


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Checksum and size, which show damage to a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def has_facts(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file is that of `file_facts`; one of another size is not read, it may be endless."""
    return path.stat().st_size == facts.get("bytes") and file_facts(path) == {**facts}


def shown(folder: Path) -> str:
    """A path as a person would type it: relative where it lies below the working directory."""
    absolute, here = folder.resolve(), Path.cwd()
    inside = absolute != here and absolute.is_relative_to(here)
    return str(absolute.relative_to(here) if inside else folder)
