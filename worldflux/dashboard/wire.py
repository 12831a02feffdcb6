"""Messages between the training process and the dashboard's: JSON, and raw bytes behind it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import IO, Any

from worldflux.dashboard.metrics import Event, Payload

_LENGTHS = struct.Struct("!II")  # of the JSON text and of the bytes


def write(stream: IO[bytes], message: Event, payload: Payload = b"") -> None:
    """Writes one message; the payload is not copied."""
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
