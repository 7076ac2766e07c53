"""From what a transport received to the machine's events: parsed, checked, and with the store's verdict at hand."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Final, cast

from coordinator.actions import (
    BrokerConnected,
    BrokerDisconnected,
    ChunkReceived,
    DeclineReceived,
    Evaluated,
    Event,
    MessageRefused,
    NodeStateReceived,
    OfferReceived,
    ProgressReceived,
    ReportReceived,
)
from coordinator.broker_log import BROKER_LOG, STRANGER, incident_of
from coordinator.flood import Flood
from coordinator.incidents import Incidents
from coordinator.store import CoordinatorStore
from coordinator.traffic import Traffic
from federation.errors import (
    BadSignature,
    IncompatibleVersion,
    MalformedMessage,
    MalformedTopic,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from federation.protocol.messages import Decline, EvaluationReport, Message, NodeState, Progress, UpdateOffer
from federation.protocol.schema import ID_PATTERN
from federation.protocol.signing import Reader, Verifier
from federation.protocol.topics import NodeChunkTopic, NodeEventTopic, NodeStateTopic, NodeTelemetryTopic, Topics
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, TransportFailed
from federation.types import NodeId

__all__ = ["CONTROL", "Inbound"]

CONTROL: Final = "control"
"""Name of the connection that carries everything but bulk: its state is the machine's view of the broker."""


INCIDENTS: Final[Mapping[type[RemoteProtocolError], str]] = {
    BadSignature: "bad_signature",
    IncompatibleVersion: "incompatible",
    MalformedTopic: "forged_topic",
    MalformedMessage: "malformed",
}
"""What ``coordinator status`` calls each kind of refusal."""


class Inbound:
    """Translates one inbox item at a time.

    Args:
        topics: The federation's tree.
        store: Asked for the verdict on offers, and told evaluations.
        traffic: Counts what arrives.
        on_connected: Called before the machine hears that the broker is back.
        verifier: The nodes' keys; None believes what is not signed.
        incidents: Counts what is refused; None is nobody who asks.
    """

    def __init__(
        self,
        topics: Topics,
        store: CoordinatorStore,
        traffic: Traffic,
        on_connected: Callable[[], None],
        *,
        verifier: Verifier | None = None,
        incidents: Incidents | None = None,
    ) -> None:
        self._topics, self._store, self._traffic, self._on_connected = topics, store, traffic, on_connected
        self._reader = Reader(topics, verifier)
        self._incidents = Incidents() if incidents is None else incidents
        self._flood = Flood()

    def translate(self, event: object) -> Event | None:
        """The machine's event, or None when there is nothing to say.

        Raises:
            TransportError: The broker refuses us for good.
            StorageError: The store cannot be read: what is known of an offer decides whether it counts.
        """
        match event:
            case MessageReceived():
                return self._message(event)
            case TransportConnected(connection=connection):
                return self._connected(connection)
            case TransportDisconnected(connection=connection, reason=reason):
                return BrokerDisconnected(reason=reason) if connection == CONTROL else None
            case TransportFailed(connection=connection, reason=reason):
                raise TransportError(f"the {connection} connection has failed for good: {reason}")
            case Evaluated(version=version, metrics=metrics) if metrics:
                # A full disk costs a gap in the history here, not the process: what must be saved says so itself.
                with contextlib.suppress(StorageError):
                    self._store.save_evaluation(version, metrics)
                return event
            case _:
                return cast("Event", event)

    def _connected(self, connection: str) -> Event | None:
        if connection != CONTROL:
            return None
        self._on_connected()
        return BrokerConnected()

    def _message(self, received: MessageReceived) -> Event | None:
        if received.topic.startswith(BROKER_LOG):
            incident = incident_of(received.topic, received.payload, self._topics)
            if incident is not None:
                self._incidents.count(*incident)
            return None
        self._traffic.received(received.topic, len(received.payload))
        try:
            return self._parse(received)
        except RemoteProtocolError as error:
            self._incidents.count(self._sender(received.topic), INCIDENTS.get(type(error), "malformed"))
            return MessageRefused(topic=received.topic, reason=str(error))

    def _sender(self, topic: str) -> str:
        """Whose topic it is: whoever wrote there is that node, or has the broker's help."""
        match topic.removeprefix(f"{self._topics.root}/{self._topics.federation}/").split("/"):
            case ["n", node, *_] if ID_PATTERN.fullmatch(node):
                return node
            case _:
                return STRANGER

    def _parse(self, received: MessageReceived) -> Event | None:
        match self._topics.parse(received.topic):
            case NodeChunkTopic(node=node, update=update, index=index):
                return ChunkReceived(node=node, update=update, index=index, body=received.payload)
            case NodeStateTopic(node=node) | NodeEventTopic(node=node) | NodeTelemetryTopic(node=node) as topic:
                # An empty retained payload is how a state is removed from the broker.
                if not received.payload:
                    return None
                if not self._flood.admits(node):
                    self._incidents.count(node, "flood")
                    return None  # unread: a node that is cut off here offers again
                return self._node_message(topic, node, self._reader.decode(received.topic, received.payload))
            case _:
                return None

    def _node_message(
        self, topic: NodeStateTopic | NodeEventTopic | NodeTelemetryTopic, node: NodeId, message: Message
    ) -> Event:
        match topic, message:
            case NodeStateTopic(), NodeState():
                self._traffic.presence(node, message.presence)
                return NodeStateReceived(node=node, state=message)
            case NodeEventTopic(), UpdateOffer():
                return OfferReceived(node=node, offer=message, known=self._store.verdict(message.update))
            case NodeEventTopic(), EvaluationReport():
                known_result = self._store.node_result(message.version, node)
                return ReportReceived(node=node, report=message, known=known_result)
            case NodeEventTopic(), Decline():
                return DeclineReceived(node=node, decline=message)
            case NodeTelemetryTopic(), Progress():
                return ProgressReceived(node=node, progress=message)
            case _:
                raise MalformedMessage(_misplaced(message))


def _misplaced(message: Message) -> str:
    return f"a {type(message).__name__} does not belong on this topic"
