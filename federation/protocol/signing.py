"""Signed messages: what a signature covers, who must have made it, and the two ends that write and read them.

A signature covers the federation, the topic below it and every byte of the message, so that a broker can neither alter
a message nor move it to another topic, node or federation (PROTOCOL.md, FED-75 to FED-77). The keys are objects that
are passed in: nothing here knows how one is kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol

from federation.errors import BadSeal, BadSignature
from federation.protocol.limits import SIGNATURE_BYTES
from federation.protocol.messages import Message
from federation.protocol.sealed_messages import Sealed
from federation.protocol.topics import (
    HelperChunkTopic,
    HelperEventTopic,
    HelperStateTopic,
    NodeEventTopic,
    NodeStateTopic,
    NodeTelemetryTopic,
    NodeTicketTopic,
    Topics,
)
from federation.protocol.wire import decode_message, encode_message, split_signature, unsigned
from federation.types import NodeId, SumHelper

__all__ = ["Opener", "Reader", "Sealer", "Sender", "Signer", "Verifier", "Writer", "signed_digest"]

_PERSON: Final = b"fedmq-signature1"
_DIGEST_BYTES: Final = 64


Sender = NodeId | SumHelper | None
"""Who owns a topic: a node, a helper, or the coordinator (None)."""


class Signer(Protocol):
    """A participant's own key."""

    def sign(self, digest: bytes) -> bytes:
        """The signature of a digest, `SIGNATURE_BYTES` long."""


class Verifier(Protocol):
    """The keys of those who may be heard."""

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether ``sender`` has signed this; None is the coordinator. Never raises."""


class Sealer(Protocol):
    """Closes what one participant says to everybody but its reader."""

    @property
    def on(self) -> bool:
        """Whether anything is sealed at all."""

    def sealed(self, topic: str, message: Message) -> Message:
        """What is said on a topic: an envelope, or the message itself where nothing is sealed there."""


class Opener(Protocol):
    """Opens what is sealed to one participant."""

    def opened(self, topic: str, sealed: Sealed) -> tuple[Message, bytes]:
        """What is in an envelope, and its bytes; raises `BadSeal` or `MalformedMessage`."""


def signed_digest(topics: Topics, topic: str, body: bytes) -> bytes:
    """What is signed: 64 bytes of BLAKE2b over the federation, the topic below it, and the message's bytes.

    Args:
        topics: The federation's tree.
        topic: A topic of it.
        body: All bytes of the message before the signature.
    """
    place = f"{topics.federation}/{topics.below(topic)}\n".encode("ascii")
    return blake2b(place + body, digest_size=_DIGEST_BYTES, person=_PERSON).digest()


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the bytes of what one participant says: sealed, then signed, each only with a key for it."""

    topics: Topics
    signer: Signer | None = None
    sealer: Sealer | None = None

    def encode(self, topic: str, message: Message) -> bytes:
        """The bytes of ``message`` for ``topic``.

        Raises:
            LocalProtocolError: A value is outside its field's limits: a bug of the caller's.
        """
        if self.sealer is not None and self.sealer.on:
            message = self.sealer.sealed(topic, message)
        signer = self.signer
        if signer is None:
            return encode_message(message)
        return encode_message(message, sign=lambda body: signer.sign(signed_digest(self.topics, topic, body)))

    def encode_each(self, topics: Iterable[str], message: Message) -> Iterator[tuple[str, bytes]]:
        """Each topic with the bytes of ``message`` for it: spelled once, where each reader gets the same.

        Raises:
            LocalProtocolError: A value is outside its field's limits: a bug of the caller's.
        """
        if self.sealer is not None and self.sealer.on:
            yield from ((topic, self.encode(topic, message)) for topic in topics)
            return
        signer = self.signer
        body = encode_message(message) if signer is None else unsigned(message)
        for topic in topics:
            sign = b"" if signer is None else signer.sign(signed_digest(self.topics, topic, body))
            yield topic, body + sign


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what one participant hears; without a verifier a signature is a field that nobody knows."""

    topics: Topics
    verifier: Verifier | None = None
    opener: Opener | None = None

    def decode(self, topic: str, payload: bytes) -> Message:
        """The message on ``topic``: see `read`."""
        return self.read(topic, payload)[0]

    def read(self, topic: str, payload: bytes) -> tuple[Message, bytes]:
        """The message on ``topic``, and its own bytes, which are those in its envelope where it came in one.

        With a verifier nothing is parsed that the topic's owner has not signed.

        Raises:
            MalformedTopic: The topic is outside the federation's tree.
            BadSignature: It is not signed, or not by the one who may speak there.
            IncompatibleVersion: The peer speaks another version of the protocol.
            BadSeal: It is sealed, and not to this participant.
            MalformedMessage: It is not a message.
        """
        if self.verifier is not None:
            self._check(self.verifier, topic, payload)
        message = decode_message(payload)
        if not isinstance(message, Sealed):
            return message, payload
        if self.opener is None:
            raise BadSeal("it is sealed, and this participant has no key")
        return self.opener.opened(topic, message)

    def _check(self, verifier: Verifier, topic: str, payload: bytes) -> None:
        sender = self._sender(topic)
        body, signature = split_signature(payload)
        if len(signature) != SIGNATURE_BYTES:
            raise BadSignature("it is not signed")
        if not verifier.verify(sender, signed_digest(self.topics, topic, body), signature):
            raise BadSignature(f"not signed by {_named(sender)} for this topic")

    def _sender(self, topic: str) -> Sender:
        match self.topics.parse(topic):
            case NodeStateTopic(node=node) | NodeEventTopic(node=node) | NodeTelemetryTopic(node=node):
                return node
            case NodeTicketTopic(node=node):
                return node
            case HelperStateTopic(helper=helper) | HelperEventTopic(helper=helper) | HelperChunkTopic(helper=helper):
                return SumHelper(name=helper)
            case _:
                return None


def _named(sender: Sender) -> str:
    match sender:
        case None:
            return "the coordinator"
        case SumHelper(name=name):
            return f"helper {name}"
        case _:
            return sender
