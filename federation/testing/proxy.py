"""A TCP proxy on loopback that makes a link bad: slow, narrow, silent in one direction, or cut."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

_READ_BYTES = 16_384
_PACE_BYTES = 1_024
_QUEUE_ITEMS_MAX = 64
_CALL_S = 5.0


@dataclass(slots=True)
class LinkSettings:
    """One direction of the link; read at each piece, so a change acts at once.

    Attributes:
        latency_s: One-way delay in seconds.
        bytes_per_s: Bandwidth; None is unlimited.
        stalled: Nothing passes; what was sent arrives after the healing, as TCP's retransmissions do.
        cut_after: Bytes that still pass before all connections are cut; None is never.
        passed: Bytes that have passed.
    """

    latency_s: float = 0.0
    bytes_per_s: float | None = None
    stalled: bool = False
    cut_after: int | None = None
    passed: int = 0


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a target. A context manager; every method may be called from any thread.

    Attributes:
        up: Client to target.
        down: Target to client.
        accepted: Connections that came in.
        cuts: Times that `LinkSettings.cut_after` cut the link.
    """

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._healed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._refusing = False
        self.up, self.down = LinkSettings(), LinkSettings()
        self.accepted = 0
        self.cuts = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_CALL_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(_CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def slow_down(self, *, latency_s: float, bytes_per_s: float | None) -> None:
        """The same delay and bandwidth in both directions."""
        for link in (self.up, self.down):
            link.latency_s, link.bytes_per_s = latency_s, bytes_per_s

    def partition(self, *, up: bool = True, down: bool = True) -> None:
        """Stall one or both directions; connections stay open, and nobody is told."""
        self._call(lambda: self._stall(up=up, down=down))

    def heal(self) -> None:
        """Let everything pass again, new connections too."""
        self._refusing = False
        self._call(lambda: self._stall(up=False, down=False))

    def refuse(self) -> None:
        """Cut all connections, and each new one at once, until `heal`."""
        self._refusing = True
        self.close_all()

    def close_all(self) -> None:
        """Reset all connections now."""
        self._call(self._abort_all)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, function: Callable[[], None]) -> None:
        async def act() -> None:
            function()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(_CALL_S)

    async def _listen(self) -> None:
        self._healed.set()
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        self._stall(up=False, down=False)
        self._abort_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stall(self, *, up: bool, down: bool) -> None:
        self.up.stalled, self.down.stalled = up, down
        if up or down:
            self._healed.clear()
        else:
            self._healed.set()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self._writers.add(to_client)
        try:
            if not self._refusing:
                await self._forward(client, to_client)
        except (OSError, asyncio.CancelledError):
            pass  # the target is away, or the proxy closes: both end this connection
        finally:
            to_client.transport.abort()
            self._writers.discard(to_client)
            if task is not None:
                self._tasks.discard(task)

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        target, to_target = await asyncio.open_connection(*self._target)
        self._writers.add(to_target)
        try:
            async with asyncio.TaskGroup() as group:
                for reader, writer, link in ((client, to_target, self.up), (target, to_client, self.down)):
                    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE_ITEMS_MAX)
                    group.create_task(self._read(reader, pieces, link))
                    group.create_task(self._write(writer, pieces, link))
        except* OSError:
            pass  # reset by either side
        finally:
            to_target.transport.abort()
            self._writers.discard(to_target)

    async def _read(
        self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], link: LinkSettings
    ) -> None:
        while True:
            data = b""  # the end, also when the other side resets
            with contextlib.suppress(ConnectionResetError):
                data = await reader.read(_READ_BYTES if link.bytes_per_s is None else _PACE_BYTES)
            await pieces.put((self._loop.time() + link.latency_s, data))
            if not data:
                return

    async def _write(
        self, writer: asyncio.StreamWriter, pieces: asyncio.Queue[tuple[float, bytes]], link: LinkSettings
    ) -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if link.stalled:
                await self._healed.wait()
            if not data:
                raise ConnectionResetError  # one side has ended: end the other direction too
            allowed = self._allowed(data, link)
            if link.bytes_per_s is not None:
                await asyncio.sleep(len(allowed) / link.bytes_per_s)
            link.passed += len(allowed)
            writer.write(allowed)
            await writer.drain()
            if len(allowed) < len(data):
                self.cuts += 1
                link.cut_after = None
                self._abort_all()

    def _allowed(self, data: bytes, link: LinkSettings) -> bytes:
        if link.cut_after is None:
            return data
        allowed = data[: link.cut_after]
        link.cut_after -= len(allowed)
        return allowed
