"""A sealed federation's messages, by hand: announcements, offers and births that tests seal and open."""

from edge_node.runtime.sealing import NodeSealing
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import (
    CoordinatorState,
    Decline,
    ModelPart,
    ModelRef,
    NodeState,
    PartKind,
    Presence,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.topics import Topics
from federation.types import (
    Digest,
    Epoch,
    FederationId,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    Start,
    UpdateId,
)

RUN = RunId("0123456789abcdef")
TOPICS = Topics(FederationId("plant"))
PRESS, MILL = NodeId("press"), NodeId("mill")
EVENTS, COMMANDS = TOPICS.node_event(PRESS), TOPICS.node_command(PRESS)
DAY_S = 86_400.0
KEYFRAME = bytes(range(200))
DELTA = b"a small delta"
RECEIPT = Receipt(run=RUN, update=UpdateId("3-press"), status=ReceiptStatus.STORED)
DECLINE = Decline(run=RUN, round=RoundId(3), reason="battery")


def part(kind: PartKind, version: int, content: bytes, chunk_bytes: int = 90) -> ModelPart:
    return ModelPart(
        kind=kind,
        version=ModelVersion(version),
        payload_bytes=len(content),
        payload_digest=payload_digest(content),
        chunk_bytes=chunk_bytes,
    )


def state(*, epoch: int = 1, presence: Presence = Presence.ONLINE) -> CoordinatorState:
    return CoordinatorState(
        presence=presence, run=RUN, epoch=Epoch(epoch), protocol_min=1, protocol_max=1, start=Start(5)
    )


def announcement(*parts: ModelPart, delta: bytes | None = None) -> RoundAnnouncement:
    digest = Digest(b"m" * 16)
    model = ModelRef(
        version=parts[0].version, digest=digest, manifest_digest=digest, seed=None, parts=parts, delta=delta
    )
    return RoundAnnouncement(
        run=RUN,
        epoch=Epoch(1),
        round=RoundId(3),
        task="t",
        model=model,
        cohort=NOBODY,
        settings=TrainSettings(),
        codec="edge",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
    )


def offer(payload: bytes, *, inline: bool, chunk_bytes: int = 40) -> UpdateOffer:
    return UpdateOffer(
        run=RUN,
        round=RoundId(3),
        update=UpdateId("3-press"),
        incarnation=Incarnation(1),
        base_version=ModelVersion(0),
        base_digest=Digest(b"b" * 16),
        num_examples=600,
        metrics={"loss": 0.5},
        codec="edge",
        payload_bytes=len(payload),
        payload_digest=payload_digest(payload),
        chunk_bytes=chunk_bytes,
        inline=payload if inline else None,
    )


def born(node: NodeSealing) -> NodeState:
    said = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
    return node.stated(said)
