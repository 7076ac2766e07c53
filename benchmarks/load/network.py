"""All connections of the load on one thread: sockets that never block, one epoll, one heap of what is due."""

import contextlib
import heapq
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.load import packets
from benchmarks.load.node import LoadNode, Shared
from federation.protocol.signing import Signer
from federation.types import NodeId

__all__ = ["Connection", "Network"]

READ_BYTES: Final = 65_536
PING_S: Final = 20.0
PACKET_IDS: Final = 60_000
HOST: Final = "localhost"
BACKLOG: Final = 64
"""Connections under way at once: Mosquitto's backlog is 100, and what is beyond is reset."""

ADDRESSES: Final = 8
"""Loopback addresses to connect from: one alone has some 28,000 ports."""


class Connection:
    """One node's connection, with or without TLS: a `Wire`.

    Attributes:
        node: Whose it is.
        online: The broker has accepted it.
        socket: None before it was opened, and after it has ended.
        shaking: TCP or TLS does not stand yet.
        began: It was begun, and the broker has not answered yet.
        away_s: It ends when all is said, and is begun again after so many seconds; None of one that stays.
    """

    __slots__ = ("_buffer", "_mid", "_network", "_out", "away_s", "began", "node", "online", "shaking", "socket")

    def __init__(self, network: "Network", name: NodeId, shared: Shared, signer: Signer | None, number: int) -> None:
        self._network, self._buffer, self._out, self._mid = network, packets.Buffer(), bytearray(), 0
        self.online = self.shaking = self.began = False
        self.away_s: float | None = None
        self.socket: socket.socket | None = None
        self.node = LoadNode(name, shared, self, signer, number=number)

    def start_over(self) -> None:
        """Whatever was to be said on a connection that never stood is said on the next one."""
        self._buffer, self._out, self.shaking, self.began = packets.Buffer(), bytearray(), False, False
        self.away_s = None

    # --- the wire ---------------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish; into nothing once the connection has ended."""
        self.send(packets.publish(topic, payload, mid=self._next_mid() if qos else 0, retain=retain))

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe."""
        self.send(packets.subscribe(filters, mid=self._next_mid()))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe."""
        self.send(packets.unsubscribe(filters, mid=self._next_mid()))

    def rest(self, seconds: float) -> None:
        """Leave by the pace; one that is away already comes back at another time, or now."""
        if self.socket is None:
            self._network.call(self, seconds)
            return
        self.away_s = seconds
        self.send(packets.GOODBYE)

    def _next_mid(self) -> int:
        self._mid = self._mid % PACKET_IDS + 1
        return self._mid

    # --- the socket -------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send now as much as the socket takes, and the rest when it takes more."""
        if self.socket is None:
            return
        waits = bool(self._out)
        self._out += data
        if not waits and not self.shaking:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self.socket is None:
            return
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._network.lose(self, str(error))
            return
        if self.away_s is not None and not self._out:
            self._network.leave(self)
        else:
            self._network.watch(self, writes=bool(self._out))

    def begin(self, tls: ssl.SSLContext | None) -> None:
        """TCP stands, or a handshake goes on: take the next step, and say at last who it is."""
        if self.socket is None:
            return
        try:
            if tls is not None:
                if not isinstance(self.socket, ssl.SSLSocket):
                    plain = self.socket
                    self.socket = tls.wrap_socket(plain, server_hostname=HOST, do_handshake_on_connect=False)
                self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._network.watch(self, writes=False)
        except ssl.SSLWantWriteError:
            self._network.watch(self, writes=True)
        except OSError as error:
            self._network.lose(self, str(error))
        else:
            self.shaking = False
            self.flush()

    def read(self, now: float) -> None:
        """Read what is there."""
        while self.socket is not None:
            try:
                data = self.socket.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._network.lose(self, str(error))
                return
            if not data:
                self._network.lose(self, "the broker has ended it")
                return
            self._network.shared.counts.down += len(data)
            for header, body in self._buffer.feed(data):
                self._packet(header, body, now)
            if not isinstance(self.socket, ssl.SSLSocket) and len(data) < READ_BYTES:
                return

    def _packet(self, header: int, body: bytes, now: float) -> None:
        kind = header >> 4
        if kind == packets.PUBLISH:
            message = packets.published(header, body)
            self.node.message(message.topic, message.payload, now)
            if message.mid:  # once its effects have run [FED-12]
                self.send(packets.puback(message.mid))
        elif kind == packets.CONNACK and body[1]:
            self._network.lose(self, f"the broker has refused it: {body[1]:#x}")
        elif kind == packets.CONNACK:
            self.online, self.began = True, False
            self._network.stands(self)
            self.node.connected(now)
        elif kind == packets.PUBACK and len(body) > 2 and body[2] >= 0x80:
            self._network.refusals.append(f"{self.node.name}: PUBACK {body[2]:#x}")
        elif kind == packets.DISCONNECT:
            self._network.lose(self, f"the broker has said goodbye: {body[:1].hex() or '0'}")


