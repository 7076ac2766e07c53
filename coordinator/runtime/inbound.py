"""From what a transport received to the machine's events: parsed, checked, and with the store's verdict at hand."""

import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from coordinator.engine.events import (
    BrokerConnected,
    BrokerDisconnected,
    BrokerDropped,
    ChunkReceived,
    CoordinatorStateReceived,
    DeclineReceived,
    Evaluated,
    Event,
    MessageRefused,
    NodeStateReceived,
    OfferReceived,
    ProgressReceived,
    ReportReceived,
)
from coordinator.runtime.broker_log import BROKER_LOG, STRANGER, incident_of
from coordinator.runtime.connections import CONTROL, DROPPED_TOPIC
from coordinator.runtime.incidents import Incidents
from coordinator.runtime.traffic import Traffic
from coordinator.storage.store import CoordinatorStore
from federation.errors import (
    BadSignature,
    IncompatibleVersion,
    MalformedMessage,
    MalformedTopic,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from federation.protocol.messages import (
    CoordinatorState,
    Decline,
    EvaluationReport,
    Message,
    NodeState,
    Progress,
    ReceiptStatus,
    UpdateOffer,
)
from federation.protocol.schema import ID_PATTERN
from federation.protocol.signing import Reader, Signer, Verifier, signed_digest
from federation.protocol.topics import (
    CoordinatorStateTopic,
    NodeChunkTopic,
    NodeEventTopic,
    NodeStateTopic,
    NodeTelemetryTopic,
    Topics,
)
from federation.protocol.wire import decode_message, split_signature
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, TransportFailed
from federation.types import NodeId

__all__ = ["Inbound", "RateLimit"]

DROPPED_DIGITS_MAX = 18

MESSAGES_PER_S = 500.0
"""Births, offers, declines and telemetry of one node; a node with nothing to train sends a tenth of it."""

BURST_MESSAGES = 1_000.0
"""What may come at once, such as everything that waited while the coordinator was away."""

NODES_MAX = 100_000


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
        signer: Our own key; None says and believes everything unsigned in our name.
    """

    def __init__(  # noqa: PLR0913 - what it needs of its role
        self,
        topics: Topics,
        store: CoordinatorStore,
        traffic: Traffic,
        on_connected: Callable[[], None],
        *,
        verifier: Verifier | None = None,
        incidents: Incidents | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._topics, self._store, self._traffic, self._on_connected = topics, store, traffic, on_connected
        self._reader, self._signer = Reader(topics, verifier), signer
        self._incidents = Incidents() if incidents is None else incidents
        self._rate_limit = RateLimit()

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
            case Evaluated(version=version, metrics=metrics, skipped=False):
                try:
                    self._store.save_evaluation(version, metrics)
                except StorageError:
                    # A full disk costs a gap in the history here, not the process. But what is not saved may not end
                    # the run or name the best version either: after a restart the run would go on.
                    return Evaluated(version=version, metrics={}, skipped=True)
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
                self._incidents.count(incident.who, incident.what)
            return None
        if received.topic == DROPPED_TOPIC:
            body = received.payload[:DROPPED_DIGITS_MAX]
            return BrokerDropped(total=int(body)) if body.isdigit() else None
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
                if not self._rate_limit.admits(node):
                    self._incidents.count(node, "flood")
                    return None  # unread: a node that is cut off here offers again
                return self._node_message(topic, node, self._reader.decode(received.topic, received.payload))
            case CoordinatorStateTopic():
                return CoordinatorStateReceived(state=self._own_state(received), retained=received.retained)
            case _:
                return None

    def _own_state(self, received: MessageReceived) -> CoordinatorState | None:
        """What is said in the coordinator's name; with a key of our own only what was signed with it."""
        try:
            body, signature = split_signature(received.payload)
            if self._signer is not None:
                digest = signed_digest(self._topics, received.topic, body)
                if self._signer.sign(digest) != signature:  # Ed25519 signs the same bytes alike, each time
                    return None
            message = decode_message(received.payload)
        except RemoteProtocolError:
            return None
        return message if isinstance(message, CoordinatorState) else None

    def _node_message(
        self, topic: NodeStateTopic | NodeEventTopic | NodeTelemetryTopic, node: NodeId, message: Message
    ) -> Event:
        match topic, message:
            case NodeStateTopic(), NodeState():
                self._traffic.presence(node, message.presence)
                return NodeStateReceived(node=node, state=message)
            case NodeEventTopic(), UpdateOffer():
                known = self._store.verdict(message.update)
                asked = self._store.reserved(message.round) if known is None else None
                stored = None
                if known is not None and known.status is ReceiptStatus.STORED:
                    stored = self._store.stored(message.update)
                return OfferReceived(node=node, offer=message, known=known, stored=stored, asked=asked)
            case NodeEventTopic(), EvaluationReport():
                known_result = self._store.node_result(message.version, node)
                return ReportReceived(node=node, report=message, known=known_result)
            case NodeEventTopic(), Decline():
                return DeclineReceived(node=node, decline=message)
            case NodeTelemetryTopic(), Progress():
                return ProgressReceived(node=node, progress=message)
            case _:
                raise MalformedMessage(_misplaced(message))


class RateLimit:
    """One node's share of the coordinator's attention: what comes faster is dropped before it is read (a token bucket).

    Chunks are not counted: they are granted, and one that was not is dropped for less than counting it would cost.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left: dict[NodeId, tuple[float, float]] = {}

    def admits(self, node: NodeId) -> bool:
        """Take one message of a node; False when it has sent too many."""
        now = self._now()
        left, since = self._left.get(node, (BURST_MESSAGES, now))
        left = min(BURST_MESSAGES, left + (now - since) * MESSAGES_PER_S)
        if node not in self._left and len(self._left) >= NODES_MAX:
            self._left.clear()  # names were invented: whoever can do that is not held up by a bucket of one name
        self._left[node] = (max(0.0, left - 1.0), now)
        return left >= 1.0


def _misplaced(message: Message) -> str:
    return f"a {type(message).__name__} does not belong on this topic"
