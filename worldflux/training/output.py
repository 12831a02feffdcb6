"""Standard output and error that never end a run: what they cannot take is left out or escaped."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# The reader is gone, the terminal is gone, the disk behind it is full.
GONE = (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.ECONNRESET)


class Output:
    """A text stream whose reader may have gone, and which may not know a character."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            try:
                return self._stream.write(text)
            except UnicodeEncodeError as error:
                known = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
                return self._stream.write(known)
        except (OSError, ValueError) as error:
            self._close(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._close(error)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def _close(self, error: OSError | ValueError) -> None:
        """From now on, and for what is buffered, nobody reads it. ValueError: it was closed."""
        if isinstance(error, OSError):
            if error.errno not in GONE:
                raise error
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def lasting_output() -> Iterator[None]:
    """While entered, writing to standard output or error raises nothing."""
    before = sys.stdout, sys.stderr
    made = []
    if None in (sys.stdin, *before):
        _fill_descriptors()  # else the next file to be opened would be one of these
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")
            made.append(stream)
        if isinstance(stream, io.TextIOBase):
            setattr(sys, name, Output(stream))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
        for stream in made:
            stream.close()


def _fill_descriptors() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free
