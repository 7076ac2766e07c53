"""The service manager hears that a role is ready, alive and stopping, and never holds it up."""

import queue
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.errors import StorageError
from federation.runtime.obstacles import read_obstacles
from federation.runtime.supervision import Notifier, Supervision, hold_back, watchdog_interval_s
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
)
from federation.storage.folder import FolderLock

WAIT_S = 20.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(WAIT_S)
        yield listening


def environ(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.getsockname())} | more


def connected(connection: str) -> TransportConnected:
    return TransportConnected(connection=connection, session_present=False, packet_bytes_max=1)


def test_a_role_is_ready_once_it_is_connected_and_says_that_it_stops(manager: socket.socket) -> None:
    inbox: Inbox = queue.Queue()
    with Supervision(inbox, lambda: True, environ(manager)) as supervision:
        translate = supervision.watching(lambda event: event)
        assert translate("other") == "other"
        assert translate(connected("data")) == connected("data")
        assert translate(connected("control")) == connected("control")
        translate(TransportDisconnected(connection="control", reason="lost\nWATCHDOG=1"))
    heard = [manager.recv(1_000).decode() for _ in range(4)]
    assert heard == [
        "STATUS=waiting for the broker",
        "READY=1\nSTATUS=connected to the broker",
        "STATUS=waiting for the broker: lost WATCHDOG=1",
        "STOPPING=1",
    ]


def test_why_a_connection_is_blocked_is_in_the_state_folder_until_it_works(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with Supervision(queue.Queue(), lambda: True, {}, folder=tmp_path) as supervision:
        translate = supervision.watching(lambda event: event)
        for name in ("control", "data"):
            assert translate(TransportBlocked(connection=name, reason="refused", remedy="see")) is None
        assert read_obstacles(tmp_path) == {"control": "refused; see", "data": "refused; see"}
        translate(connected("data"))
        assert read_obstacles(tmp_path) == {"control": "refused; see"}
        supervision.see(connected("control"))
        assert read_obstacles(tmp_path) == {}
    lock.release()


def test_the_watchdog_is_fed_by_the_loop_that_takes_the_beat(manager: socket.socket) -> None:
    inbox: Inbox = queue.Queue()
    with Supervision(inbox, lambda: True, environ(manager, WATCHDOG_USEC="3000")) as supervision:
        manager.recv(1_000)
        translate = supervision.watching(lambda event: event)
        item = inbox.get(timeout=WAIT_S)
        assert translate(item.event) is None
        item.acknowledge()
        assert manager.recv(1_000) == b"WATCHDOG=1"


def test_a_dead_network_thread_starves_the_watchdog(manager: socket.socket) -> None:
    inbox: Inbox = queue.Queue()
    asked: queue.Queue[None] = queue.Queue()

    def dead() -> bool:
        asked.put(None)
        return False

    with Supervision(inbox, dead, environ(manager, WATCHDOG_USEC="3000")):
        for _ in range(3):
            asked.get(timeout=WAIT_S)
    assert inbox.empty()


def test_a_full_inbox_starves_the_watchdog_and_does_not_end_its_thread(manager: socket.socket) -> None:
    inbox: Inbox = queue.Queue(1)
    inbox.put(InboxItem(event="first"))
    asked: queue.Queue[None] = queue.Queue()

    def living() -> bool:
        asked.put(None)
        return True

    with Supervision(inbox, living, environ(manager, WATCHDOG_USEC="3000")):
        for _ in range(3):
            asked.get(timeout=WAIT_S)
        assert inbox.get_nowait().event == "first"
        assert inbox.get(timeout=WAIT_S).event != "first"


def test_the_health_file_is_touched_while_connected_only(tmp_path: Path) -> None:
    inbox: Inbox = queue.Queue()
    health = tmp_path / "healthy"
    variables = {"FEDMQ_HEALTH_FILE": str(health), "WATCHDOG_USEC": "3000"}
    with Supervision(inbox, lambda: True, variables) as supervision:
        translate = supervision.watching(lambda event: event)
        inbox.get(timeout=WAIT_S).acknowledge()
        assert not health.exists()
        translate(connected("control"))
        assert health.exists()
        health.unlink()
        inbox.get(timeout=WAIT_S).acknowledge()
        assert health.exists()
        health.unlink()
        translate(TransportDisconnected(connection="control", reason="lost"))
        inbox.get(timeout=WAIT_S).acknowledge()
        assert not health.exists()


def test_a_health_file_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    with Supervision(queue.Queue(), lambda: True, {"FEDMQ_HEALTH_FILE": str(tmp_path / "no" / "h")}) as supervision:
        supervision.watching(lambda event: event)(connected("control"))
    assert not (tmp_path / "no").exists()


def test_without_a_manager_nothing_happens() -> None:
    inbox: Inbox = queue.Queue()
    with Supervision(inbox, lambda: True, {}) as supervision:
        assert supervision.watching(lambda event: event)("e") == "e"
    assert inbox.empty()


def test_a_manager_that_is_gone_or_a_full_socket_costs_nothing(manager: socket.socket, tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).say("READY=1")
    for _ in range(2_000):
        Notifier(environ(manager)).say("READY=1")
    assert manager.recv(100) == b"READY=1"


def test_an_abstract_name_is_understood(tmp_path: Path) -> None:
    name = f"fedmq-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(WAIT_S)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).say("READY=1")
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
    ],
)
def test_the_watchdogs_interval_is_read_when_it_is_meant_for_us(
    variables: dict[str, str], expected: float | None
) -> None:
    assert watchdog_interval_s(variables, pid=7) == expected


def test_what_is_in_the_way_of_a_connection_is_said_and_goes_no_further(manager: socket.socket) -> None:
    inbox: Inbox = queue.Queue()
    with Supervision(inbox, lambda: True, environ(manager)) as supervision:
        blocked = TransportBlocked(connection="node", reason="Not authorized", remedy="check the password")
        assert supervision.watching(lambda event: event)(blocked) is None
    heard = [manager.recv(1_000).decode() for _ in range(2)]
    assert heard[1] == "STATUS=waiting for the broker: Not authorized; check the password"


def test_an_end_with_an_error_is_not_announced_because_it_is_held_back(manager: socket.socket) -> None:
    with (
        pytest.raises(StorageError),
        Supervision(queue.Queue(), lambda: True, environ(manager)),
    ):
        raise StorageError("disk full")
    manager.settimeout(0.1)
    assert manager.recv(1_000) == b"STATUS=waiting for the broker"
    with pytest.raises(TimeoutError):
        manager.recv(1_000)


def test_a_service_waits_for_a_minute_or_two_before_it_ends_and_feeds_the_watchdog(manager: socket.socket) -> None:
    waited: list[float] = []
    said: list[str] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        said.extend(manager.recv(1_000).decode() for _ in range(1 + (len(waited) == 1)))

    hold_back("the disk is full", environ(manager, WATCHDOG_USEC="30000000"), wait)
    assert 60.0 <= sum(waited) <= 120.0
    assert max(waited) <= 10.0
    assert re.fullmatch(r"STATUS=tries again in \d+ s: the disk is full", said[0])
    assert set(said[1:]) == {"WATCHDOG=1"}


def test_who_has_no_manager_waits_for_nothing() -> None:
    waited: list[float] = []
    hold_back("the disk is full", {}, waited.append)
    assert waited == []
