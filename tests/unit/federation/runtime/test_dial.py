"""The first address that answers is taken, and a silent one holds nobody up."""

import socket
import time
from collections.abc import Iterator

import pytest

from federation.runtime.dial import STAGGER_S, dial

WAIT_S = 20.0
Found = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def silent(listener: socket.socket) -> Iterator[str]:
    """An address whose port takes no more connections: its queue is full, and nobody accepts."""
    host, port = "127.0.0.2", listener.getsockname()[1]
    with socket.create_server((host, port), backlog=0) as full:
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex((host, port))
        assert full.fileno() >= 0
        yield host
        for one in waiting:
            one.close()


def resolve(monkeypatch: pytest.MonkeyPatch, *hosts: str, port: int) -> None:
    found: Found = [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_silent_first_address_costs_its_head_start_only(
    listener: socket.socket, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    resolve(monkeypatch, silent, "127.0.0.1", port=port)
    began = time.monotonic()
    with dial("broker", port, timeout_s=WAIT_S) as made:
        assert made.getpeername()[0] == "127.0.0.1"
        assert made.gettimeout() == WAIT_S
    assert STAGGER_S <= time.monotonic() - began < WAIT_S / 2


def test_addresses_that_say_nothing_end_in_bounded_time(
    listener: socket.socket, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    resolve(monkeypatch, silent, port=port)
    with pytest.raises(TimeoutError, match="timed out"):
        dial("broker", port, timeout_s=0.3)


def test_a_refusal_is_not_waited_for_and_told_when_nobody_answers(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    resolve(monkeypatch, "127.0.0.3", "127.0.0.1", port=port)
    dial("broker", port, timeout_s=WAIT_S).close()
    resolve(monkeypatch, "127.0.0.3", "127.0.0.4", port=port)
    with pytest.raises(ConnectionRefusedError, match="Connection refused"):
        dial("broker", port, timeout_s=WAIT_S)


def test_an_address_that_has_said_nothing_comes_last(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    port = listener.getsockname()[1]
    with socket.create_server(("127.0.0.2", port)):
        resolve(monkeypatch, "127.0.0.2", "127.0.0.1", port=port)
        for last, taken in ((set[str](), "127.0.0.2"), ({"127.0.0.2"}, "127.0.0.1")):
            with dial("broker", port, timeout_s=WAIT_S, last=last) as made:
                assert made.getpeername()[0] == taken


def test_a_family_that_is_not_here_is_passed_over(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    port = listener.getsockname()[1]

    class WithoutIpv6(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, kind)

    resolve(monkeypatch, "::1", "127.0.0.1", port=port)
    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    with dial("broker", port, timeout_s=WAIT_S) as made:
        assert made.getpeername()[0] == "127.0.0.1"


def test_a_name_that_nobody_knows_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="Name or service not known"):
        dial("nowhere.example", 1883, timeout_s=WAIT_S)
