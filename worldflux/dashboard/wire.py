"""Messages between the training process and the dashboard's: JSON, and raw bytes behind it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

_LENGTHS = struct.Struct("!II")  # of the JSON text and of the bytes


def write(stream: IO[bytes], message: Mapping[str, Any], payload: Any = b"") -> None:
    """Writes one message. payload: bytes or any flat byte buffer, which is not copied."""
    text = json.dumps(message).encode()
    stream.write(_LENGTHS.pack(len(text), len(payload)) + text)
    if len(payload):
        stream.write(payload)
    stream.flush()


def read(stream: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Messages until the other side closes, or dies in the middle of one."""
    while len(head := stream.read(_LENGTHS.size)) == _LENGTHS.size:
        lengths = _LENGTHS.unpack(head)
        text, payload = stream.read(lengths[0]), stream.read(lengths[1])
        if (len(text), len(payload)) != lengths:
            return
        yield json.loads(text), payload
