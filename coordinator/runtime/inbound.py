"""From what a transport received to the machine's events: parsed, checked, and with the store's verdict at hand."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast

from coordinator.engine.events import (
    BrokerConnected,
    BrokerDisconnected,
    BrokerDropped,
    ChunkReceived,
    ChunksLost,
    CoordinatorStateReceived,
    DeclineReceived,
    Evaluated,
    Event,
    MessageRefused,
    NodeStateReceived,
    OfferReceived,
    ProgressReceived,
    ProofReceived,
    ReportReceived,
)
from coordinator.engine.masked.events import HelperSpoke, SumChunkReceived
from coordinator.engine.timers import RateLimit
from coordinator.records import RoundRecord
from coordinator.runtime.broker_log import BROKER_LOG, STRANGER, incident_of
from coordinator.runtime.connections import CONTROL, DROPPED_TOPIC
from coordinator.runtime.incidents import Incidents
from coordinator.runtime.proofs import is_own, proved_by
from coordinator.runtime.retained_mail import RetainedMail
from coordinator.runtime.sealing import CoordinatorSealing
from coordinator.runtime.traffic import Traffic
from coordinator.storage.store import CoordinatorStore
from federation.errors import (
    BadSeal,
    BadSignature,
    IncompatibleVersion,
    MalformedMessage,
    MalformedTopic,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from federation.identity.helper_keys import HelperKeys, PinnedHelper
from federation.protocol.messages import (
    CoordinatorState,
    Decline,
    EvaluationReport,
    Message,
    NodeState,
    Presence,
    Progress,
    Proof,
    ReceiptStatus,
    UpdateOffer,
)
from federation.protocol.signing import Reader, Signer, Verifier
from federation.protocol.sum_messages import Held, HelperState, SumOffer, SumRefusal
from federation.protocol.tables import ID_PATTERN
from federation.protocol.task_messages import TaskReport
from federation.protocol.topics import (
    CoordinatorStateTopic,
    HelperChunkTopic,
    HelperEventTopic,
    HelperStateTopic,
    NodeChunkTopic,
    NodeEventTopic,
    NodeStateTopic,
    NodeTelemetryTopic,
    Topics,
)
from federation.protocol.wire import decode_message
from federation.runtime.transport import (
    MessageReceived,
    TransportAnswered,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)
from federation.types import HelperId, NodeId, RoundId

__all__ = ["Inbound"]

DROPPED_DIGITS_MAX = 18

BROKERS_OWN = "$SYS/"
"""Only the broker itself can publish there."""

MESSAGES_PER_S = 500.0
"""Births, offers, declines and telemetry of one node; a node with nothing to train sends a tenth of it."""

BURST_MESSAGES = 1_000.0
"""What may come at once, such as everything that waited while the coordinator was away."""

BIRTHS_PER_S = 0.5
"""Comings and goings of one node: each is a line in the log and may cost a lease."""

BURST_BIRTHS = 30.0

ROUNDS_MAX: Final = 256
"""Rounds that are remembered as the store has them."""

NEVER_RETAINED: Final = frozenset({"evt", "sum", "tel", "up"})
"""Branches of nodes and helpers where nothing may stay: whatever does fills the broker, and outlives its restart."""


INCIDENTS: Final[Mapping[type[RemoteProtocolError], str]] = {
    BadSignature: "bad_signature",
    BadSeal: "bad_seal",
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
        helpers: Those of masked sums; nobody else's word about seeds and sums is heard.
        retained: Has what is retained where nothing may be taken away.
        sealing: Opens what is sealed; None opens nothing.
        hear_task: Gets what nodes say of releases of the task.
        now: Monotonic seconds.
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
        helpers: Iterable[PinnedHelper] = (),
        retained: RetainedMail | None = None,
        sealing: CoordinatorSealing | None = None,
        hear_task: Callable[[NodeId, TaskReport], None] = lambda _node, _report: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics, self._store, self._traffic, self._on_connected = topics, store, traffic, on_connected
        self._reader, self._signer, self._sealing = Reader(topics, verifier, sealing), signer, sealing
        self._helpers = Reader(topics, HelperKeys(helpers))
        self._of_helpers = topics.helper_states.partition("+")[0]
        self._incidents = Incidents() if incidents is None else incidents
        self._retained, self._hear_task, self._now = retained, hear_task, now
        self._messages = RateLimit[NodeId](per_s=MESSAGES_PER_S, burst=BURST_MESSAGES)
        self._births = RateLimit[NodeId](per_s=BIRTHS_PER_S, burst=BURST_BIRTHS)
        self._presences: dict[NodeId, tuple[int | None, int, Presence]] = {}
        self._rounds: dict[RoundId, RoundRecord] = {}
        self._data_is_new = True

    def translate(self, event: object) -> Event | None:
        """The machine's event, or None when there is nothing to say.

        Raises:
            TransportError: The broker refuses us for good.
            StorageError: The store cannot be read: what is known of an offer decides whether it counts.
        """
        match event:
            case MessageReceived():
                return self._message(event)
            case TransportConnected() | TransportAnswered():
                return self._connected(event)
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

    def _connected(self, event: TransportConnected | TransportAnswered) -> Event | None:
        answered = isinstance(event, TransportAnswered)
        if event.connection != CONTROL:
            # Chunks for a session that the broker has lost are sent to nobody until it knows what we subscribe to.
            self._data_is_new = (
                not event.session_present if isinstance(event, TransportConnected) else self._data_is_new
            )
            return ChunksLost() if answered and self._data_is_new else None
        if not answered:
            self._on_connected()
        return BrokerConnected(answered=answered)

    def _message(self, received: MessageReceived) -> Event | None:
        if received.topic.startswith(BROKER_LOG):
            incident = incident_of(received.topic, received.payload, self._topics)
            if incident is not None:
                self._incidents.count(incident.who, incident.what)
            return None
        if received.topic == DROPPED_TOPIC:
            body = received.payload[:DROPPED_DIGITS_MAX]
            return self._dropped(int(body)) if body.isdigit() else None
        if received.topic.startswith(BROKERS_OWN):
            return None  # asked for by a doctor, whose visit shares this session, and not by us
        if not received.topic.startswith((self._topics.coordinator_state, self._of_helpers)):
            self._traffic.received(received.topic, len(received.payload))
        try:
            return self._parse(received)
        except RemoteProtocolError as error:
            self._incidents.count(self._sender(received.topic), INCIDENTS.get(type(error), "malformed"))
            return MessageRefused(topic=received.topic, reason=str(error))

    def _dropped(self, total: int) -> Event:
        if self._retained is not None:
            self._retained.dropped(total)
        return BrokerDropped(total=total)

    def _sender(self, topic: str) -> str:
        """Whose topic it is: whoever wrote there is that node, or has the broker's help."""
        match self._levels(topic):
            case ["n", node, *_] if ID_PATTERN.fullmatch(node):
                return node
            case _:
                return STRANGER

    def _branch(self, topic: str) -> str:
        """Which of a node's or a helper's branches it is in; empty: in none."""
        match self._levels(topic):
            case ["n" | "h", _, branch, *_]:
                return branch
            case _:
                return ""

    def _levels(self, topic: str) -> list[str]:
        return topic.removeprefix(f"{self._topics.root}/{self._topics.federation}/").split("/")

    def _parse(self, received: MessageReceived) -> Event | None:  # noqa: PLR0911 - one case per topic
        if received.retained and self._branch(received.topic) in NEVER_RETAINED:
            return self._clear(received)
        match self._topics.parse(received.topic):
            case NodeChunkTopic(node=node, update=update, index=index):
                body = received.payload
                if self._sealing is not None:
                    body = self._sealing.update_chunk(node, update, index, body)
                return ChunkReceived(node=node, update=update, index=index, body=body)
            case NodeStateTopic(node=node) | NodeEventTopic(node=node) | NodeTelemetryTopic(node=node) as topic:
                # An empty retained payload is how a state is removed from the broker.
                if self._is_flood(node) or not received.payload:
                    return None
                return self._node_message(topic, node, self._reader.decode(received.topic, received.payload))
            case HelperChunkTopic(helper=helper, transfer=transfer, index=index):
                return SumChunkReceived(helper=helper, transfer=transfer, index=index, body=received.payload)
            case HelperStateTopic(helper=helper) | HelperEventTopic(helper=helper) as topic:
                return self._helper_message(topic, helper, received) if received.payload else None
            case CoordinatorStateTopic():
                return CoordinatorStateReceived(state=self._own_state(received), retained=received.retained)
            case _:
                return None

    def _is_flood(self, node: NodeId) -> bool:
        """Whether a node sends too much: unread, and a node that is cut off here offers again."""
        if self._messages.admits(node, self._now()):
            return False
        self._incidents.count(node, "flood")
        return True

    def _clear(self, received: MessageReceived) -> Event | None:
        """Something stays where nothing may [FED-102]: take it away, and do not read it."""
        sender = self._sender(received.topic)
        if not received.payload:
            self._is_flood(NodeId(sender))
            return None  # most likely our own word, by which it is taken away
        self._incidents.count(sender, "retained")
        if self._retained is not None:
            self._retained.clear(received.topic)
        return MessageRefused(topic=received.topic, reason="retained, where nothing may be: cleared")

    def _own_state(self, received: MessageReceived) -> CoordinatorState | None:
        """What is said in the coordinator's name; with a key of our own only what was signed with it."""
        try:
            if self._signer is not None and not is_own(self._signer, self._topics, received.topic, received.payload):
                return None
            message = decode_message(received.payload)
        except RemoteProtocolError:
            return None
        return message if isinstance(message, CoordinatorState) else None

    def _node_message(  # noqa: PLR0911 - one case per message
        self, topic: NodeStateTopic | NodeEventTopic | NodeTelemetryTopic, node: NodeId, message: Message
    ) -> Event | None:
        match topic, message:
            case NodeStateTopic(), NodeState():
                return self._node_state(node, message)
            case NodeEventTopic(), UpdateOffer():
                if self._sealing is not None:
                    self._sealing.offered(node, message)
                known = self._store.verdict(message.update)
                asked = self._reserved(message.round) if known is None else None
                stored = None
                if known is not None and known.status is ReceiptStatus.STORED:
                    stored = self._store.stored(message.update)
                return OfferReceived(node=node, offer=message, known=known, stored=stored, asked=asked)
            case NodeEventTopic(), EvaluationReport():
                known_result = self._store.node_result(message.version, node)
                return ReportReceived(node=node, report=message, known=known_result)
            case NodeEventTopic(), Decline():
                return DeclineReceived(node=node, decline=message)
            case NodeEventTopic(), Proof():
                return self._proved(node, message)
            case NodeEventTopic(), TaskReport():
                self._hear_task(node, message)
                return None
            case NodeTelemetryTopic(), Progress():
                return ProgressReceived(node=node, progress=message)
            case _:
                raise MalformedMessage(_misplaced(message))

    def _proved(self, node: NodeId, proof: Proof) -> Event | None:
        """Without a key of our own nothing can be proved."""
        if self._signer is None:
            return None
        return ProofReceived(node=node, proved=proved_by(proof, node, self._signer, self._topics, self._store))

    def _reserved(self, number: RoundId) -> RoundRecord | None:
        """A round as it was reserved, which never changes: most offers are of the same few."""
        found = self._rounds.get(number) or self._store.reserved(number)
        if found is not None:
            if len(self._rounds) >= ROUNDS_MAX:
                self._rounds.clear()
            self._rounds[number] = found
        return found

    def _helper_message(
        self, topic: HelperStateTopic | HelperEventTopic, helper: HelperId, received: MessageReceived
    ) -> Event:
        """Helpers are believed by their pinned keys alone, also where nodes need not sign."""
        message = self._helpers.decode(received.topic, received.payload)
        match topic, message:
            case HelperStateTopic(), HelperState():
                return HelperSpoke(helper=helper, message=message)
            case HelperEventTopic(), Held() | SumOffer() | SumRefusal():
                return HelperSpoke(helper=helper, message=message)
            case _:
                raise MalformedMessage(_misplaced(message))

    def _node_state(self, node: NodeId, state: NodeState) -> Event | None:
        if self._too_many_births(node, state):
            self._incidents.count(node, "birth_flood")
            return None
        self._traffic.presence(node, state.presence)
        if self._sealing is not None:
            self._sealing.hear(node, state)
        return NodeStateReceived(node=node, state=state)

    def _too_many_births(self, node: NodeId, state: NodeState) -> bool:
        """Whether a node comes and goes more often than any device does; what it says while it is there is no birth."""
        seen = (state.state_id, state.incarnation, state.presence)
        if self._presences.get(node) == seen:
            return False
        if not self._births.admits(node, self._now()):
            return True
        if len(self._presences) >= RateLimit.keys_max:
            self._presences.clear()
        self._presences[node] = seen
        return False


def _misplaced(message: Message) -> str:
    return f"a {type(message).__name__} does not belong on this topic"
