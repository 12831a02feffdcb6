"""What happens in a training, as messages to the dashboard's process: JSON, and raw bytes behind it."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, ClassVar

Event = Mapping[str, Any]  # JSON content; "event" is its kind
Payload = bytes | memoryview  # raw bytes that belong to an event
Sink = Callable[[Event, Payload], None]

_LENGTHS = struct.Struct("!II")  # of the JSON text and of the bytes


class Buffer:
    """The state of something, safe to use from several threads.

    Once a server has attached itself, everything new goes to its process instead of being kept.
    """

    state_event: ClassVar[str]  # kind of the events that change the state

    def __init__(self, **state: Any) -> None:
        self._lock = threading.Lock()
        self._sink: Sink | None = None
        self._seq = 0  # number of what was kept last
        self._state: dict[str, Any] = {"status": "running", "phase": "starting", **state}

    def set(self, **values: Any) -> None:
        """Any fact of the state that the page shows."""
        self.note({"event": self.state_event, "values": values})

    def note(self, event: Event, payload: Payload = b"") -> None:
        """Keeps an event, or passes it on to the attached server."""
        with self._lock:
            if self._sink is not None:
                self._sink(event, payload)
            elif event["event"] == self.state_event:
                self._state.update(event["values"])
            else:
                self._keep(event, payload)

    def attach(self, sink: Sink) -> None:
        """Hands over what `_events` has, and from now on everything new."""
        with self._lock:
            for event in self._events():
                sink(event, b"")
            self._sink = sink

    def _keep(self, event: Event, payload: Payload) -> None:
        """Keeps an event that is not about the state."""
        raise NotImplementedError

    def _events(self) -> Iterator[Event]:
        """What is held, as the events that make it."""
        yield {"event": self.state_event, "values": dict(self._state)}


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
