"""The process that answers: it is begun anew by ``coordinator serve``, so that it holds only what reading needs."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from uvicorn.protocols.http.h11_impl import H11Protocol

from federation.documents import read_json
from federation.errors import FederationError
from fedmq.page.access import Access
from fedmq.page.errands import certificates_command
from fedmq.page.options import STOPPING, PageOptions
from fedmq.page.server import make_server
from fedmq.run_view import RunView

__all__ = ["serve_page"]

NICENESS: Final = 5
"""Whoever looks waits for the coordinator, and not the other way round."""

THREADS: Final = 4
AGAIN_S: Final = 3600.0
"""When the certificates of a federation are looked at again."""

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
    view = RunView(Path(options.state), _Certificates(options.fleet).now)
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
    asyncio.run(_serve(_Server(config, ending), socket.socket(fileno=options.socket_fd)))


def _read_ahead(view: RunView) -> None:
    with suppress(FederationError):
        view.now()


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    current_default_thread_limiter().total_tokens = THREADS
    await server.serve(sockets=[listening])


class _Server(uvicorn.Server):
    """One that says that it ends: a page that is open would hold it up, and be cut off with a traceback."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open."""
        self._ending.set()
        await super().shutdown(sockets)


class _Certificates:
    """When each certificate ends: looked at now and then by a process of its own."""

    def __init__(self, fleet: str) -> None:
        self._ends: Mapping[str, str] = {}
        if fleet:
            threading.Thread(target=self._follow, args=(Path(fleet),), daemon=True).start()

    def now(self) -> Mapping[str, str]:
        """As it was found last."""
        return self._ends

    def _follow(self, fleet: Path) -> None:
        while True:
            found = subprocess.run(certificates_command(fleet), capture_output=True, check=False)
            with suppress(ValueError):
                self._ends = read_json(found.stdout)
            time.sleep(AGAIN_S)


def main() -> None:
    """Read what `coordinator serve` has written, and serve."""
    with os.fdopen(int(sys.argv[1]), "rb") as told:
        options = PageOptions(**read_json(told.read()))
    with suppress(KeyboardInterrupt):
        serve_page(options)


if __name__ == "__main__":
    main()
