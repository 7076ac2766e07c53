"""The HTTP side of the page: what is answered, and a stream that tells when something has changed."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from federation.errors import ConfigError, FederationError
from federation.protocol.messages import Presence
from fedmq.page.access import COOKIE, JSON, Access, Guard, Pacing
from fedmq.page.answers import Answer, SharedAnswers, make_answer
from fedmq.page.errands import Errands
from fedmq.page.metrics import CONTENT_TYPE, exposition
from fedmq.run_view import NODE_COLUMNS, PAUSE_S, RunView, Snapshot, encoded

__all__ = ["STATIC", "make_server"]

STATIC: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uPlot.min.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
VERSIONS_MAX = 20_000
NODES_MAX = 500
"""In one answer; further ones by ``after`` and ``offset``."""

LISTENERS_MAX = 200
"""Streams at the same time."""

CHUNK_BYTES: Final = 1 << 16
PIECE_ROWS: Final = 256

SORTS = ("id", *NODE_COLUMNS, "state", "seen_ms")

Handler = Callable[[Request], Awaitable[Response]]


def make_server(
    folder: Path, access: Access, view: RunView | None = None, ending: asyncio.Event | None = None
) -> Starlette:
    """The application over one state folder.

    Args:
        folder: The coordinator's state folder.
        access: Who may look.
        view: What reads it; None makes one.
        ending: Set where the process ends: streams of changes end with it.
    """
    answers = _Answers(view or RunView(folder), access, ending or asyncio.Event())
    routes = [Route(path, answer, methods=["GET"]) for path, answer in answers.table().items()]
    middleware = [Middleware(Guard, access=access), Middleware(Pacing)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={FederationError: _unreadable})


async def _unreadable(_request: Request, error: Exception) -> Response:
    return Response(encoded({"error": str(error)}), 400 if isinstance(error, ConfigError) else 503, media_type=JSON)


class _Answers:
    def __init__(self, view: RunView, access: Access, ending: asyncio.Event) -> None:
        self._view, self._access, self._ending = view, access, ending
        self._static = {name: _static(name, kind) for name, kind in STATIC.items()}
        self._shared, self._errands = SharedAnswers(), Errands()
        self._listeners = 0
        # A mark of a former process names something else.
        self._life = secrets.token_hex(4)

    def table(self) -> Mapping[str, Handler]:
        """What is answered at which path."""
        table: dict[str, Handler] = {
            "/": self.page,
            "/healthz": self.health,
            "/metrics": self.metrics,
            "/api/v1/status": self.status,
            "/api/v1/versions": self.versions,
            "/api/v1/nodes": self.nodes,
            "/api/v1/news": self.news,
            "/api/v1/events": self.events,
            "/download/model.safetensors": self.model,
            "/download/plots.zip": self.plots,
            "/download/report.html": self.report,
        }
        return table | {f"/static/{name}": self.static for name in STATIC if name != "index.html"}

    async def page(self, request: Request) -> Response:
        """The page; a link with ``?token=`` leaves the token in a cookie, and not in the address."""
        given = request.query_params.get("token")
        if given is not None and self._access.knows(given):
            moved = RedirectResponse("/", status_code=303)
            moved.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return moved
        return self._static["index.html"].response(request)

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        return self._static[request.url.path.removeprefix("/static/")].response(request)

    async def health(self, _request: Request) -> Response:
        """Whether this process answers; it says nothing of the run."""
        return Response(encoded({"ok": True}), media_type=JSON)

    async def metrics(self, request: Request) -> Response:
        """The numbers for Prometheus."""
        snapshot = await self._now()
        make = partial(_metrics, snapshot)
        return await self._answer(request, self._mark(snapshot.number), make, CONTENT_TYPE)

    async def status(self, request: Request) -> Response:
        """The summary."""
        snapshot = await self._now()
        return await self._answer(request, self._mark(snapshot.number), partial(_summary, snapshot))

    async def versions(self, request: Request) -> Response:
        """The versions after ``after``, at most `VERSIONS_MAX`."""
        after = _number(request, "after", -1)
        snapshot = await self._now()
        return await self._answer(request, self._mark(snapshot.summary["rows"]), partial(_versions, snapshot, after))

    async def nodes(self, request: Request) -> Response:
        """Nodes whose name has ``query`` in it, sorted by ``sort`` (a leading ``-``: downwards), a page of them."""
        snapshot = await self._now()
        query, sort = request.query_params.get("query", ""), request.query_params.get("sort", "id")
        offset, limit = max(0, _number(request, "offset", 0)), min(NODES_MAX, max(0, _number(request, "limit", 100)))
        make = partial(_nodes, snapshot, query, sort, slice(offset, offset + limit))
        return await self._answer(request, self._mark(snapshot.summary["rows"]), make)

    async def news(self, request: Request) -> Response:
        """Who was lost, came back or started again, in order."""
        snapshot = await self._now()
        return await self._answer(request, self._mark(snapshot.summary["rows"]), partial(_news, snapshot))

    async def model(self, request: Request) -> Response:
        """A model's tensors: ``version`` is newest, best or a number."""
        version = request.query_params.get("version", "newest")
        return await self._made("model", "application/octet-stream", "model-{}.safetensors", version)

    async def plots(self, _request: Request) -> Response:
        """The pictures of `coordinator plot`."""
        return await self._made("plots", "application/zip", "plots.zip")

    async def report(self, _request: Request) -> Response:
        """What explains the run to whoever was not there."""
        return await self._made("report", "text/html; charset=utf-8", "report.html")

    async def _made(self, what: str, media_type: str, name: str, *more: str) -> Response:
        making = self._errands.made(what, self._view.folder, *more)
        # What cannot be made is told before anything of it is sent.
        file, told = await making.__aenter__()
        headers = {
            "content-disposition": f'attachment; filename="{name.format(told)}"',
            "content-length": str(file.stat().st_size),
        }

        async def content() -> AsyncIterator[bytes]:
            try:
                with file.open("rb") as opened:
                    while body := await run_in_threadpool(opened.read, CHUNK_BYTES):
                        yield body
            finally:
                await making.__aexit__(None, None, None)

        return StreamingResponse(content(), media_type=media_type, headers=headers)

    async def events(self, _request: Request) -> Response:
        """Server-sent events: the summary now, and again whenever something has changed."""
        if self._listeners >= LISTENERS_MAX:
            return Response(encoded({"error": "too many listeners: ask again later"}), 503, media_type=JSON)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        self._listeners += 1
        told = -1
        try:
            while not self._ending.is_set():
                try:
                    snapshot = await self._now()
                except FederationError as error:
                    yield b"event: problem\ndata: " + encoded({"error": str(error)}) + b"\n\n"
                else:
                    # A comment keeps the connection where nothing has changed.
                    yield self._event(snapshot) if snapshot.number != told else b": \n\n"
                    told = snapshot.number
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), PAUSE_S)
        finally:
            self._listeners -= 1

    def _event(self, snapshot: Snapshot) -> bytes:
        answer = self._shared.made("event", self._mark(snapshot.number), JSON, partial(_told, snapshot))
        return answer.whole()

    def _mark(self, number: int) -> str:
        return f"{self._life}-{number}"

    async def _now(self) -> Snapshot:
        recent = self._view.recent()
        return await run_in_threadpool(self._view.now) if recent is None else recent

    async def _answer(
        self, request: Request, mark: str, make: Callable[[], Iterable[bytes]], media_type: str = JSON
    ) -> Response:
        """What was made for the first who asked since the last change."""
        asked = f"{request.url.path}?{request.url.query}"
        found = self._shared.known(asked, mark)
        if found is None:
            found = await run_in_threadpool(self._shared.made, asked, mark, media_type, make)
        return found.response(request)


