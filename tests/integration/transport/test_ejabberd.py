"""What the federation needs of a broker, asked of one that has nothing in common with Mosquitto."""

import json
import queue
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from federation.runtime.address import parse_broker_url
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import (
    Inbox,
    MessageReceived,
    TransportConnected,
    TransportFailed,
    Will,
)
from federation.runtime.visit import clear_retained, visit_broker
from federation.testing import TcpProxy
from tests.rigs.ejabberd import Ejabberd, needs_ejabberd

pytestmark = [
    pytest.mark.second_broker,
    needs_ejabberd,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("ejabberd"),
]

WAIT_S = 30.0
EventT = TypeVar("EventT")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ejabberd]:
    with Ejabberd(tmp_path_factory.mktemp("ejabberd")) as running:
        yield running


class Client:
    def __init__(self, url: str, name: str, *filters: str, will: Will | None = None) -> None:
        self.inbox: Inbox = queue.Queue(1_000)
        session = SessionSettings(client_id=name, first_connect_spread_s=0.0, reconnect_delay_s_max=0.1)
        self.transport = MqttTransport(parse_broker_url(url), session, self.inbox, will=will, rng=random.Random(3))
        for topic_filter in filters:
            self.transport.subscribe(topic_filter)
        self.transport.open()

    def until(self, kind: type[EventT]) -> EventT:
        while not isinstance(event := self.inbox.get(timeout=WAIT_S).event, kind):
            pass
        return event


def test_what_is_retained_is_given_to_who_comes_later_until_it_is_cleared(broker: Ejabberd) -> None:
    address = parse_broker_url(broker.url)
    speaker = Client(broker.url, "retaining")
    speaker.transport.publish("r/fed/model/1", b"body", retain=True)
    speaker.transport.close()
    seen = visit_broker(address, "looking", filters=["r/#"], probes=[], enough=lambda seen: bool(seen.messages))
    assert seen.messages == {"r/fed/model/1": b"body"}
    clear_retained(address, "clearing", "r/#")
    seen = visit_broker(address, "looking", filters=["r/#"], probes=[], enough=lambda _: False)
    assert (seen.accepted, seen.messages) == (True, {})


def test_what_came_while_a_client_was_away_waits_in_its_session(broker: Ejabberd) -> None:
    with TcpProxy("127.0.0.1", broker.port) as proxy:
        away = Client(broker.url.replace(str(broker.port), str(proxy.port)), "away", "s/t")
        away.until(TransportConnected)
        speaker = Client(broker.url, "speaking")
        speaker.until(TransportConnected)
        proxy.partition(down=True, up=True)
        proxy.close_all()
        for number in range(5):
            speaker.transport.publish("s/t", b"%d" % number)
        speaker.transport.close()
        proxy.heal()
        assert [away.until(MessageReceived).payload for _ in range(5)] == [b"%d" % number for number in range(5)]
        away.transport.close()


def test_the_will_of_who_vanishes_is_retained(broker: Ejabberd) -> None:
    watcher = Client(broker.url, "watching", "w/state")
    watcher.until(TransportConnected)
    with TcpProxy("127.0.0.1", broker.port) as proxy:
        lost = Client(
            broker.url.replace(str(broker.port), str(proxy.port)),
            "vanishing",
            will=Will(topic="w/state", payload=b"lost", delay_s=1),
        )
        lost.until(TransportConnected)
        proxy.partition(down=True, up=True)
        proxy.close_all()
        assert watcher.until(MessageReceived).payload == b"lost"
        lost.transport.close()
    watcher.transport.close()


def test_two_clients_with_one_id_end_with_one_that_says_why(broker: Ejabberd) -> None:
    """This broker says who was taken over, so that it needs no topic of theirs."""
    clients = [Client(broker.url, "same") for _ in range(2)]
    failed: list[str] = []
    while not failed:
        for client in clients:
            try:
                event = client.inbox.get(timeout=0.1).event
            except queue.Empty:
                continue
            if isinstance(event, TransportFailed):
                failed.append(event.reason)
    assert "another client uses the id 'same'" in failed[0]
    assert sum(client.transport.alive for client in clients) == 1
    for client in clients:
        client.transport.close()


def test_the_demo_runs_with_a_kill_and_leaves_nothing_retained(broker: Ejabberd, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "coordinator", "demo", "--nodes", "3", "--rounds", "6", "--broker", broker.url]
    done = subprocess.run(
        [*command, "--report", str(file)], check=False, capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert len(report["rounds"]) == 6
    # One kill in mid-training; those that came just after a training were tried again.
    kills = sum(one["what"] == "killed" for one in report["news"])
    assert (report["chaos_kills"], sum(node["restarts"] for node in report["nodes_detail"])) == (1, kills)
    address = parse_broker_url(broker.url)
    seen = visit_broker(address, "after", filters=["fl/#"], probes=[], enough=lambda seen: bool(seen.messages))
    assert (seen.accepted, seen.messages) == (True, {})
