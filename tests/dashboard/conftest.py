from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worldflux.dashboard import GameplayBuffer, MetricBuffer, MetricsDashboardServer


class Client:
    """Asks a dashboard as a browser would, and as one would not."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"Host": host} if host is not None else {}
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, content = self.ask(path)
        assert status == 200, (path, status, content)
        return json.loads(content)

    def until(self, path: str, wanted: Callable[[Any], bool], seconds: float = 120) -> Any:
        """The first answer that is as wanted: what is sent arrives a moment later."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.json(path)
            if wanted(answer):
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[MetricsDashboardServer, Client]]]:
    """Starts servers on free ports and ends them."""
    servers: list[MetricsDashboardServer] = []

    def start(**options: Any) -> tuple[MetricsDashboardServer, Client]:
        metrics = options.pop("metrics", None) or MetricBuffer()
        gameplay = options.pop("gameplay", GameplayBuffer(max_frames=20))
        server = MetricsDashboardServer(metrics, gameplay, **{"start_port": 0, **options})
        servers.append(server)
        server.start()
        assert server.port is not None
        return server, Client(server.port)

    yield start
    for server in servers:
        server.stop(linger=False)