def _static(name: str, media_type: str) -> Answer:
    body = (files("fedmq.page") / "static" / name).read_bytes()
    return make_answer((body,), blake2b(body, digest_size=8).hexdigest(), media_type)


def _summary(snapshot: Snapshot) -> Iterable[bytes]:
    yield encoded({"number": snapshot.number, **snapshot.summary})


def _told(snapshot: Snapshot) -> Iterable[bytes]:
    yield from (b"data: ", *_summary(snapshot), b"\n\n")


def _metrics(snapshot: Snapshot) -> Iterable[bytes]:
    yield exposition(snapshot)


def _versions(snapshot: Snapshot, after: int) -> Iterable[bytes]:
    first = max(0, after + 1)
    last = min(len(snapshot.versions), first + VERSIONS_MAX)
    yield b'{"versions":['
    for place in range(first, last, PIECE_ROWS):
        rows = range(place, min(last, place + PIECE_ROWS))
        yield (b"," if place > first else b"") + b",".join(map(snapshot.versions.line, rows))
    yield b"]}"


def _nodes(snapshot: Snapshot, query: str, sort: str, shown: slice) -> Iterable[bytes]:
    places = _sorted_places(snapshot, query, sort)
    yield b'{"total":%d,"nodes":%b}' % (len(places), _node_rows(snapshot, places[shown]))


def _news(snapshot: Snapshot) -> Iterable[bytes]:
    yield encoded(
        {
            "news": [
                {"at_ms": one.at_ms, "version": one.version, "node": one.node, "what": one.what.value}
                for one in snapshot.news
            ]
        }
    )


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(name, f"{text!r} is no whole number", source="the request") from error


def _sorted_places(snapshot: Snapshot, query: str, sort: str) -> list[int]:
    """Places of the nodes whose name has ``query`` in it, by ``sort`` (a leading ``-``: downwards), then by name.

    Raises:
        ConfigError: There is nothing of this name to sort by.
    """
    key, down = sort.removeprefix("-"), sort.startswith("-")
    if key not in SORTS:
        raise ConfigError("sort", f"nodes have no {key!r} to sort by", source="the request")
    wanted = query.lower()
    names = snapshot.names
    found = [place for place, name in enumerate(names) if wanted in name.lower()] if wanted else list(range(len(names)))
    if key == "id":
        return found[::-1] if down else found
    return sorted(found, key=_value_of(snapshot, key), reverse=down)


def _value_of(snapshot: Snapshot, key: str) -> Callable[[int], Any]:
    names, presence = snapshot.names, snapshot.presence
    match key:
        case "state":
            return lambda place: (seen := presence.get(names[place])) is not None and seen.presence is Presence.ONLINE
        case "seen_ms":
            return lambda place: 0.0 if (seen := presence.get(names[place])) is None else seen.at_s
        case _:
            return snapshot.nodes.column(key).__getitem__


def _node_rows(snapshot: Snapshot, places: Sequence[int]) -> bytes:
    """These nodes as an array of JSON: their part in the run, and whether they are there."""
    known = bool(snapshot.summary["waiting"]["connected"])
    made = []
    for place in places:
        seen = snapshot.presence.get(snapshot.names[place])
        there = seen if known else None
        at_ms = None if seen is None or not seen.at_s else int(1000 * seen.at_s)
        more = {
            "state": None if there is None else there.state(),
            "seen_ms": at_ms,
            "back_ms": None if there is None else there.back_ms(),
            "device": "" if seen is None else seen.device,
            "battery": None if seen is None else seen.battery,
            "release": "" if seen is None else seen.release,
        }
        made.append(snapshot.nodes.line(place)[:-1] + b"," + encoded(more)[1:])
    return b"[%b]" % b",".join(made)
