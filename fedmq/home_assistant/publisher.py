"""Keeps what is retained for a run as the run is: what has changed is published, what has gone is taken away."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from coordinator.config.alerts import HomeAssistantSection
from federation.errors import ConfigError, StorageError
from federation.runtime.address import parse_broker_url
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import (
    INBOX_ITEMS_MAX,
    Inbox,
    InboxItem,
    MessageReceived,
    Transport,
    TransportBlocked,
    TransportConnected,
    TransportFailed,
    Will,
)
from fedmq.home_assistant.devices import OFFLINE, ONLINE, Topics, retained
from fedmq.run_view import Snapshot

__all__ = ["Publisher", "make_publisher"]

LISTEN_S = 1.0
"""What former runs have left comes within so many seconds of the connection; until then nothing is taken away."""


def make_publisher(settings: HomeAssistantSection, federation: str, look: Callable[[], Snapshot]) -> "Publisher":
    """A publisher with a connection of its own, which is not open yet.

    Args:
        settings: The configuration's section.
        federation: Its name.
        look: Reads the run.

    Raises:
        ConfigError: There is no broker in the section, or its address is none.
    """
    if not settings.broker:
        said = "names no broker: home_assistant.broker is the one that Home Assistant uses, such as mqtt://127.0.0.1"
        raise ConfigError("home_assistant.broker", said, source="configuration")
    topics, inbox = Topics(federation=federation, settings=settings), Inbox(INBOX_ITEMS_MAX)
    session = SessionSettings(client_id=f"fedmq-home-{federation}", session_expiry_s=0, first_connect_spread_s=0.0)
    address = parse_broker_url(settings.broker, source="home_assistant.broker")
    transport = MqttTransport(address, session, inbox, will=Will(topic=topics.online, payload=OFFLINE, delay_s=0))
    return Publisher(transport=transport, inbox=inbox, topics=topics, look=look)


@dataclass(slots=True, kw_only=True)
class Publisher:
    """One run's devices on one broker.

    Attributes:
        transport: The connection.
        inbox: Where it says what happens.
        topics: Where things are published.
        look: Reads the run.
    """

    transport: Transport
    inbox: Inbox
    topics: Topics
    look: Callable[[], Snapshot]
    _told: dict[str, bytes] = field(default_factory=dict)
    _former: set[str] = field(default_factory=set)
    _number: int = -1
    _reason: str = ""

    def run(self, stopped: threading.Event) -> None:
        """Publish until ``stopped`` is set; a folder or a broker that is away is tried again."""
        self.transport.subscribe(self.topics.every_node)
        self.transport.open()
        try:
            stopped.wait(LISTEN_S)
            while not stopped.is_set():
                self.hear()
                self.once()
                stopped.wait(self.topics.settings.every_s)
        finally:
            self.transport.publish(self.topics.online, OFFLINE, retain=True)
            self.transport.close()

    def once(self) -> None:
        """Look, and publish what has changed."""
        try:
            snapshot = self.look()
        except StorageError as error:
            self._say("home_assistant_cannot_look", str(error))
            return
        if snapshot.number == self._number and self._told and not self._former:
            return
        self._number = snapshot.number
        made = retained(snapshot, self.topics)
        for topic, payload in made.items():
            if self._told.get(topic) != payload:
                self.transport.publish(topic, payload, retain=True)
        for topic in (self._told.keys() | self._former) - made.keys():
            self.transport.publish(topic, b"", retain=True)
        self._told, self._former = made, set()

    def hear(self) -> None:
        """Take in what the connection says; a broker that has come back may have forgotten everything."""
        while True:
            try:
                item = self.inbox.get_nowait()
            except queue.Empty:
                return
            self._take(item)
            item.acknowledge()

    def _take(self, item: InboxItem) -> None:
        match item.event:
            case TransportConnected():
                self._told, self._reason = {}, ""
                self.transport.publish(self.topics.online, ONLINE, retain=True)
            case TransportBlocked(reason=reason) | TransportFailed(reason=reason):
                self._say("home_assistant_broker", reason)
            case MessageReceived(topic=topic, payload=payload, retained=True) if payload and topic not in self._told:
                name = topic.rpartition("/")[2]
                self._former |= {topic, self.topics.discovery(name)}
            case _:
                pass

    def _say(self, event: str, reason: str) -> None:
        """Once for as long as it is the same."""
        if reason != self._reason:
            structlog.get_logger().warning(event, reason=reason)
        self._reason = reason
