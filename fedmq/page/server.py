"""The HTTP side of the page: who may look, what is answered, and a stream that tells when something has changed."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.numpy
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.artifacts.export import read_model
from federation.errors import ConfigError, FederationError
from fedmq.page.metrics import CONTENT_TYPE, exposition
from fedmq.run_view import PAUSE_S, RunView, Snapshot, encoded

__all__ = ["Access", "make_server"]

POLICY = "; ".join(
    (
        "default-src 'none'",
        "frame-ancestors 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
STATIC: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uPlot.min.css": "text/css; charset=utf-8",
}
COOKIE = "fedmq_page"
VERSIONS_MAX = 20_000
NODES_MAX = 500
"""In one answer; further ones by ``after`` and ``offset``."""

LISTENERS_MAX = 200
"""Streams at the same time."""

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""What this machine is called by itself."""

OPEN = frozenset({"/healthz"})
"""Asked without a token."""

Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may look.

    Attributes:
        token: What a request must bring; empty: whoever can connect may look.
        local: Only programs of this machine may: a page of elsewhere can give a browser its own name for our address.
    """

    token: str = ""
    local: bool = False

    def admits(self, request: Request) -> bool:
        """Whether a request brings the token: as ``Authorization: Bearer``, or in the cookie of a page once opened."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        brought = given if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
        if self.local and request.url.hostname not in LOCAL:
            return False
        return not self.token or hmac.compare_digest(brought.encode(), self.token.encode())


def make_server(folder: Path, access: Access) -> Starlette:
    """The application over one state folder.

    Args:
        folder: The coordinator's state folder.
        access: Who may look.
    """
    answers = _Answers(RunView(folder), access)
    routes = [Route(path, answer, methods=["GET"]) for path, answer in answers.table().items()]
    # The stream is never packed: each line must leave at once.
    middleware = [Middleware(_Guard, access=access), Middleware(_Packed)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={FederationError: _unreadable})


async def _unreadable(_request: Request, error: Exception) -> Response:
    return Response(encoded({"error": str(error)}), 400 if isinstance(error, ConfigError) else 503, media_type=JSON)


JSON = "application/json"


