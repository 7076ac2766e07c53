"""From what the transport delivers to the machine's events: who has signed it, and what the store knows of it."""

from collections import Counter
from typing import Protocol, cast, get_args

from federation.errors import BadSeal, LocalProtocolError, MalformedMessage, RemoteProtocolError, TransportError
from federation.privacy.boxes import KeyPair
from federation.privacy.releases import Taking
from federation.privacy.seeds import HeldSeeds, open_seeds
from federation.protocol.chunking import payload_digest
from federation.protocol.enumerations import SumReason
from federation.protocol.messages import CoordinatorState, Grant, Message, RetryAfter
from federation.protocol.signing import Reader, Verifier
from federation.protocol.sum_messages import SealedSeeds, SumRequest, Ticket
from federation.protocol.topics import CoordinatorStateTopic, HelperCommandTopic, HelperStateTopic, Topics
from federation.runtime.log import get_log
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, TransportFailed
from federation.types import Digest, HelperId, ModelVersion, NodeId, RunId, UpdateId
from sum_helper.engine.events import (
    BrokerConnected,
    CoordinatorHeard,
    Event,
    GrantReceived,
    RequestReceived,
    SeedsReceived,
)
from sum_helper.records import HeldUpdate, HelperRules, Released

__all__ = ["Inbound", "Known"]

_EVENTS = get_args(Event)


class Known(Protocol):
    """What is looked up of an update."""

    def keys(self) -> tuple[KeyPair, ...]:
        """Own keys, the newest first."""

    def known_ticket(self, run: RunId, update: UpdateId) -> Digest | None:
        """The ticket under this name."""

    def base_digest(self, run: RunId, version: ModelVersion) -> Digest | None:
        """The digest of a base version."""

    def newest_version(self, run: RunId) -> int:
        """The newest version that was asked for."""

    def held_count(self) -> int:
        """Updates that are held."""

    def taking(self, run: RunId, node: NodeId) -> Taking | None:
        """A node's part in the noised sums of a run."""

    def released(self, run: RunId) -> Released:
        """These sums."""


class Register(Verifier, Protocol):
    """The nodes that count here."""

    def knows(self, node: NodeId) -> bool:
        """Whether a node was admitted at all."""


class Inbound:
    """Translates inbox items of one helper.

    Args:
        topics: The federation's tree.
        helper: Who listens.
        coordinator: The coordinator's key.
        register: The nodes' keys, as this helper's own administrator has admitted them.
        store: What is held.
        rules: What is insisted on.

    Attributes:
        refused: Messages that were refused, by kind of error.
    """

    def __init__(
        self,
        topics: Topics,
        helper: HelperId,
        *,
        coordinator: Verifier,
        register: Register,
        store: Known,
        rules: HelperRules,
    ) -> None:
        self._topics, self._helper, self._store, self._rules = topics, helper, store, rules
        self._reader, self._tickets, self._register = Reader(topics, coordinator), Reader(topics, register), register
        self._log = get_log("inbound")
        self.refused: Counter[str] = Counter()

    def translate(self, item: object) -> Event | None:
        """The machine's event, or None when there is nothing to handle.

        Raises:
            TransportError: The transport gave up.
        """
        match item:
            case MessageReceived():
                return self._message(item)
            case TransportConnected():
                return BrokerConnected()
            case TransportDisconnected():
                return None
            case TransportFailed():
                raise TransportError(item.reason)
            case Exception():
                raise item
            case _ if isinstance(item, _EVENTS):
                return cast("Event", item)
            case _:
                raise LocalProtocolError(f"nothing handles {type(item).__name__}")

    def _message(self, received: MessageReceived) -> Event | None:
        if not received.payload:
            return None
        try:
            return self._decode(received)
        except RemoteProtocolError as error:
            kind = type(error).__name__
            self.refused[kind] += 1
            if str(self.refused[kind]).strip("0") == "1":  # the first, the tenth, ...: a flood is a few lines
                told = {"topic": received.topic[:128], "kind": kind, "count": self.refused[kind]}
                self._log.warning("message_refused", reason=str(error)[:200], **told)
            return None

    def _decode(self, received: MessageReceived) -> Event | None:
        match self._topics.parse(received.topic):
            case CoordinatorStateTopic():
                state = self._reader.decode(received.topic, received.payload)
                if isinstance(state, CoordinatorState):
                    return CoordinatorHeard(state=state)
            case HelperCommandTopic(helper=helper) if helper == self._helper and not received.retained:
                return self._command(self._reader.decode(received.topic, received.payload))
            case HelperStateTopic():
                return None  # our own, which the transport watches for a second process with our name
        raise MalformedMessage(f"topic {received.topic[:128]!r} does not carry this message to a helper")

    def _command(self, command: Message) -> Event | None:
        match command:
            case SealedSeeds():
                return self._seeds(command)
            case SumRequest():
                return RequestReceived(request=command)
            case Grant():
                return GrantReceived(grant=command)
            case RetryAfter():
                return None  # the coordinator asks again
            case _:
                raise MalformedMessage(f"a {type(command).__name__} is no command to a helper")

    def _seeds(self, sealed: SealedSeeds) -> SeedsReceived:
        digest = payload_digest(sealed.ticket)
        update, reason = self._opened(sealed, digest)
        base = None if update is None else self._store.base_digest(sealed.run, update[0].base_version)
        return SeedsReceived(
            sealed=sealed,
            ticket=digest,
            update=update,
            reason=reason,
            known=self._store.known_ticket(sealed.run, sealed.update),
            base=base,
            oldest=self._store.newest_version(sealed.run) - self._rules.versions_back,
            held=self._store.held_count(),
            taking=None if update is None else self._store.taking(sealed.run, update[0].node),
            releases=self._store.released(sealed.run).releases,
        )

    def _opened(self, sealed: SealedSeeds, digest: Digest) -> tuple[tuple[HeldUpdate, HeldSeeds] | None, SumReason]:
        """The ticket as its node has signed it, and the box as it was sealed; or why there is none."""
        node = NodeId(sealed.update.partition("-")[2])
        try:
            ticket = self._tickets.decode(self._topics.node_ticket(node), sealed.ticket)
        except RemoteProtocolError:
            return None, SumReason.BAD_TICKET if self._register.knows(node) else SumReason.UNKNOWN_NODE
        if not isinstance(ticket, Ticket) or (ticket.run, ticket.update) != (sealed.run, sealed.update):
            return None, SumReason.BAD_TICKET
        try:
            seeds = open_seeds(self._store.keys(), ticket, sealed.box)
        except BadSeal:
            return None, SumReason.BAD_BOX
        update = HeldUpdate(
            run=ticket.run,
            update=ticket.update,
            ticket=digest,
            node=node,
            base_version=ticket.base_version,
            base_digest=ticket.base_digest,
            terms=ticket.terms,
            place=seeds.place,
            count=seeds.count,
            threshold=seeds.threshold,
        )
        return (update, seeds), SumReason.NONE