class Network:
    """All nodes and their connections.

    Attributes:
        shared: What the nodes have in common.
        connections: One for each node.
        refusals: Publishes that the broker has refused, and connections that have ended, for people.
        online: Nodes whose connection stands.
        came: How often one has come to stand.
    """

    def __init__(
        self,
        shared: Shared,
        port: int,
        names: Sequence[NodeId],
        *,
        signer: Callable[[NodeId], Signer | None],
        tls: Callable[[NodeId], ssl.SSLContext] | None = None,
    ) -> None:
        self.shared, self._port, self._tls = shared, port, tls
        self.connections = [Connection(self, name, shared, signer(name), number) for number, name in enumerate(names)]
        self.refusals: list[str] = []
        self._poll = select.epoll()
        self._by_file: dict[int, Connection] = {}
        self._due: list[tuple[float, int, Connection]] = []
        self._numbers = 0
        self._opened = self._shaking = 0
        self._again: list[Connection] = []
        self._back: list[tuple[float, int, Connection]] = []
        self.online = self.came = 0
        self._ping_at = time.monotonic() + PING_S

    def open_until(self, count: int) -> None:
        """Begin connections until so many have begun, but no more at once than a broker's backlog takes.

        One that was refused before it stood is begun again: a machine under load answers late.
        """
        while self._again and self._shaking < BACKLOG:
            self._open(self._again.pop())
        while self._opened < count and self._shaking < BACKLOG:
            self._open(self.connections[self._opened])
            self._opened += 1

    def turn(self, wait_s: float) -> None:
        """Do what is due, and what has arrived within a time."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, connection = heapq.heappop(self._due)
            connection.node.armed = float("inf")
            connection.node.wake(now)
            self._arm(connection)
        while self._back and self._back[0][0] <= now:
            self._again.append(heapq.heappop(self._back)[2])
        self.open_until(0)
        if now >= self._ping_at:
            self._ping_at = now + PING_S
            for connection in self.connections:
                if connection.online:
                    connection.send(packets.PINGREQ)
        until = min([now + wait_s, *(heap[0][0] for heap in (self._due, self._back) if heap)])
        for file, events in self._poll.poll(max(0.0, until - now), 1024):
            found = self._by_file.get(file)
            if found is not None:
                self._serve(found, events)

    def close(self) -> None:
        """End all connections without a word."""
        for connection in self.connections:
            if connection.socket is not None:
                connection.socket.close()
                connection.socket = None
        self._poll.close()

    def lose(self, connection: Connection, reason: str) -> None:
        """A connection has ended by itself."""
        if connection.socket is None:
            return
        began, stood = connection.began, connection.online
        self._end(connection, connection.socket)
        if began:
            connection.start_over()
            self._shaking -= 1
            self._again.append(connection)
        elif stood:
            self.refusals.append(f"{connection.node.name}: {reason}")
            connection.node.disconnected(time.monotonic())

    def leave(self, connection: Connection) -> None:
        """A node has said that it leaves by the pace, and for how long."""
        away_s = connection.away_s
        if connection.socket is not None and away_s is not None:
            self._end(connection, connection.socket)
            connection.start_over()
            self._call(connection, away_s)

    def call(self, connection: Connection, away_s: float) -> None:
        """A node that is away connects again after so many seconds, at whatever time it was to do so before."""
        self._back = [one for one in self._back if one[2] is not connection]
        heapq.heapify(self._back)
        self._call(connection, away_s)

    def _call(self, connection: Connection, away_s: float) -> None:
        self._numbers += 1
        heapq.heappush(self._back, (time.monotonic() + away_s, self._numbers, connection))

    def _end(self, connection: Connection, ended: socket.socket) -> None:
        self.online -= connection.online
        with contextlib.suppress(OSError, KeyError):
            self._poll.unregister(ended.fileno())
        self._by_file.pop(ended.fileno(), None)
        ended.close()
        connection.socket, connection.online = None, False

    def stands(self, connection: Connection) -> None:
        """A connection was accepted."""
        self._shaking -= 1
        self.came += 1
        self.online += connection.online

    def watch(self, connection: Connection, *, writes: bool) -> None:
        """Hear of a connection that can be read, and perhaps of one that can be written."""
        if connection.socket is not None:
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if writes else 0))

    def _open(self, connection: Connection) -> None:
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.bind((f"127.0.0.{1 + self._opened % ADDRESSES}", 0))
        with contextlib.suppress(BlockingIOError):
            plain.connect(("127.0.0.1", self._port))
        connection.socket = plain
        self._by_file[plain.fileno()] = connection
        self._poll.register(plain.fileno(), select.EPOLLOUT)
        connection.shaking = connection.began = True  # nothing is sent before TCP and TLS stand
        self._shaking += 1
        connection.send(packets.connect(connection.node.name, connection.node.will()))

    def _serve(self, connection: Connection, events: int) -> None:
        if connection.shaking:
            connection.begin(None if self._tls is None else self._tls(connection.node.name))
            return
        if events & select.EPOLLIN:
            connection.read(time.monotonic())
        if events & select.EPOLLOUT:
            connection.flush()
        if events & (select.EPOLLHUP | select.EPOLLERR) and not events & select.EPOLLIN:
            self.lose(connection, "the connection broke")
        self._arm(connection)

    def _arm(self, connection: Connection) -> None:
        node = connection.node
        due = node.next_due()
        if due is not None and due < node.armed:
            node.armed = due
            self._numbers += 1
            heapq.heappush(self._due, (due, self._numbers, connection))
