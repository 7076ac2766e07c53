"""Through a real Mosquitto: devices appear, follow the run, and go when the run or the process goes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coordinator.config.alerts import HomeAssistantSection
from federation.errors import ConfigError
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.visit import Seen, visit_broker
from fedmq.home_assistant.devices import Topics
from fedmq.home_assistant.publisher import make_publisher
from fedmq.run_view import Snapshot
from tests.unit.fedmq.home_assistant.test_devices import check_description, snapshot

pytestmark = pytest.mark.broker

EVERYTHING = ("homeassistant/#", "fedmq-status/#")


class Run:
    """The run that is looked at; a test changes it."""

    def __init__(self, *nodes: str) -> None:
        self.now = snapshot(*nodes)

    def change(self, *nodes: str) -> None:
        number = self.now.number + 1
        fresh = snapshot(*nodes)
        self.now = Snapshot(number=number, summary=fresh.summary, versions=fresh.versions, nodes=fresh.nodes)

    def look(self) -> Snapshot:
        return self.now


@contextmanager
def published(broker: LocalBroker, run: Run) -> Iterator[Topics]:
    """A publisher that runs, as `coordinator serve` starts it."""
    settings = HomeAssistantSection(broker=broker.url, every_s=1)
    publisher, stopped = make_publisher(settings, "plant", run.look), threading.Event()
    thread = threading.Thread(target=publisher.run, args=(stopped,))
    thread.start()
    try:
        yield publisher.topics
    finally:
        stopped.set()
        thread.join()


def seen(broker: LocalBroker, count: int, payload: bytes = b"online") -> dict[str, bytes]:
    """What is retained, once so many topics are, and `online` says this."""
    address = parse_broker_url(broker.url, source="a test")

    def enough(found: Seen) -> bool:
        return len(found.messages) == count and found.messages.get("fedmq-status/plant/online") == payload

    for _ in range(30):
        found = visit_broker(address, "reader", filters=EVERYTHING, probes=(), enough=enough)
        if enough(found):
            return found.messages
    raise AssertionError(f"{sorted(found.messages)}")


def test_devices_appear_follow_the_run_and_become_unavailable(broker: LocalBroker) -> None:
    run = Run("a", "b")
    with published(broker, run) as topics:
        first = seen(broker, 7)
        for topic in (topics.discovery(), topics.discovery("a"), topics.discovery("b")):
            check_description(topic, first[topic], first)
        assert json.loads(first[topics.run])["nodes_online"] == 2
        run.change("a", "b", "c")
        assert json.loads(seen(broker, 9)[topics.run])["nodes_online"] == 3
    assert seen(broker, 9, b"offline")[topics.online] == b"offline"


def test_nodes_that_a_former_run_has_left_are_taken_away(broker: LocalBroker) -> None:
    with published(broker, Run("old", "both")):
        seen(broker, 7)
    with published(broker, Run("both")) as topics:
        left = seen(broker, 5)
    assert topics.node("old") not in left
    assert topics.discovery("old") not in left
    assert topics.node("both") in left


def test_without_a_broker_it_is_an_error_that_says_which_key() -> None:
    with pytest.raises(ConfigError, match=r"home_assistant\.broker"):
        make_publisher(HomeAssistantSection(), "plant", Run("a").look)
