"""From what the transport delivers to the machine's events: parse the topic, decode the message, refuse the rest."""

from collections import Counter
from typing import cast, get_args

from edge_node.actions import (
    AnnouncementReceived,
    BrokerConnected,
    BrokerDisconnected,
    CommandReceived,
    CoordinatorStateReceived,
    Event,
    MessageRefused,
    ModelChunkReceived,
)
from federation.errors import LocalProtocolError, MalformedMessage, RemoteProtocolError, TransportError
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    Grant,
    Rebirth,
    Receipt,
    RetryAfter,
    RoundAnnouncement,
)
from federation.protocol.topics import CoordinatorStateTopic, ModelChunkTopic, NodeCommandTopic, RoundTopic, Topics
from federation.protocol.wire import decode_message
from federation.runtime.log import get_log
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, TransportFailed
from federation.types import NodeId

__all__ = ["Inbound"]

_EVENTS = get_args(Event)


class Inbound:
    """Translates inbox items of one node.

    Attributes:
        refused: Messages that were refused, by kind of error.
    """

    def __init__(self, topics: Topics, node: NodeId) -> None:
        self._topics, self._node = topics, node
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
            if self.refused[kind] == 1:
                self._log.warning("message_refused", topic=message.topic[:128], kind=kind, reason=str(error)[:200])
            return MessageRefused(topic=message.topic, reason=str(error))

    def _decode(self, message: MessageReceived) -> Event:
        match self._topics.parse(message.topic):
            case ModelChunkTopic(version=version, segment=segment, index=index):
                return ModelChunkReceived(version=version, segment=segment, index=index, body=message.payload)
            case CoordinatorStateTopic():
                state = decode_message(message.payload)
                if isinstance(state, CoordinatorState):
                    return CoordinatorStateReceived(state=state)
            case RoundTopic():
                announcement = decode_message(message.payload)
                if isinstance(announcement, RoundAnnouncement):
                    return AnnouncementReceived(announcement=announcement)
            case NodeCommandTopic(node=node) if node == self._node:
                return self._command(message.payload)
        raise MalformedMessage(f"topic {message.topic[:128]!r} does not carry this message to a node")

    def _command(self, payload: bytes) -> CommandReceived:
        command = decode_message(payload)
        if not isinstance(command, Receipt | Grant | Cancel | RetryAfter | Rebirth):
            raise MalformedMessage(f"a {type(command).__name__} is no command")
        if isinstance(command, Receipt):
            version = {} if command.version is None else {"version": command.version}
            self._log.info("receipt", update=command.update, status=command.status, reason=command.reason, **version)
        return CommandReceived(command=command)
