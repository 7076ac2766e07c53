"""A run is followed: what is told where, what is tried again, and what a restart remembers."""

import contextlib
import datetime as dt
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import make_app
from coordinator.config.alerts import AlertsSection
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import ConfigError, StorageError
from fedmq.alerts.follow import AGAIN_S, FILE, SAVED_S, Follower
from fedmq.alerts.sinks import NotDelivered, Sink, make_sinks
from fedmq.run_view import RunView, Snapshot
from tests.rigs.model_values import initialised
from tests.rigs.status_values import snapshot, status_file

SOON = AlertsSection(stopped_s=0.001, nobody_online_s=0, no_version_leases=0, disk_free=0)


class Hook(BaseHTTPRequestHandler):
    """Takes what is posted, and answers as it is told."""

    got: list[Any] = []  # noqa: RUF012 - the library makes one object for each request
    answer = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).got.append(json.loads(body))
        self.send_response(type(self).answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.got, Hook.answer = [], 200
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run whose coordinator has ended before the run was over."""
    made = tmp_path / "state"
    store = SqliteStore(made)
    initialised(store)
    store.close()
    status_file(made, lambda: snapshot("assignments")).write()
    return made


def follower(folder: Path, sinks: Mapping[str, Sink], limits: AlertsSection = SOON) -> Follower:
    look = RunView(folder).now
    return Follower(folder=folder, federation="plant", limits=limits, lease_s=60.0, sinks=sinks, look=look)


def passed(started_s: float = 0.0) -> None:
    """At least the few milliseconds that an alert must last have passed."""
    until = max(started_s, time.time()) + 0.002
    while time.time() < until:
        os.sched_yield()


def test_a_stopped_coordinator_is_told_once_over_restarts_and_once_when_it_is_back(folder: Path) -> None:
    got: list[Mapping[str, object]] = []
    follower(folder, {"list": got.append}).once()
    passed()
    for _ in range(3):
        follower(folder, {"list": got.append}).once()
    assert [(one["kind"], one["over"], one["federation"]) for one in got] == [("stopped", False, "plant")]
    assert "start it again" in str(got[0]["text"])
    assert (folder / FILE).stat().st_mode & 0o077 == 0
    status_file(folder, lambda: snapshot("finished")).write()
    follower(folder, {"list": got.append}).once()
    assert [one["over"] for one in got] == [False, True]


def test_what_could_not_be_delivered_is_tried_again_and_the_other_ways_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[object] = []
    tries: list[object] = []

    def broken(alert: Mapping[str, object]) -> None:
        tries.append(alert)
        if len(tries) < 3:
            raise NotDelivered("it is away")

    sinks: Mapping[str, Sink] = {"list": got.append, "broken": broken}
    follower(folder, sinks).once()
    passed()
    made = follower(folder, sinks)
    assert len(made.once()) == 1
    assert (len(got), len(tries)) == (1, 1)
    made.once()
    assert len(tries) == 1, "not before a while has passed"
    clock = time.time() + AGAIN_S + 1
    monkeypatch.setattr("time.time", lambda: clock)
    monkeypatch.setattr("federation.runtime.clock.passed_s", lambda: clock)
    again = follower(folder, sinks)  # it remembers
    again.once()
    assert (len(got), len(tries)) == (1, 2)
    clock += AGAIN_S + 1
    again.once()
    assert (len(got), len(tries)) == (1, 3)
    clock += AGAIN_S + 1
    again.once()
    assert (len(got), len(tries)) == (1, 3)


def test_a_way_that_is_away_is_tried_once_in_a_round_however_much_waits(folder: Path) -> None:
    tries: list[object] = []

    def away(alert: Mapping[str, object]) -> None:
        tries.append(alert)
        raise NotDelivered("it is away")

    made = follower(folder, {"away": away})
    made._pending.extend(("away", {"number": number}) for number in range(5))
    made.once()
    assert (len(tries), [row["number"] for _, row in made._pending]) == (1, [0, 1, 2, 3, 4])


def test_what_is_only_watched_is_not_written_down_at_every_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = follower(folder, {}, AlertsSection(stopped_s=1e6, disk_free=0))
    clock = time.time()
    monkeypatch.setattr("time.time", lambda: clock)
    monkeypatch.setattr("federation.runtime.clock.passed_s", lambda: clock)
    made.once()
    first = (folder / FILE).stat().st_mtime_ns
    for _ in range(3):
        clock += 5.0
        made.once()
    assert (folder / FILE).stat().st_mtime_ns == first
    clock += SAVED_S
    made.once()
    assert (folder / FILE).stat().st_mtime_ns != first


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"watched": [3], "pending": []}', b"\xff"])
def test_a_damaged_memory_is_begun_anew(folder: Path, damage: bytes) -> None:
    (folder / FILE).write_bytes(damage)
    got: list[object] = []
    follower(folder, {"list": got.append}).once()
    passed()
    follower(folder, {"list": got.append}).once()
    assert len(got) == 1


def test_a_folder_that_cannot_be_read_is_looked_at_again(folder: Path) -> None:
    looked: list[int] = []
    stopped = threading.Event()

    def look() -> Any:
        looked.append(1)
        if len(looked) == 2:
            stopped.set()
        raise StorageError("it is away")

    made = Follower(folder=folder, federation="plant", limits=SOON, lease_s=1.0, sinks={}, look=look)
    stopped.wait = lambda timeout=None: False  # type: ignore[method-assign]
    made.run(stopped)
    assert len(looked) == 2


def test_the_webhook_gets_json_and_its_refusal_is_told(hook: str) -> None:
    post = make_sinks(AlertsSection(webhook=hook), "plant")["webhook"]
    post({"kind": "test", "over": False})
    assert Hook.got == [{"kind": "test", "over": False}]
    Hook.answer = 403
    with pytest.raises(NotDelivered, match="answered 403 Forbidden"):
        post({"kind": "test"})


@pytest.mark.parametrize("code", [301, 302, 303, 307])
def test_an_alert_that_is_sent_elsewhere_is_not_delivered(hook: str, code: int) -> None:
    """The library asked there with GET, without the alert, and whatever page it got was taken for a delivery."""
    Hook.answer = code
    with pytest.raises(NotDelivered, match=f"answered {code} .*an alert is not sent on"):
        make_sinks(AlertsSection(webhook=hook), "plant")["webhook"]({"kind": "test"})


def test_a_password_in_the_url_of_a_webhook_is_told_without_it() -> None:
    post = make_sinks(AlertsSection(webhook="http://me:SECRET@127.0.0.1/", timeout_s=2), "plant")["webhook"]
    with pytest.raises(NotDelivered, match="a user and a password before @ are not sent") as error:
        post({})
    assert "SECRET" not in str(error.value)


def test_a_webhook_that_is_away_is_told_without_its_secret() -> None:
    post = make_sinks(AlertsSection(webhook="http://127.0.0.1:1/services/SECRET", timeout_s=2), "plant")["webhook"]
    with pytest.raises(NotDelivered, match="cannot be reached") as error:
        post({})
    assert "SECRET" not in str(error.value)


def test_the_command_reads_the_alert_and_its_failure_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"
    make_sinks(AlertsSection(command=(sys.executable, "-c", program)), "plant")["command"]({"kind": "test"})
    assert json.loads(out.read_text()) == {"kind": "test"}
    fails = "import sys; sys.exit('no mail today')"
    with pytest.raises(NotDelivered, match="ended with 1: no mail today"):
        make_sinks(AlertsSection(command=(sys.executable, "-c", fails)), "plant")["command"]({})
    slow = AlertsSection(command=(sys.executable, "-c", "import signal; signal.pause()"), timeout_s=0.2)
    with pytest.raises(NotDelivered, match=r"took longer than 0.2 s and was killed$"):
        make_sinks(slow, "plant")["command"]({})
    with pytest.raises(NotDelivered, match="the command failed"):
        make_sinks(AlertsSection(command=("/there/is/none",)), "plant")["command"]({})


def test_what_cannot_be_used_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"alerts\.broker"):
        make_sinks(AlertsSection(broker="http://x", topic="a/b"), "plant")
    for wrong in ({"broker": "mqtt://x"}, {"topic": "a"}, {"webhook": "file:///etc/passwd"}, {"topic": "a/#"}):
        with pytest.raises(ValueError, match=r"broker and topic|pattern"):
            AlertsSection(**wrong)


def test_the_command_line_tests_all_ways_and_looks_once(
    folder: Path, hook: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "c.toml"
    settings.write_text(
        f'[federation]\nid = "plant"\n[broker]\nurl = "mqtt://127.0.0.1"\n[task]\nname = "digits"\n'
        f'[store]\nfolder = "{folder}"\n[alerts]\nwebhook = "{hook}"\nstopped_s = 0.001\n'
    )
    make_app(["alerts"])(["alerts", "--config", str(settings), "--test"], standalone_mode=False)
    assert "webhook: delivered" in capsys.readouterr().out
    assert [(one["kind"], one["federation"]) for one in Hook.got] == [("test", "plant")]
    make_app(["alerts"])(["alerts", "--config", str(settings), "--once", "--json"], standalone_mode=False)
    passed()
    capsys.readouterr()
    make_app(["alerts"])(["alerts", "--config", str(settings), "--once", "--json"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert [one["kind"] for one in json.loads(lines[-1])] == ["stopped"]
    assert Hook.got[-1]["kind"] == "stopped"


@contextlib.contextmanager
def answering(*pieces: bytes) -> Iterator[str]:
    """The URL of a server that says these pieces to whoever connects, and then nothing more until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as connections:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one = connections.enter_context(listening.accept()[0])
                    for piece in pieces:
                        one.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 x\r\n\r\n", b"x" * 70_000])
def test_a_webhook_that_does_not_speak_http_ends_nothing(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(NotDelivered, match="does not answer as HTTP has it"):
        make_sinks(AlertsSection(webhook=url, timeout_s=20), "plant")["webhook"]({})


def test_a_webhook_that_never_comes_to_an_end_holds_the_other_alerts_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n") as url:
        post = make_sinks(AlertsSection(webhook=url, timeout_s=20), "plant")["webhook"]
        monkeypatch.setattr(threading.Thread, "join", lambda _self, _timeout=None: None)
        with pytest.raises(NotDelivered, match=r"has not answered within 20 s$"):
            post({})
        with pytest.raises(NotDelivered, match="the time before"):
            post({})
        monkeypatch.undo()


def test_what_a_command_leaves_running_or_prints_without_an_end_is_no_failure(tmp_path: Path) -> None:
    """A mail program that goes on in the background has the same standard output."""
    left = tmp_path / "left"
    program = (
        "import subprocess; print('x' * 10_000_000)\n"
        f"open({str(left)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    )
    make_sinks(AlertsSection(command=(sys.executable, "-c", program), timeout_s=60), "plant")["command"]({})
    os.kill(int(left.read_text()), signal.SIGKILL)


def test_people_are_told_of_a_disk_that_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedmq.alerts.follow.write_file", full)
    got: list[Mapping[str, object]] = []
    one = follower(folder, {"list": got.append})
    one.once()
    passed()
    one.once()
    assert [told["kind"] for told in got] == ["stopped"]


def test_a_way_that_is_set_up_wrongly_costs_itself(folder: Path) -> None:
    def wrong(_: Mapping[str, object]) -> None:
        raise ConfigError("broker.tls", "cannot load the certificates")

    got: list[Mapping[str, object]] = []
    one = follower(folder, {"wrong": wrong, "list": got.append})
    one.once()
    passed()
    one.once()
    assert [told["kind"] for told in got] == ["stopped"]


def test_a_register_that_cannot_be_read_ends_no_alerts_and_is_one(folder: Path) -> None:
    """It ended all of them: the process of `coordinator alerts`, and in the page's the thread, without a word."""
    got: list[Mapping[str, object]] = []
    ends = {"edge-01": dt.datetime.now(dt.UTC) + dt.timedelta(days=3)}
    broken = False

    def certificates() -> Mapping[str, str]:
        if broken:
            raise ConfigError("register.json", "is damaged")
        return {name: at.isoformat() for name, at in ends.items()}

    off = {"stopped_s": 0, "disk_free": 0}
    one = replace(follower(folder, {"list": got.append}, AlertsSection(**off)), certificates=certificates)
    for step in ("soon", "soon", "broken", "broken", "whole", "renewed", "renewed"):
        broken = step == "broken"
        if step == "renewed":
            ends["edge-01"] = dt.datetime.now(dt.UTC) + dt.timedelta(days=300)
        one.once()
    assert [(told["subject"], told["over"], str(told["text"])[:52]) for told in got] == [
        ("edge-01", False, "the certificate of edge-01 ends in 2 days: coordinat"),
        ("", False, "nobody can tell when certificates end: register.json"),
        ("", True, "over: nobody can tell when certificates end: registe"),
        ("edge-01", True, "over: the certificate of edge-01 ends in 2 days: coo"),
    ], "once, and once more when it was renewed"


def test_the_disk_is_told_of_where_it_keeps_the_run_from_being_read(folder: Path) -> None:
    """Nothing was told while the store could not be read, of which a full disk is a reason."""
    got: list[Mapping[str, object]] = []
    one = follower(folder, {"list": got.append}, AlertsSection(stopped_s=0, disk_free=0.999999))
    one.once()
    readable = one.look

    def unreadable() -> Snapshot:
        raise StorageError("disk I/O error")

    one.look, one.limits = unreadable, AlertsSection(stopped_s=0.001, disk_free=0.999999)
    with pytest.raises(StorageError, match="I/O"):
        one.once()
    one.look = readable
    one.once()
    passed()
    one.once()
    one.look = unreadable
    with pytest.raises(StorageError, match="I/O"):
        one.once()
    assert [(told["kind"], told["over"]) for told in got] == [("disk", False), ("stopped", False)]
