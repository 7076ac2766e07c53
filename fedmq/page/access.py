"""Who may look, what every answer forbids a browser, and how much of the machine all of them may take."""

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedmq.run_view import encoded

__all__ = ["BURST_S", "COOKIE", "JSON", "SHARE_MAX", "Access", "Guard", "Pacing"]

JSON = "application/json"
COOKIE = "fedmq_page"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
CACHED = (b"cache-control", b"private, no-cache")
"""A browser may keep an answer, and asks each time whether it is still the same."""

NEVER_CACHED = (b"cache-control", b"no-store")

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""What this machine is called by itself."""

OPEN = frozenset({"/healthz"})
"""Asked without a token."""


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
        return not self.token or self.knows(brought)

    def knows(self, token: str) -> bool:
        """Whether this is the token; False where there is none."""
        return bool(self.token) and hmac.compare_digest(token.encode(), self.token.encode())


class Guard:
    """Asks for the token, and puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # The page itself says nothing of the run, and takes the token of a link.
        known = self._access.admits(request) or request.url.path in OPEN
        known = known or (request.url.path == "/" and "token" in request.query_params)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *HEADERS]
                marked = any(name == b"etag" for name, _ in headers)
                message["headers"] = [*headers, CACHED if marked else NEVER_CACHED]
            await send(message)

        if known:
            await self._app(scope, receive, send_with_headers)
            return
        problem = "this page needs a token: open it with ?token=TOKEN, or send Authorization: Bearer TOKEN"
        refused = Response(encoded({"error": problem}), 401, media_type=JSON, headers={"www-authenticate": "Bearer"})
        await refused(scope, receive, send_with_headers)


SHARE_MAX: Final = 0.25
"""Of one processor, in the long run."""

BURST_S: Final = 4.0
"""Processor time that may be taken at once: a first visit of a large run, and some more."""

WAIT_S_MAX: Final = 1.0
"""After so long a request looks again whether it is its turn."""

AT_ONCE: Final = frozenset({"/healthz"})


class Pacing:
    """Lets requests wait while this process has taken more than its share.

    Args:
        app: Who answers.
        clock: Monotonic seconds.
        spent: Processor time of this process, in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.process_time,
    ) -> None:
        self._app, self._clock, self._spent = app, clock, spent
        self._left_s, self._at_s, self._spent_s = BURST_S, clock(), spent()

    def wait_s(self) -> float:
        """How long to wait before the next answer, in seconds; 0 is not at all."""
        now_s, spent_s = self._clock(), self._spent()
        earned_s = SHARE_MAX * (now_s - self._at_s)
        self._left_s = min(BURST_S, self._left_s + earned_s - (spent_s - self._spent_s))
        self._at_s, self._spent_s = now_s, spent_s
        return max(0.0, -self._left_s / SHARE_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer when it is time."""
        if scope["type"] == "http" and scope["path"] not in AT_ONCE:
            while (wait_s := self.wait_s()) > 0:  # noqa: ASYNC110 - what is waited for is time
                await asyncio.sleep(min(WAIT_S_MAX, wait_s))
        await self._app(scope, receive, send)
