"""The dashboard's own process: ``python -m worldflux.dashboard.serve FD``.

FD is a listening socket that it inherits; messages (worldflux/dashboard/events.py) come from standard
input, the first one being the settings; whether a page watches goes to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from worldflux.dashboard.app import make_app
from worldflux.dashboard.board import Board
from worldflux.dashboard.events import read

KILLED_LINGER_SECONDS = 60.0  # how long a page can still learn that the training was killed
NICE = 5
SLOWEST = 30.0  # seconds that a client may take to send a request and to read its answer


class Hasty(H11Protocol):
    """HTTP on a connection that is cut where a request and its answer take longer than SLOWEST."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._extend()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:  # a request has come whole
            self._extend()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _extend(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(SLOWEST, self.transport.abort)


def main() -> int:
    os.nice(NICE)  # the training's threads come first
    listener = socket.socket(fileno=int(sys.argv[1]))
    messages = read(sys.stdin.buffer)
    first = next(messages, None)
    if first is None:
        return 0
    board = Board(first[0], _write_watched)
    config = uvicorn.Config(
        make_app(board),
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        http=Hasty,
        timeout_graceful_shutdown=1,  # a browser keeps its connection open
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_receive, args=(messages, board, server), daemon=True).start()
    asyncio.run(_serve(server, board, listener))
    return 0


async def _serve(server: uvicorn.Server, board: Board, listener: socket.socket) -> None:
    async def ticking() -> None:
        while True:
            board.tick()
            await asyncio.sleep(1.0)

    ticks = asyncio.create_task(ticking())
    await server.serve(sockets=[listener])
    ticks.cancel()


def _receive(
    messages: Iterator[tuple[dict[str, Any], bytes]], board: Board, server: uvicorn.Server
) -> None:
    for message, payload in messages:
        board.note(message, payload)
    board.ended()
    time.sleep(KILLED_LINGER_SECONDS if board.killed else board.settings["linger_seconds"])
    server.should_exit = True


def _write_watched(watched: bool) -> None:
    try:
        print(json.dumps({"watched": watched}), flush=True)
    except OSError:  # the training is gone
        pass


if __name__ == "__main__":
    sys.exit(main())
