"""The training process's end of the dashboard: starts the process that serves it, and feeds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import webbrowser
from pathlib import Path
from typing import IO, Any

from worldflux.dashboard.events import Event, Payload, write
from worldflux.dashboard.gameplay import GameplayBuffer
from worldflux.dashboard.metrics import MetricBuffer
from worldflux.errors import ConfigurationError, MissingDependencyError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
PORT_TAKEN, DIED = "dashboard_port_taken", "dashboard_unavailable"
WAITING_MESSAGES = 4096
WAITING_FRAMES = 4  # beyond it frames are dropped: the newest one is what counts
STOP_SECONDS = 5.0
PIPE_BYTES = 2**20


class MetricsDashboardServer:
    """Serves the dashboard from a small process of its own, so that a slow or broken page never
    holds up the training.

    start_port: the first of `max_port_tries` ports that is free is taken; 0 takes any free one.
    dashboard_root: folder with the ``index.html`` to serve instead of the package's own.
    linger_seconds: for how long the page still answers after `stop`.

    degraded_modes names what is not as configured: ``dashboard_port_taken``, ``dashboard_unavailable``.
    """

    def __init__(
        self,
        metric_buffer: MetricBuffer,
        gameplay_buffer: GameplayBuffer | None = None,
        host: str = "127.0.0.1",
        start_port: int = 8765,
        dashboard_root: str | Path | None = None,
        refresh_ms: int = 1000,
        max_port_tries: int = 100,
        *,
        linger_seconds: float = 3.0,
    ) -> None:
        self.metric_buffer = metric_buffer
        self.gameplay_buffer = gameplay_buffer
        self.host = host
        self.start_port = start_port
        self.max_port_tries = max_port_tries
        self.degraded_modes: list[str] = []
        self.port: int | None = None
        self.watched = False
        self._settings: dict[str, Any] = {
            "host": host,
            "refresh_ms": refresh_ms,
            "max_points": metric_buffer.max_points,
            "max_frames": gameplay_buffer.max_frames if gameplay_buffer else 0,
            "fps": gameplay_buffer.fps if gameplay_buffer else 0,
            "root": str(Path(dashboard_root or STATIC).resolve()),
            "linger_seconds": linger_seconds,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: queue.Queue[tuple[Event, Payload] | None] = queue.Queue(WAITING_MESSAGES)
        self._free_frames = threading.Semaphore(WAITING_FRAMES)
        self._sender: threading.Thread | None = None
        self._stopping = False

    @property
    def url(self) -> str:
        """Where the page is, once started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{self.port}/"

    def start(self) -> None:
        """Takes a port and starts the serving process. Raises MissingDependencyError without the
        extra, ConfigurationError where no port can be taken."""
        check_installed()
        if not Path(self._settings["root"], "index.html").is_file():
            raise ConfigurationError(f"dashboard_root: no index.html in {self._settings['root']}")
        listener = self._listen()
        self.port = listener.getsockname()[1]
        if self.start_port and self.port != self.start_port:
            log.warning("dashboard: port %d is taken, using %d", self.start_port, self.port)
            self.degraded_modes.append(PORT_TAKEN)
        with listener:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worldflux.dashboard.serve", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the training, which reports how it ended
            )
        widen(self._process.stdin)
        self.send({"event": "settings", **self._settings, "port": self.port})
        self._sender = threading.Thread(target=self._pump, name="dashboard", daemon=True)
        self._sender.start()
        threading.Thread(target=self._read_back, name="dashboard-back", daemon=True).start()
        for buffer in (self.metric_buffer, self.gameplay_buffer):
            if buffer is not None:
                buffer.attach(self.send)

    def open_browser(self) -> None:
        """Opens the page in the user's browser, if there is one."""
        threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()

    def send(self, message: Event, payload: Payload = b"") -> None:
        """Queues a message for the serving process; never waits. What it cannot take is dropped:
        frames when it lags behind, everything once it is gone."""
        if self._stopping or DIED in self.degraded_modes:
            return
        frame = message["event"] == "frame"
        if frame and not self._free_frames.acquire(blocking=False):
            return
        try:
            self._waiting.put_nowait((message, payload))
        except queue.Full:
            if frame:
                self._free_frames.release()

    def stop(self, linger: bool = True) -> None:
        """Sends what is waiting and lets go of the serving process, which answers a little longer
        (without `linger` it ends now). May be called twice."""
        if self._process is None or self._stopping:
            return
        self.send({"event": "end"})
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=STOP_SECONDS)
        assert self._sender is not None
        self._sender.join(STOP_SECONDS)
        if not linger or self._sender.is_alive():
            self._process.terminate()
            self._process.wait(STOP_SECONDS)

    def _listen(self) -> socket.socket:
        """A listening socket on the first free port."""
        end = min(self.start_port + (self.max_port_tries if self.start_port else 1), 65536)
        for port in range(self.start_port, end):
            listener = _bound(self.host, port)
            if listener is not None:
                listener.listen(64)
                return listener
        text = f"={self.start_port}: none of the ports {self.start_port} to {end - 1} is free"
        raise ConfigurationError(text, key="visualization.port")

    def _pump(self) -> None:
        """Writes what is queued; the only thread that touches the pipe."""
        assert self._process is not None and self._process.stdin is not None
        pipe = self._process.stdin
        try:
            while (item := self._waiting.get()) is not None:
                message, payload = item
                write(pipe, message, payload)
                if message["event"] == "frame":
                    self._free_frames.release()
            pipe.close()
        except OSError:  # the other side is gone
            self._lost()

    def _read_back(self) -> None:
        """Reads from the serving process whether a page watches, and notices that it is gone."""
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                self.watched = bool(json.loads(line)["watched"])
        self._lost()
        self._process.wait()  # else it would stay in the table of processes

    def _lost(self) -> None:
        self.watched = False
        if not self._stopping and DIED not in self.degraded_modes:
            self.degraded_modes.append(DIED)
            log.warning("the dashboard's process ended; training goes on without the page")


def widen(pipe: IO[bytes] | None) -> None:
    """Lets a pipe hold a whole frame, where the system can, so that writing one is one call."""
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # beyond what the system allows
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def check_installed() -> None:
    """Raises MissingDependencyError, with the line that installs it, without the web library."""
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"the dashboard needs {name}: pip install 'worldflux[dashboard]'"
            )


def check_host(host: str) -> None:
    """ConfigurationError where a page cannot listen on this address."""
    listener = _bound(host, 0)
    if listener is not None:
        listener.close()


def _bound(host: str, port: int) -> socket.socket | None:
    """A socket of this address; None: the port is taken. ConfigurationError: it is none of this
    machine's."""
    if not host.strip():
        text = "must name an address, for example 127.0.0.1"
        raise ConfigurationError(text, key="visualization.host")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
            return None
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"={host}: {reason}", key="visualization.host") from error
    return listener


def _environment() -> dict[str, str]:
    """The child's environment, in which it finds this very package."""
    home = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}
