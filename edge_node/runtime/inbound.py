"""From what the transport delivers to the machine's events: parse the topic, decode the message, refuse the rest."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast, get_args

from edge_node.engine.events import (
    AnnouncementReceived,
    BrokerConnected,
    BrokerDisconnected,
    CommandReceived,
    CoordinatorStateReceived,
    Event,
    MessageRefused,
    ModelChunkReceived,
)
from edge_node.runtime.known_helpers import KnownHelpers
from edge_node.runtime.sealing import NodeSealing
from edge_node.training.masking import Masking
from federation.errors import LocalProtocolError, MalformedMessage, RemoteProtocolError, TransportError
from federation.identity.helper_keys import PinnedHelper
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    EvaluationReceipt,
    Grant,
    Message,
    Rebirth,
    Receipt,
    RetryAfter,
    RoundAnnouncement,
)
from federation.protocol.sealed_messages import KeyWrap
from federation.protocol.signing import Reader, Verifier
from federation.protocol.sum_messages import Ticket
from federation.protocol.topics import (
    CoordinatorStateTopic,
    HelperStateTopic,
    ModelChunkTopic,
    NodeCommandTopic,
    NodeKeyTopic,
    RoundTopic,
    Topics,
)
from federation.runtime.log import get_log
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, TransportFailed
from federation.types import Digest, NodeId

__all__ = ["Inbound"]

_EVENTS = get_args(Event)

DESCRIPTIONS_MAX = 4
"""Runs whose inputs are remembered: so many does a node keep, too."""


class Inbound:
    """Translates inbox items of one node.

    Args:
        topics: The federation's tree.
        node: Who listens.
        verifier: The coordinator's key; None believes what is not signed.
        sealing: Opens what is sealed; None opens nothing.
        helpers: The pinned ones, in the order of their keys: only with these can they say where to seal to.
        folder: The state folder, where their words are kept; None keeps none.

    Attributes:
        refused: Messages that were refused, by kind of error.
    """

    def __init__(
        self,
        topics: Topics,
        node: NodeId,
        verifier: Verifier | None = None,
        sealing: NodeSealing | None = None,
        helpers: Iterable[PinnedHelper] = (),
        folder: Path | None = None,
    ) -> None:
        self._topics, self._node, self._sealing = topics, node, sealing
        self._reader = Reader(topics, verifier, sealing)
        self._helpers = KnownHelpers(topics, helpers, folder)
        self._log = get_log("inbound")
        self.refused: Counter[str] = Counter()
        self._inputs: dict[Digest, str] = {}

    def inputs_of(self, digest: Digest | None) -> str | None:
        """What the coordinator of a run has said of its inputs, by the digest in its announcements; None: nothing."""
        return None if digest is None else self._inputs.get(digest)

    def _hear_inputs(self, text: str | None) -> None:
        if text is not None:
            self._inputs[payload_digest(text.encode())] = text
            while len(self._inputs) > DESCRIPTIONS_MAX:
                del self._inputs[next(iter(self._inputs))]

    def masking(self, sign: Callable[[Ticket], bytes]) -> Masking | str:
        """What it takes to mask for the pinned helpers, or which of them has not been heard."""
        return self._helpers.masking(sign)

    @property
    def keeps_helpers(self) -> bool:
        """Whether what is known of the helpers is on the disk."""
        return self._helpers.kept

    def keep_helpers(self) -> None:
        """Try again to write what is known of the helpers, where the disk was full."""
        self._helpers.keep()

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
                return BrokerDisconnected(reason=item.reason)
            case TransportFailed():
                raise TransportError(item.reason)
            case _ if isinstance(item, _EVENTS):
                return cast("Event", item)
            case _:
                raise LocalProtocolError(f"nothing handles {type(item).__name__}")

    def _message(self, message: MessageReceived) -> Event | None:
        if not message.payload:
            return None  # a retained message was cleared: state is read from what replaces it
        try:
            return self._decode(message)
        except RemoteProtocolError as error:
            kind = type(error).__name__
            self.refused[kind] += 1
            count = self.refused[kind]
            if str(count).strip("0") == "1":  # the first, the tenth, the hundredth ...: a flood is a few lines
                fields = {"topic": message.topic[:128], "kind": kind, "count": count}
                self._log.warning("message_refused", reason=str(error)[:200], **fields)
            return MessageRefused(topic=message.topic, reason=str(error))

    def _decode(self, message: MessageReceived) -> Event | None:
        place = self._topics.parse(message.topic)
        if isinstance(place, ModelChunkTopic):
            body = message.payload
            if self._sealing is not None:
                body = self._sealing.part_chunk(place.version, place.segment, place.index, body)
            return ModelChunkReceived(version=place.version, segment=place.segment, index=place.index, body=body)
        if isinstance(place, HelperStateTopic):
            self._helpers.hear(place.helper, message.payload)
            return None
        decoded, payload = self._reader.read(message.topic, message.payload)
        match place, decoded:
            case CoordinatorStateTopic(), CoordinatorState() as state:
                return self._heard(state, payload)
            case RoundTopic(), RoundAnnouncement() as announcement:
                return self._announced(announcement, payload)
            case NodeKeyTopic(node=node), KeyWrap() as wrap if node == self._node:
                if self._sealing is not None:
                    self._sealing.wrapped(message.topic, wrap)
                return None
            case NodeCommandTopic(node=node), command if node == self._node:
                return self._command(command, payload, closed=payload != message.payload)
        raise MalformedMessage(f"topic {message.topic[:128]!r} does not carry this message to a node")

    def _heard(self, state: CoordinatorState, payload: bytes) -> Event:
        self._hear_inputs(state.inputs)
        if self._sealing is not None:
            self._sealing.hear(state)
        return CoordinatorStateReceived(state=state, payload=payload)

    def _announced(self, announcement: RoundAnnouncement, payload: bytes, *, invited: bool = False) -> Event:
        self.keep_helpers()
        if self._sealing is not None:
            announcement = self._sealing.announced(announcement)
        return AnnouncementReceived(announcement=announcement, payload=payload, invited=invited)

    def _command(self, command: Message, payload: bytes, *, closed: bool) -> Event:
        if isinstance(command, RoundAnnouncement):
            # Out of an envelope it has no signature of its own, and proves nothing.
            return self._announced(command, b"" if closed else payload, invited=True)
        if not isinstance(command, Receipt | Grant | Cancel | RetryAfter | Rebirth | EvaluationReceipt):
            raise MalformedMessage(f"a {type(command).__name__} is no command")
        if isinstance(command, Receipt):
            told = {"run": command.run, "update": command.update, "status": command.status, "reason": command.reason}
            version = {} if command.version is None else {"version": command.version}
            self._log.info("receipt", **told, **version)
        return CommandReceived(command=command, payload=payload)
