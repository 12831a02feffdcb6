"""The web application: a page, its assets and read-only JSON."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from worldflux.dashboard.board import Board
from worldflux.dashboard.server import STATIC

FRESH = {"Cache-Control": "no-cache, no-store"}
HEADERS = {
    # The page needs nothing from anywhere else.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Answers GET and HEAD for names of this machine only.

    A page of another site can make a browser ask 127.0.0.1 under a name of its own (DNS
    rebinding); the Host header gives it away and gets 421. Other methods get 405.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.names = {"localhost", host.strip("[]").lower()}
        if not ipaddress_of(host) or not ipaddress.ip_address(host).is_loopback:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        refusal: Response | None = None
        if not self.allowed(headers.get(b"host", "")):
            refusal = PlainTextResponse("this dashboard answers to its own address only", 421)
        elif scope["method"] not in ("GET", "HEAD"):
            refusal = PlainTextResponse("read only", 405, {"Allow": "GET, HEAD"})
        await (refusal or self.app)(scope, receive, send)

    def allowed(self, host: str) -> bool:
        """Whether a Host header is ours: an address, or a name of this machine."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        return name in self.names or ipaddress_of(name)


def ipaddress_of(name: str) -> bool:
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


def make_app(board: Board) -> ASGIApp:
    """The application over what a `Board` holds."""

    async def page(request: Request) -> Response:
        return FileResponse(Path(board.settings["root"]) / "index.html", headers=FRESH)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok", headers=FRESH)

    async def summary(request: Request) -> Response:
        return _json(board.summary())

    async def metrics(request: Request) -> Response:
        since = number(request, "since_step"), number(request, "since_seq")
        return _json(board.metrics.points(*since))

    async def gameplay(request: Request) -> Response:
        board.watch()
        jpeg = request.query_params.get("encoding") == "jpeg"
        return _json(board.frames(number(request, "since_seq"), jpeg=jpeg))

    async def imagination(request: Request) -> Response:
        return _json(board.pictures.index())

    async def picture(request: Request) -> Response:
        content = board.pictures.content(request.path_params["name"])
        if content is None:
            return PlainTextResponse("not found", 404)
        kind = "image/png" if content[:4] == b"\x89PNG" else "image/jpeg"
        return Response(content, media_type=kind, headers=FRESH)

    async def not_found(request: Request, error: Exception) -> Response:
        return PlainTextResponse("not found", 404)

    routes = [
        Route("/", page),
        Route("/index.html", page),
        Route("/healthz", healthz),
        Route("/api/summary", summary),
        Route("/api/metrics", metrics),
        Route("/api/gameplay", gameplay),
        Route("/api/imagination", imagination),
        Route("/api/imagination/{name:path}", picture),
        Mount("/assets", StaticFiles(directory=STATIC)),
    ]
    app = Starlette(routes=routes, exception_handlers={404: not_found})

    async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
        async def start(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await app(scope, receive, start)

    return Guard(with_headers, board.settings["host"])


def _json(content: Any) -> Response:
    return JSONResponse(content, headers=FRESH)
