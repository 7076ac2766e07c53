"""What a node shows of this run's coordinator, that our own key has signed, each time for the topic where we say it."""

from coordinator.storage.store import CoordinatorStore
from federation.errors import BadSignature, MalformedMessage
from federation.protocol.messages import CoordinatorState, Message, Proof, Receipt, RoundAnnouncement
from federation.protocol.signing import Signer, signed_digest
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, split_signature
from federation.types import NO_START, Epoch, NodeId, SeenRun, round_of

__all__ = ["is_own", "proved_by"]


def is_own(signer: Signer, topics: Topics, topic: str, payload: bytes) -> bool:
    """Whether this key has signed a payload for this topic: Ed25519 signs the same bytes alike, each time."""
    body, signature = split_signature(payload)
    return signer.sign(signed_digest(topics, topic, body)) == signature


def proved_by(
    proof: Proof, node: NodeId, signer: Signer, topics: Topics, store: CoordinatorStore
) -> tuple[SeenRun, ...]:
    """What was seen of a run, as our own words tell [FED-130].

    A receipt names no start: it would be taken for one of an earlier start. Where its verdict stands in our own store
    it is left out [FED-291].

    Args:
        proof: What the node shows.
        node: Who shows it.
        signer: Our own key.
        topics: The federation's tree.
        store: Ours.

    Raises:
        BadSignature: Somebody else has made it.
        MalformedMessage: It is no message.
        StorageError: The store cannot be read.
    """
    own = topics.node_command(node)
    shown = (
        ((topics.coordinator_state,), proof.state),
        ((topics.round, own), proof.announcement),
        ((own,), proof.receipt),
    )
    proved = []
    for places, payload in shown:
        if payload is None:
            continue
        if not any(is_own(signer, topics, place, payload) for place in places):
            raise BadSignature("a proof that this coordinator has not signed")
        said = decode_message(payload)
        seen = _seen(said)
        if not (isinstance(said, Receipt) and _stands(said, store)):
            proved.append(seen)
    return tuple(proved)


def _seen(message: Message) -> SeenRun:
    match message:
        case CoordinatorState():
            return SeenRun(run=message.run, epoch=message.epoch, start=message.start or NO_START)
        case RoundAnnouncement():
            version = message.model.version
            return SeenRun(run=message.run, epoch=message.epoch, round=message.round, version=version)
        case Receipt(version=version) if version is not None:
            return SeenRun(run=message.run, epoch=Epoch(0), round=round_of(message.update), version=version)
        case _:
            raise MalformedMessage(f"a {type(message).__name__} proves nothing")


def _stands(receipt: Receipt, store: CoordinatorStore) -> bool:
    """Whether the store has the verdict as the receipt says it."""
    known = store.verdict(receipt.update)
    return known is not None and (known.status, known.version) == (receipt.status, receipt.version)
