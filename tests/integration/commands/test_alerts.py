"""Alerts on a topic of a real broker, sent by the command and heard by somebody else."""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.config.alerts import AlertsSection
from coordinator.storage.sqlite_store import SqliteStore
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, MessageReceived, TransportConnected
from fedmq.alerts.follow import FILE
from fedmq.alerts.sinks import NotDelivered, make_sinks
from tests.rigs.model_values import initialised
from tests.rigs.status_values import snapshot, status_file

pytestmark = pytest.mark.broker

TOPIC, END = "plant/alerts", "plant/end"


class Subscriber:
    """Somebody who must miss no alert: QoS 1, in a session that is kept."""

    def __init__(self, url: str) -> None:
        self._inbox: Inbox = queue.Queue()
        self._transport = MqttTransport(parse_broker_url(url), SessionSettings(client_id="hears"), self._inbox)
        for topic in (TOPIC, END):
            self._transport.subscribe(topic)
        self._transport.open()
        self.connects()

    def connects(self) -> None:
        """Wait for the next connection."""
        while not isinstance(self._inbox.get(timeout=20).event, TransportConnected):
            pass

    def hears(self) -> dict[str, object]:
        """The next alert."""
        while not isinstance(event := self._inbox.get(timeout=20).event, MessageReceived):
            pass
        found: dict[str, object] = json.loads(event.payload)
        return found

    def hears_nothing_more(self) -> None:
        """All that was published by now has come, and there was none."""
        self._transport.publish(END, b'{"kind": "end"}')
        assert self.hears()["kind"] == "end"

    def close(self) -> None:
        self._transport.close(timeout_s=5)


@pytest.fixture
def hears(broker: LocalBroker) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker.url)
    yield subscriber
    subscriber.close()


def test_an_alert_is_published_as_json_by_a_client_of_its_own(broker: LocalBroker, hears: Subscriber) -> None:
    limits = AlertsSection(broker=broker.url, topic=TOPIC)
    make_sinks(limits, "plant")["topic"]({"kind": "test", "over": False})
    assert hears.hears() == {"kind": "test", "over": False}


def test_a_broker_that_is_away_is_told() -> None:
    limits = AlertsSection(broker="mqtt://127.0.0.1:1", topic="a")
    with pytest.raises(NotDelivered, match=r"alerts\.broker: "):
        make_sinks(limits, "plant")["topic"]({"kind": "test", "over": False})


@pytest.mark.parametrize("ends", [False, True])
def test_an_alert_that_no_broker_has_acknowledged_is_not_delivered(ends: bool) -> None:
    """It counted as delivered, and nobody ever heard it: the broker hung, or was killed just then."""
    heard = threading.Event()

    def broker(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK: success, no properties
            while data := connection.recv(4096):
                if b'"kind"' in data:
                    heard.set()
                    if ends:
                        return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=broker, args=(listening,), daemon=True)
        thread.start()
        url = f"mqtt://127.0.0.1:{listening.getsockname()[1]}"
        limits = AlertsSection(broker=url, topic="a", timeout_s=0.2)
        with pytest.raises(NotDelivered, match="has not acknowledged it"):
            make_sinks(limits, "plant")["topic"]({"kind": "test", "over": False})
        thread.join(timeout=20)
    assert heard.is_set()


def told(config: Path) -> list[bool]:
    """What one look has to tell: for each alert whether it is over."""
    result = CliRunner().invoke(make_app(["alerts"]), ["alerts", "--config", str(config), "--once", "--json"])
    assert result.exit_code == 0, result.output
    return [row["over"] for row in json.loads(result.stdout.splitlines()[-1])]


def test_a_subscriber_hears_each_trouble_once_and_once_more_when_it_is_over(
    broker: LocalBroker, hears: Subscriber, tmp_path: Path
) -> None:
    """Also where the broker restarts between, and where it is away when the trouble ends."""
    state, config = tmp_path / "state", tmp_path / "coordinator.toml"
    config.write_text(
        f'[federation]\nid = "plant"\n[broker]\nurl = "{broker.url}"\n[task]\nname = "digits"\n'
        f'[store]\nfolder = "{state}"\n'
        f'[alerts]\nbroker = "{broker.url}"\ntopic = "{TOPIC}"\n'
        "stopped_s = 0.001\nnobody_online_s = 0\nno_version_leases = 0\ndisk_free = 0\n"
    )
    with closing(SqliteStore(state)) as store:
        initialised(store)
        status_file(state, lambda: snapshot("assignments")).write()
    assert told(config) == []  # it has to last
    assert told(config) == [False]
    begun = hears.hears()
    assert (begun["federation"], begun["kind"], begun["over"]) == ("plant", "stopped", False)
    broker.restart()
    hears.connects()
    assert told(config) == []
    broker.kill()
    with closing(SqliteStore(state)):  # a coordinator runs again
        assert told(config) == [True]
        assert told(config) == []
        assert json.loads((state / FILE).read_text())["pending"]
        broker.restart()
        hears.connects()
        for _ in range(2):
            assert told(config) == []
    over = hears.hears()
    assert (over["kind"], over["over"], over["since_s"]) == ("stopped", True, begun["since_s"])
    hears.hears_nothing_more()
