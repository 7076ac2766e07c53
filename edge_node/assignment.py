"""One assignment: the round that asks, the model to train from, how far it got, and the offer that comes of it."""

from dataclasses import dataclass
from enum import StrEnum

from edge_node.actions import FinishedTraining, Note
from edge_node.fetch import Fetch
from edge_node.terms import NodeSettings
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import fit_metrics
from federation.protocol.messages import ModelRef, RoundAnnouncement, UpdateOffer
from federation.types import Incarnation, RoundId, update_id

__all__ = ["Assignment", "Stage", "joined", "offer_of"]


class Stage(StrEnum):
    """How far an assignment got."""

    WAITING = "waiting"
    FETCHING = "fetching"
    ADOPTING = "adopting"
    TRAINING = "training"


@dataclass(slots=True, kw_only=True)
class Assignment:
    """One round at work.

    Attributes:
        announcement: Whose round, settings and codec.
        model: What to train from: the announcement's, or that of a newer one that asked others.
        due_at: When the node reacts, in monotonic seconds.
        lease_at: When the coordinator stops waiting for it, in monotonic seconds.
        stage: How far it got.
        fetch: The pull of the model, while there is one.
        keyframe: A keyframe is being pulled or was: the last resort, tried once.
        fetched_bytes: Chunk bodies that came for it.
        overdue: The lease has passed, and the log knows it.
        tell_at: When telemetry says what the node is doing, in monotonic seconds; None when it has said it.
        train_until: When a training that still runs is given up, in monotonic seconds; None is never.
    """

    announcement: RoundAnnouncement
    model: ModelRef
    due_at: float
    lease_at: float
    stage: Stage = Stage.WAITING
    fetch: Fetch | None = None
    keyframe: bool = False
    fetched_bytes: int = 0
    overdue: bool = False
    tell_at: float | None = None
    train_until: float | None = None

    @property
    def round(self) -> RoundId:
        """The round that asked."""
        return self.announcement.round


def joined(assignment: Assignment) -> Note:
    """The log line of a node that has taken an assignment."""
    return Note(event="round_joined", fields={"round": assignment.round, "version": assignment.model.version})


def offer_of(
    assignment: Assignment, result: FinishedTraining, settings: NodeSettings, incarnation: Incarnation
) -> UpdateOffer:
    """The offer of a finished training, without the payload: staleness and weight travel in it."""
    return UpdateOffer(
        run=assignment.announcement.run,
        round=assignment.round,
        update=update_id(assignment.round, settings.node),
        incarnation=incarnation,
        base_version=assignment.model.version,
        base_digest=assignment.model.digest,
        num_examples=result.num_examples,
        metrics=fit_metrics(result.metrics),
        codec=result.codec or assignment.announcement.codec,
        payload_bytes=len(result.frame),
        payload_digest=payload_digest(result.frame),
        chunk_bytes=settings.chunk_bytes,
        fetched_bytes=assignment.fetched_bytes,
        train_s=result.train_s,
    )
