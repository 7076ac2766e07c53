"""The process that answers: it is begun anew by ``coordinator serve``, so that it holds only what reading needs."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from uvicorn.protocols.http.h11_impl import H11Protocol

from federation.documents import read_json
from federation.errors import FederationError
from federation.storage.folder import file_mark
from fedmq.page.access import Access
from fedmq.page.errands import certificates_command
from fedmq.page.options import STOPPING, PageOptions
from fedmq.page.server import make_server
from fedmq.run_view import FoundCertificates, RunView

__all__ = ["Certificates", "OwnCertificate", "serve_page"]

NICENESS: Final = 5
"""Whoever looks waits for the coordinator, and not the other way round."""

THREADS: Final = 4
LOOK_S: Final = 10.0
"""How often it is looked whether a certificate was issued, revoked or renewed, in seconds."""

AGAIN_S: Final = 3600.0
"""When the certificates of a federation are looked at again though none was, in seconds."""

REQUEST_S: Final = 10.0
"""A connection on which no request arrives for so long is closed, in seconds: silent ones would keep others out."""


class BoundedProtocol(H11Protocol):
    """HTTP, where a connection ends that says nothing, or a request byte by byte."""

    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the library has it
        """Begin to watch it."""
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        # An answer that goes on, such as a stream of changes, may take as long as it likes.
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self.loop.call_later(REQUEST_S, self._look)


def serve_page(options: PageOptions) -> None:
    """Answer until a signal ends it; the exit code after each of these is 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the library raises it again when it has closed all
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it shall outlive the terminal
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    with suppress(OSError):
        os.nice(NICENESS)
    view = RunView(Path(options.state), _certificates(options))
    # A large run takes a second to read: it is there when the first visitor comes.
    threading.Thread(target=_read_ahead, args=(view,), daemon=True).start()
    ending = asyncio.Event()
    server = make_server(view.folder, Access(token=options.token, local=options.local), view, ending)
    config = uvicorn.Config(
        server,
        log_level="warning",
        ssl_certfile=options.certificate or None,
        ssl_keyfile=options.key or None,
        timeout_graceful_shutdown=1,
        limit_concurrency=1000,
        lifespan="off",
        http=BoundedProtocol,
    )
    config.load()
    renewed = None if config.ssl is None else OwnCertificate(config.ssl, Path(options.certificate), Path(options.key))
    asyncio.run(_serve(_Server(config, ending), socket.socket(fileno=options.socket_fd), renewed))


def _certificates(options: PageOptions) -> Callable[[], FoundCertificates]:
    if not options.fleet:
        return FoundCertificates
    found = Certificates(Path(options.fleet), Path(options.register))
    threading.Thread(target=found.follow, daemon=True).start()
    return found.now


def _read_ahead(view: RunView) -> None:
    with suppress(FederationError):
        view.now()


async def _serve(server: uvicorn.Server, listening: socket.socket, renewed: "OwnCertificate | None") -> None:
    current_default_thread_limiter().total_tokens = THREADS
    following = None if renewed is None else asyncio.create_task(renewed.follow())
    await server.serve(sockets=[listening])
    if following is not None:
        following.cancel()


class _Server(uvicorn.Server):
    """One that says that it ends: a page that is open would hold it up, and be cut off with a traceback."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open."""
        self._ending.set()
        await super().shutdown(sockets)


class OwnCertificate:
    """The page's own certificate, which somebody renews while the page is served: connections get the newest one.

    Args:
        context: What connections are made with; it has the pair as it is on disk now.
        certificate: Certificate chain, PEM.
        key: Its private key, PEM.
    """

    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._context, self._pair = context, (certificate, key)
        self._seen = self._mark()

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Take the pair again where a file has changed. What does not fit yet leaves the one before.

        The two files are not replaced in one moment, so what has failed is looked at again with the next change.
        """
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark
        try:
            # A context that was given half a pair could serve nobody any more.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._pair, password="")
            self._context.load_cert_chain(*self._pair, password="")
        except (OSError, ValueError) as error:
            names = " and ".join(map(str, self._pair))
            sys.stderr.write(f"{names} cannot be used yet, and the page goes on with what it had: {error}\n")

    def _mark(self) -> tuple[object, ...]:
        return tuple(map(file_mark, self._pair))


class Certificates:
    """When each certificate ends: found by a process of its own, where the register has changed, and now and then.

    Args:
        fleet: The folder of ``coordinator init``.
        register: The file in it that says what was issued.
    """

    def __init__(self, fleet: Path, register: Path) -> None:
        self._fleet, self._register = fleet, register
        self._found = FoundCertificates()
        self._seen: tuple[int, int, int] | None = None
        self._next_s = 0.0

    def now(self) -> FoundCertificates:
        """As it was found last."""
        return self._found

    def follow(self) -> None:
        """Look for ever; for a thread."""
        while True:
            self.look(time.monotonic())
            time.sleep(LOOK_S)

    def look(self, now_s: float) -> None:
        """Find it again, where that is due; ``now_s`` is in monotonic seconds."""
        seen = file_mark(self._register)
        if seen == self._seen and now_s < self._next_s:
            return
        self._seen, self._next_s = seen, now_s + AGAIN_S
        try:
            found = subprocess.run(certificates_command(self._fleet), capture_output=True, check=True)
            self._found = FoundCertificates(ends=read_json(found.stdout))
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
            self._found = replace(self._found, unknown=said[-1])
        except (OSError, ValueError) as error:
            self._found = replace(self._found, unknown=str(error))


def main() -> None:
    """Read what `coordinator serve` has written, and serve."""
    with os.fdopen(int(sys.argv[1]), "rb") as told:
        options = PageOptions(**read_json(told.read()))
    with suppress(KeyboardInterrupt):
        serve_page(options)


if __name__ == "__main__":
    main()
