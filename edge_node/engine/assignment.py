"""One assignment: the round that asks, the model to train from, how far it got, and the offer that comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from edge_node.engine.effects import Effect, Note, PublishEvent, PublishProgress
from edge_node.engine.fetch import CHUNKS_MISSING, Fetch
from edge_node.engine.settings import NodeSettings
from edge_node.records import FinishedTraining
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import fit_metrics, fit_text
from federation.protocol.messages import Activity, Decline, ModelRef, PartKind, Progress, RoundAnnouncement, UpdateOffer
from federation.types import Incarnation, RoundId, RunId, update_id

__all__ = ["Assignment", "Stage", "declined", "joined", "news_of", "offer_of", "summary_of"]


class Stage(StrEnum):
    """How far an assignment got."""

    WAITING = "waiting"
    FETCHING = "fetching"
    ADOPTING = "adopting"
    EVALUATING = "evaluating"
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
        trains: Whether it is asked to train; else only to evaluate.
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
    trains: bool = True
    tell_at: float | None = None
    train_until: float | None = None

    @property
    def round(self) -> RoundId:
        """The round that asked."""
        return self.announcement.round

    @property
    def fetch_due(self) -> float | None:
        """When the patience with the fetch ends, in monotonic seconds."""
        return None if self.fetch is None else self.fetch.deadline()

    # --- how far it got ---------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Begin again."""
        self.stage, self.fetch = Stage.WAITING, None

    def retarget(self, model: ModelRef) -> list[Effect]:
        """Train from a newer model; what was being pulled is no longer wanted."""
        effects = [] if self.fetch is None else self.fetch.stop()
        self.model, self.fetch, self.keyframe = model, None, False
        return effects

    def want_keyframe(self) -> None:
        """Nothing else has led to the model."""
        self.keyframe = True

    def begin_fetch(self, fetch: Fetch, tell_at: float | None) -> None:
        """Pull the model; telemetry says so at ``tell_at`` (monotonic seconds), None is never."""
        self.stage, self.fetch = Stage.FETCHING, fetch
        self.keyframe = fetch.parts[0].kind is PartKind.KEYFRAME
        self.tell_at = self.tell_at if tell_at is None else tell_at

    def follow(self, fetch: Fetch, step: Callable[[Fetch], list[Effect]]) -> list[Effect]:
        """Let the pull take one step, and count its bytes."""
        before = fetch.received_bytes
        effects = step(fetch)
        self.fetched_bytes += fetch.received_bytes - before
        return effects

    def begin_adoption(self) -> None:
        """The parts are here, or none are needed."""
        self.stage, self.fetch = Stage.ADOPTING, None

    def begin_evaluation(self) -> None:
        """The model is here."""
        self.stage, self.fetch = Stage.EVALUATING, None

    def begin_training(self, settings: NodeSettings, now: float) -> None:
        """The model is here, and evaluated where that was asked."""
        self.stage, self.fetch = Stage.TRAINING, None
        self.tell_at = now + settings.progress_after_s
        self.train_until = now + settings.bounds.train_s_max if settings.bounds.train_s_max else None

    def also_train(self, announcement: RoundAnnouncement, now: float) -> None:
        """A newer round asks to train from the same model."""
        self.announcement, self.trains = announcement, True
        self.lease_at, self.overdue = now + announcement.lease_s, False

    def only_evaluate(self) -> None:
        """The round is called back; the evaluation is another matter."""
        self.trains = False

    # --- what can be asked of it ------------------------------------------------------------------------------------

    def is_about(self, model: ModelRef) -> bool:
        """Whether this is the model; one with the same bits and an older number would only make a stale update."""
        return (self.model.version, self.model.digest) == (model.version, model.digest)

    def is_trained_by(self, round_id: RoundId, run: RunId | None) -> bool:
        """Whether it waits for what a training of this round has made; None is a trainer that does not say the run."""
        return self.stage is Stage.TRAINING and self.round == round_id and run in (None, self.announcement.run)

    def is_starved(self, models: Sequence[ModelRef], *, soon: bool) -> bool:
        """Whether it pulls what the broker does not keep any more: none of the models that are kept names it [FED-35].

        Args:
            models: What the newest announcement is about, and perhaps the one before it.
            soon: Only when nothing has come yet: what is on its way comes all the same.
        """
        fetch = self.fetch
        return fetch is not None and not fetch.is_named(models) and (fetch.is_empty_handed or not soon)

    def next_due(self) -> float | None:
        """When something is to be done next, in monotonic seconds."""
        times = [None if self.overdue else self.lease_at, self.fetch_due, self.tell_at, self.train_until]
        if self.stage is Stage.WAITING:
            times.append(self.due_at)
        return min((time for time in times if time is not None), default=None)


def joined(assignment: Assignment) -> Note:
    """The log line of a node that has taken an assignment."""
    event = "round_joined" if assignment.trains else "evaluation_joined"
    return Note(event=event, fields={"round": assignment.round, "version": assignment.model.version})


def declined(announcement: RoundAnnouncement, reason: str, retry_after_s: float) -> list[Effect]:
    """What a node says that will not train."""
    decline = Decline(
        run=announcement.run,
        round=announcement.round,
        reason=fit_text(reason),
        retry_after_s=retry_after_s,
        missing=True if reason == CHUNKS_MISSING else None,
    )
    note = Note(event="round_declined", fields={"round": announcement.round, "reason": decline.reason})
    return [PublishEvent(message=decline), note]


def news_of(job: Assignment, activity: Activity, now: float) -> list[Effect]:
    """What is to be said of an assignment that takes long, each once."""
    effects: list[Effect] = []
    if not job.overdue and now >= job.lease_at:
        # The work goes on: a late update may still count, and its receipt says so.
        job.overdue = True
        effects.append(Note(event="lease_passed", fields={"round": job.round, "stage": job.stage.value}))
    if job.tell_at is not None and now >= job.tell_at:
        job.tell_at = None
        effects.append(PublishProgress(progress=Progress(round=job.round, activity=activity)))
    return effects


def summary_of(job: Assignment | None) -> dict[str, object]:
    """An assignment as plain data."""
    return {
        "round": None if job is None or not job.trains else job.round,
        "stage": None if job is None else job.stage.value,
        "version": None if job is None else job.model.version,
        "overdue": job is not None and job.overdue,
    }


def offer_of(
    assignment: Assignment, result: FinishedTraining, settings: NodeSettings, incarnation: Incarnation
) -> UpdateOffer:
    """The offer of a finished training, without the payload: staleness and weight travel in it.

    Beside a masked update no number of this node travels: what there is to say is in its tail [FED-159].
    """
    masked = result.masked
    return UpdateOffer(
        run=assignment.announcement.run,
        round=assignment.round,
        update=update_id(assignment.round, settings.node),
        incarnation=incarnation,
        base_version=assignment.model.version,
        base_digest=assignment.model.digest,
        num_examples=result.num_examples if masked is None else 1,
        metrics=fit_metrics(result.metrics) if masked is None else {},
        codec=result.codec or assignment.announcement.codec,
        payload_bytes=len(result.frame),
        payload_digest=payload_digest(result.frame),
        chunk_bytes=settings.chunk_bytes,
        fetched_bytes=assignment.fetched_bytes,
        train_s=result.train_s if masked is None else 0.0,
        ticket=None if masked is None else masked.ticket,
        boxes=None if masked is None else masked.boxes,
        members=result.members or None,
    )