class _Answers:
    def __init__(self, view: RunView, access: Access) -> None:
        self._view, self._access = view, access
        self._static = {name: (files("fedmq.page") / "static" / name).read_bytes() for name in STATIC}
        self._listeners = 0

    def table(self) -> Mapping[str, Answer]:
        """What is answered at which path."""
        table: dict[str, Answer] = {
            "/": self.page,
            "/healthz": self.health,
            "/metrics": self.metrics,
            "/api/v1/status": self.status,
            "/api/v1/versions": self.versions,
            "/api/v1/nodes": self.nodes,
            "/api/v1/events": self.events,
            "/download/model.safetensors": self.model,
        }
        return table | {f"/static/{name}": self.static for name in STATIC if name != "index.html"}

    async def page(self, request: Request) -> Response:
        """The page; a link with ``?token=`` leaves the token in a cookie, and not in the address."""
        given = request.query_params.get("token")
        if (
            given is not None
            and self._access.token
            and hmac.compare_digest(given.encode(), self._access.token.encode())
        ):
            moved = RedirectResponse("/", status_code=303)
            moved.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return moved
        return Response(self._static["index.html"], media_type=STATIC["index.html"])

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        name = request.url.path.removeprefix("/static/")
        return Response(self._static[name], media_type=STATIC[name])

    async def health(self, _request: Request) -> Response:
        """Whether this process answers; it says nothing of the run."""
        return Response(encoded({"ok": True}), media_type=JSON)

    async def metrics(self, _request: Request) -> Response:
        """The numbers for Prometheus."""
        snapshot = await self._now()
        return Response(await run_in_threadpool(exposition, snapshot), media_type=CONTENT_TYPE)

    async def status(self, _request: Request) -> Response:
        """The summary."""
        snapshot = await self._now()
        return Response(encoded({"number": snapshot.number, **snapshot.summary}), media_type=JSON)

    async def versions(self, request: Request) -> Response:
        """The versions after ``after``, at most `VERSIONS_MAX`."""
        after = _number(request, "after", -1)
        snapshot = await self._now()
        found = [one for one in snapshot.versions[max(0, after) :] if one["version"] > after][:VERSIONS_MAX]
        return Response(await run_in_threadpool(encoded, {"versions": found}), media_type=JSON)

    async def nodes(self, request: Request) -> Response:
        """Nodes whose name has ``query`` in it, sorted by ``sort`` (a leading ``-``: downwards), a page of them."""
        snapshot = await self._now()
        query, sort = request.query_params.get("query", ""), request.query_params.get("sort", "id")
        offset, limit = _number(request, "offset", 0), min(NODES_MAX, _number(request, "limit", 100))
        found = await run_in_threadpool(_sorted, snapshot.nodes, query, sort)
        answer = {"total": len(found), "nodes": found[max(0, offset) : max(0, offset) + max(0, limit)]}
        return Response(encoded(answer), media_type=JSON)

    async def model(self, request: Request) -> Response:
        """A model's tensors: ``version`` is newest, best or a number."""
        version = request.query_params.get("version", "newest")
        number, arrays = await run_in_threadpool(read_model, self._view.folder, version)
        content = await run_in_threadpool(safetensors.numpy.save, dict(arrays))
        name = f'attachment; filename="model-{number}.safetensors"'
        return Response(content, media_type="application/octet-stream", headers={"content-disposition": name})

    async def events(self, _request: Request) -> Response:
        """Server-sent events: the summary now, and again whenever something has changed."""
        if self._listeners >= LISTENERS_MAX:
            return Response(encoded({"error": "too many listeners: ask again later"}), 503, media_type=JSON)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        self._listeners += 1
        told = -1
        try:
            while True:
                try:
                    snapshot = await self._now()
                except FederationError as error:
                    yield b"event: problem\ndata: " + encoded({"error": str(error)}) + b"\n\n"
                else:
                    body = encoded({"number": snapshot.number, **snapshot.summary})
                    # A comment keeps the connection where nothing has changed.
                    yield b"data: " + body + b"\n\n" if snapshot.number != told else b": \n\n"
                    told = snapshot.number
                await asyncio.sleep(PAUSE_S)
        finally:
            self._listeners -= 1

    async def _now(self) -> Snapshot:
        return await run_in_threadpool(self._view.now)


def _sorted(nodes: Sequence[Mapping[str, Any]], query: str, sort: str) -> list[Mapping[str, Any]]:
    key, down = sort.removeprefix("-"), sort.startswith("-")
    found = [node for node in nodes if query.lower() in str(node["id"]).lower()]
    if nodes and (key not in nodes[0] or isinstance(nodes[0][key], Mapping)):
        raise ConfigError("sort", f"nodes have no {key!r} to sort by", source="the request")
    return sorted(found, key=lambda node: node[key], reverse=down)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(name, f"{text!r} is no whole number", source="the request") from error


class _Guard:
    """Asks for the token, and puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # The page itself says nothing of the run, and takes the token of a link.
        known = self._access.admits(request) or request.url.path in OPEN
        known = known or (request.url.path == "/" and "token" in request.query_params)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        if known:
            await self._app(scope, receive, send_with_headers)
            return
        problem = "this page needs a token: open it with ?token=TOKEN, or send Authorization: Bearer TOKEN"
        refused = Response(encoded({"error": problem}), 401, media_type=JSON, headers={"www-authenticate": "Bearer"})
        await refused(scope, receive, send_with_headers)


class _Packed:
    """Compresses answers, but not the stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._packed = app, GZipMiddleware(app, minimum_size=1000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = scope.get("path") == "/api/v1/events"
        await (self._app if stream else self._packed)(scope, receive, send)
