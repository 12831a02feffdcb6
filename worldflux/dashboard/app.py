"""The web application: a page, its assets and read-only JSON."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worldflux.dashboard.board import Board
from worldflux.dashboard.server import STATIC

SHARED = ("worldflux.report", "static")  # what all pages have
FRESH = {"Cache-Control": "no-cache, no-store"}
# The page needs nothing from anywhere else.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'{inline}; "
    "script-src 'self'{inline}; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Answers GET and HEAD for names of this machine only, and adds HEADERS and the POLICY. inline:
    whether the page may hold scripts, as one that a user wrote has no other place for them.

    A page of another site can make a browser ask 127.0.0.1 under that site's name (DNS rebinding);
    the Host header gives it away and gets 421. Other methods get 405.
    """

    def __init__(self, app: ASGIApp, host: str, inline: bool) -> None:
        self.app = app
        policy = POLICY.format(inline=" 'unsafe-inline'" * inline)
        headers = {**HEADERS, "Content-Security-Policy": policy}
        self.headers = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        self.names = {"localhost", host.strip("[]").lower()}
        if not is_address(host) or not ipaddress.ip_address(host).is_loopback:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        answer = self.app
        if scope["type"] == "http":
            headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
            if not self.allowed(headers.get(b"host", "")):
                answer = PlainTextResponse("this dashboard answers to its own address only", 421)
            elif scope["method"] not in ("GET", "HEAD"):
                answer = PlainTextResponse("read only", 405, {"Allow": "GET, HEAD"})
        await answer(scope, receive, send_with_headers)

    def allowed(self, host: str) -> bool:
        """Whether a Host header is ours: an address, or a name of this machine."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        return name in self.names or is_address(name)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def number(request: Request, name: str) -> int:
    """A query parameter as a whole number; -1 where it is none."""
    try:
        return int(request.query_params.get(name, "-1"))
    except ValueError:
        return -1


def json(content: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that answers with JSON."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(content(request), headers=FRESH)

    return endpoint


def make_app(board: Board) -> ASGIApp:
    """The application over what a `Board` holds."""

    async def page(request: Request) -> Response:
        return FileResponse(Path(board.settings["root"]) / "index.html", headers=FRESH)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok", headers=FRESH)

    async def not_found(request: Request, error: Exception | None = None) -> Response:
        return PlainTextResponse("not found", 404)

    async def picture(request: Request) -> Response:
        content = board.pictures.content(request.path_params["name"])
        if content is None:
            return await not_found(request)
        kind = "image/png" if content[:4] == b"\x89PNG" else "image/jpeg"
        return Response(content, media_type=kind, headers=FRESH)

    def metrics(request: Request) -> dict[str, Any]:
        return board.metrics.points(number(request, "since_step"), number(request, "since_seq"))

    def gameplay(request: Request) -> dict[str, Any]:
        jpeg = request.query_params.get("encoding") == "jpeg"
        return board.frames(number(request, "since_seq"), jpeg=jpeg)

    routes = [
        Route("/", page),
        Route("/index.html", page),
        Route("/healthz", healthz),
        Route("/api/summary", json(lambda request: board.summary())),
        Route("/api/metrics", json(metrics)),
        Route("/api/gameplay", json(gameplay)),
        Route("/api/imagination", json(lambda request: board.pictures.index())),
        Route("/api/imagination/{name:path}", picture),
        Mount("/assets", StaticFiles(directory=STATIC, packages=[SHARED])),
    ]
    app = Starlette(routes=routes, exception_handlers={404: not_found})
    inline = board.settings["root"] != str(STATIC.resolve())
    return Guard(app, board.settings["host"], inline)
