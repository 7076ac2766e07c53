"""The proxy forwards, delays, narrows, stalls and cuts a TCP link."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from federation.testing import TcpProxy

_WAIT_S = 10.0


class _Echo:
    """Sends back what comes."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65_536):
                connection.sendall(data)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            connection.close()
        self._thread.join(_WAIT_S)


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    echo = _Echo()
    with TcpProxy("127.0.0.1", echo.port) as running:
        yield running
    echo.close()


def _connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=_WAIT_S)


def _receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := client.recv(count - len(data))):
        data += piece
    return data


def _ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_bytes_pass_both_ways_and_are_counted(proxy: TcpProxy) -> None:
    payload = bytes(range(256)) * 1_000
    with _connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(payload,), daemon=True).start()
        assert _receive(client, len(payload)) == payload
    assert (proxy.accepted, proxy.up.passed, proxy.down.passed) == (1, len(payload), len(payload))


def test_latency_delays_each_direction(proxy: TcpProxy) -> None:
    proxy.slow_down(latency_s=0.1, bytes_per_s=None)
    with _connect(proxy) as client:
        start = time.monotonic()
        client.sendall(b"x")
        assert _receive(client, 1) == b"x"
        assert time.monotonic() - start >= 0.2


def test_bandwidth_is_what_was_asked_for(proxy: TcpProxy) -> None:
    proxy.up.bytes_per_s = 40_000.0
    with _connect(proxy) as client:
        start = time.monotonic()
        client.sendall(bytes(8_000))
        assert _receive(client, 8_000) == bytes(8_000)
        assert time.monotonic() - start >= 0.19


@pytest.mark.parametrize(("up", "down"), [(True, False), (False, True), (True, True)])
def test_a_partition_stalls_and_the_healing_delivers(proxy: TcpProxy, up: bool, down: bool) -> None:
    with _connect(proxy) as client:
        client.sendall(b"1")
        assert _receive(client, 1) == b"1"
        proxy.partition(up=up, down=down)
        client.sendall(b"2")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(_WAIT_S)
        proxy.heal()
        assert _receive(client, 1) == b"2"


def test_the_link_is_cut_after_the_given_bytes_and_then_works_again(proxy: TcpProxy) -> None:
    proxy.up.cut_after = 1_000
    with _connect(proxy) as client:
        client.sendall(bytes(1_500))
        while not _ended(client):
            pass
    assert (proxy.up.passed, proxy.cuts) == (1_000, 1)
    with _connect(proxy) as client:
        client.sendall(b"again")
        assert _receive(client, 5) == b"again"


def test_close_all_ends_what_is_open_and_nothing_else(proxy: TcpProxy) -> None:
    with _connect(proxy) as first:
        first.sendall(b"1")
        _receive(first, 1)
        proxy.close_all()
        assert _ended(first)
    with _connect(proxy) as second:
        second.sendall(b"2")
        assert _receive(second, 1) == b"2"


def test_refuse_turns_everybody_away_until_heal(proxy: TcpProxy) -> None:
    proxy.refuse()
    with _connect(proxy) as client:
        assert _ended(client)
    proxy.heal()
    with _connect(proxy) as client:
        client.sendall(b"2")
        assert _receive(client, 1) == b"2"


def test_the_end_of_one_side_is_the_end_of_the_other(proxy: TcpProxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"last")
        assert _receive(client, 4) == b"last"
        client.shutdown(socket.SHUT_WR)
        assert _ended(client)


def test_a_target_that_is_away_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with TcpProxy("127.0.0.1", port) as proxy, _connect(proxy) as client:
        assert _ended(client)
