"""A node's machine on a fake clock: say what happens, read what it does as one line per effect."""

from collections.abc import Callable, Mapping, Sequence

from edge_node.engine.effects import (
    AdoptModel,
    Effect,
    EnterRun,
    MakeInitialModel,
    MarkStored,
    Note,
    PublishEvent,
    PublishProgress,
    PublishState,
    Rest,
    SaveOutbox,
    SaveProgress,
    SaveSeen,
    SaveSpent,
    SendChunks,
    SendOffer,
    SettleUpdate,
    StartEvaluation,
    StartTraining,
    Stop,
    StopTraining,
    SubscribeSegment,
    UnsubscribeSegment,
)
from edge_node.engine.events import (
    AnnouncementReceived,
    BrokerConnected,
    CommandReceived,
    CoordinatorStateReceived,
    Event,
    ModelChunkReceived,
    ModelReady,
    OutboxSaved,
    TrainingFinished,
)
from edge_node.engine.machine import NodeMachine, NodeSettings, TrainBounds
from edge_node.records import FinishedTraining, OutboxEntry, RecoveredNode
from federation.protocol.chunking import chunk_count, payload_digest, segments, split
from federation.protocol.cohort import EVERYONE, NOBODY
from federation.protocol.messages import (
    Cancel,
    Cohort,
    CoordinatorState,
    Decline,
    EvaluationReceipt,
    EvaluationReport,
    Grant,
    ModelPart,
    ModelRef,
    PartKind,
    Presence,
    Proof,
    Reason,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RetryAfter,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import (
    Digest,
    Epoch,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    Start,
    StateId,
    UpdateId,
    update_id,
)

RUN = RunId("00000000000000aa")
OTHER_RUN = RunId("00000000000000bb")
NODE = NodeId("pi-3")
STATE = StateId(2**64 - 5)
CHUNK = 10
"""Bytes of a chunk in these scripts."""


def version_digest(version: int) -> Digest:
    return payload_digest(f"version {version}".encode())


def content(kind: PartKind, version: int, size: int) -> bytes:
    return (f"{kind}-{version}-".encode() * size)[:size]


def part(kind: PartKind, version: int, size: int, chunk_bytes: int = CHUNK) -> ModelPart:
    digest = payload_digest(content(kind, version, size))
    number = ModelVersion(version)
    return ModelPart(kind=kind, version=number, payload_bytes=size, payload_digest=digest, chunk_bytes=chunk_bytes)


def keyframe(version: int, size: int = 25) -> ModelPart:
    return part(PartKind.KEYFRAME, version, size)


def delta(version: int, size: int = 5) -> ModelPart:
    return part(PartKind.DELTA, version, size)


def model(version: int, parts: Sequence[ModelPart] | None = None, seed: int | None = None) -> ModelRef:
    return ModelRef(
        version=ModelVersion(version),
        digest=version_digest(version),
        manifest_digest=payload_digest(b"manifest"),
        seed=seed,
        parts=(keyframe(version),) if parts is None else tuple(parts),
    )


def announcement(
    round_id: int,
    about: ModelRef | int = 0,
    *,
    cohort: Cohort = EVERYONE,
    epoch: int = 1,
    run: RunId = RUN,
    min_base: int = 0,
    lease_s: float = 600.0,
    spread_s: float = 0.0,
    final: bool = False,
    task: str = "toy",
    codec: str = "lossless",
    settings: TrainSettings | None = None,
    privacy: PrivacyTerms | None = None,
) -> RoundAnnouncement:
    return RoundAnnouncement(
        run=run,
        epoch=Epoch(epoch),
        round=RoundId(round_id),
        task=task,
        model=model(about) if isinstance(about, int) else about,
        cohort=NOBODY if final else cohort,
        settings=settings or TrainSettings(),
        codec=codec,
        min_base_version=ModelVersion(min_base),
        lease_s=lease_s,
        spread_s=spread_s,
        final=final,
        privacy=privacy,
    )


def entry(round_id: int, *, stored: bool = False, size: int = 25, run: RunId = RUN, version: int = 0) -> OutboxEntry:
    return OutboxEntry(
        offer=UpdateOffer(
            run=run,
            round=RoundId(round_id),
            update=update_id(RoundId(round_id), NODE),
            incarnation=Incarnation(1),
            base_version=ModelVersion(version),
            base_digest=version_digest(version),
            num_examples=10,
            metrics={},
            codec="lossless",
            payload_bytes=size,
            payload_digest=payload_digest(bytes(size)),
            chunk_bytes=CHUNK,
        ),
        stored=stored,
    )


def result(round_id: int, size: int = 5, run: RunId | None = None) -> FinishedTraining:
    return FinishedTraining(
        round=RoundId(round_id), frame=bytes(size), num_examples=10, metrics={"loss": 0.5}, train_s=2.0, run=run
    )


def holding(version: int, *, last_round: int | None = None, outbox: Sequence[OutboxEntry] = ()) -> RecoveredNode:
    return RecoveredNode(
        run=RUN,
        last_round=None if last_round is None else RoundId(last_round),
        held_version=ModelVersion(version),
        held_digest=version_digest(version),
        outbox=tuple(outbox),
    )


def bitmap(count: int, arrived: Sequence[int]) -> bytes:
    return sum(1 << index for index in arrived).to_bytes(-(-count // 8), "little")


class Script:
    """One node's machine and its time.

    Attributes:
        now: Monotonic seconds.
        effects: What the last event led to.
        updates: Size of each update that the machine wanted to save, in bytes.
    """

    def __init__(
        self,
        recovered: RecoveredNode | None = None,
        *,
        draw: float = 0.0,
        online: bool = True,
        gate: Callable[[], str | None] | None = None,
        has: Callable[[], Mapping[str, float]] | None = None,
        **changes: object,
    ) -> None:
        given = {
            "node": NODE,
            "task": "toy",
            "chunk_bytes": CHUNK,
            "bounds": TrainBounds(model_bytes_max=9_999),
            "progress_after_s": 1e9,  # telemetry is no concern of most tests
        }
        self.settings = NodeSettings(**{**given, **changes})  # type: ignore[arg-type]
        known = recovered or RecoveredNode()
        self.machine = NodeMachine(
            self.settings, Incarnation(7), known, rng=lambda: draw, state_id=STATE, gate=gate, device=has
        )
        self.now = 100.0
        self.effects: list[Effect] = []
        if online:
            self.connect()

    # --- time -------------------------------------------------------------------------------------------------------

    def on(self, event: Event | None) -> list[str]:
        self.effects = self.machine.handle(event, self.now)
        return [line for line in map(say, self.effects) if line]

    def wait(self) -> list[str]:
        """Let time pass until the machine's next deadline."""
        deadline = self.machine.deadline()
        assert deadline is not None, "nothing is timed"
        self.now = max(self.now, deadline)
        return self.on(None)

    def wait_until(self, now: float) -> list[str]:
        """Let time pass, with every deadline on the way."""
        lines: list[str] = []
        while (deadline := self.machine.deadline()) is not None and deadline <= now:
            lines += self.wait()
        self.now = now
        return lines

    @property
    def capabilities(self) -> Mapping[str, float] | None:
        """What the birth of the last event said of the device."""
        return next(effect.state.capabilities for effect in self.effects if isinstance(effect, PublishState))

    def notes(self) -> list[str]:
        """The notes of the last event."""
        return [effect.event for effect in self.effects if isinstance(effect, Note)]

    # --- what happens -----------------------------------------------------------------------------------------------

    def connect(self) -> list[str]:
        return self.on(BrokerConnected())

    def coordinator(
        self,
        presence: Presence = Presence.ONLINE,
        *,
        epoch: int = 1,
        run: RunId = RUN,
        began_ms: int | None = None,
        start: int | None = None,
        payload: bytes = b"",
        pace_s: float | None = None,
    ) -> list[str]:
        state = CoordinatorState(
            presence=presence,
            run=run,
            epoch=Epoch(epoch),
            protocol_min=1,
            protocol_max=1,
            began_ms=began_ms,
            start=None if start is None else Start(start),
            pace_s=pace_s,
        )
        return self.on(CoordinatorStateReceived(state=state, payload=payload))

    def announce(self, message: RoundAnnouncement, payload: bytes = b"", *, invited: bool = False) -> list[str]:
        return self.on(AnnouncementReceived(announcement=message, payload=payload, invited=invited))

    def chunk(self, of: ModelPart, index: int) -> list[str]:
        """One chunk of a part, by its index in the whole part."""
        segment = next(one for one in segments(of) if one.first_chunk <= index < one.first_chunk + one.chunks)
        body = list(split(content(of.kind, of.version, of.payload_bytes), of.chunk_bytes))[index]
        return self.on(
            ModelChunkReceived(version=of.version, segment=segment.name, index=index - segment.first_chunk, body=body)
        )

    def pull(self, of: ModelPart) -> list[str]:
        """All chunks of a part, in order."""
        count = chunk_count(of.payload_bytes, of.chunk_bytes)
        return [line for index in range(count) for line in self.chunk(of, index)]

    def ready(self, version: int) -> list[str]:
        return self.on(ModelReady(version=ModelVersion(version), digest=version_digest(version)))

    def trained(self, round_id: int, size: int = 5) -> list[str]:
        return self.on(TrainingFinished(result=result(round_id, size)))

    def saved(self) -> list[str]:
        """The disk has taken what the machine wanted to save last."""
        wanted = [effect for effect in self.effects if isinstance(effect, SaveOutbox)]
        assert wanted, "nothing was to be saved"
        return [line for one in wanted for line in self.on(OutboxSaved(entry=OutboxEntry(offer=one.offer)))]

    def receipt(
        self, round_id: int, status: ReceiptStatus, reason: Reason = Reason.NONE, run: RunId = RUN
    ) -> list[str]:
        update = update_id(RoundId(round_id), NODE)
        return self.command(Receipt(run=run, update=update, status=status, reason=reason))

    def grant(self, round_id: int, chunks: int, arrived: Sequence[int], window: int) -> list[str]:
        update = update_id(RoundId(round_id), NODE)
        return self.command(Grant(update=update, bitmap=bitmap(chunks, arrived), window=window))

    def retry_after(self, round_id: int, seconds: float) -> list[str]:
        return self.command(RetryAfter(update=update_id(RoundId(round_id), NODE), seconds=seconds))

    def cancel(self, round_id: int, run: RunId = RUN) -> list[str]:
        return self.command(Cancel(run=run, round=RoundId(round_id)))

    def command(self, command: Receipt | Grant | Cancel | RetryAfter | Rebirth | EvaluationReceipt) -> list[str]:
        return self.on(CommandReceived(command=command))


def say(effect: Effect) -> str:  # noqa: PLR0911, PLR0912
    """One effect as a line; notes, telemetry and what was seen are left out."""
    match effect:
        case PublishState(state=state):
            away = "" if state.away_s is None else f" for {state.away_s:g} s"
            return f"state {state.presence} #{state.incarnation} {state.activity} {state.round}{away}"
        case PublishEvent(message=message):
            return _event(message)
        case SaveSpent(spent=spent):
            return f"save spent {sum(each.steps for each in spent)}"
        case StartEvaluation(model=model):
            return f"evaluate {model.version}"
        case SubscribeSegment():
            return f"subscribe {_segment(effect)}"
        case UnsubscribeSegment():
            return f"unsubscribe {_segment(effect)}"
        case AdoptModel(model=model, parts=parts):
            return f"adopt {model.version} from " + ", ".join(f"{part.kind} {part.version}" for part, _ in parts)
        case MakeInitialModel(model=model):
            return f"make {model.version} from seed {model.seed}"
        case StartTraining(announcement=asked):
            return f"train {asked.round} from {asked.model.version}"
        case StopTraining():
            return f"stop training {effect.round}"
        case SaveOutbox():
            return f"save update {effect.offer.update}"
        case SaveProgress():
            return f"save round {effect.last_round}"
        case SaveSeen():
            return ""
        case SendOffer():
            return f"offer {effect.offer.update}" + (" inline" if effect.inline else "")
        case SendChunks():
            return f"send {effect.update} chunks {list(effect.indices)}"
        case MarkStored():
            return f"mark {effect.update} stored"
        case SettleUpdate():
            back = "drop" if effect.unfit else "give back"
            return f"settle {effect.update}, " + ("applied" if effect.applied else back)
        case EnterRun():
            return f"enter {effect.run}"
        case Rest():
            return f"rest {effect.seconds:g} s"
        case Stop():
            return f"stop: {effect.reason}"
        case PublishProgress() | Note():
            return ""


def _event(message: Decline | EvaluationReport | Proof | UpdateOffer) -> str:
    match message:
        case UpdateOffer():
            return f"question {message.update}"
        case Proof():
            return "proof"
        case Decline():
            missing = ", missing" if message.missing else ""
            return f"decline {message.round}: {message.reason} ({message.retry_after_s:g} s{missing})"
        case EvaluationReport():
            reason = f", {message.reason}" if message.reason else ""
            return f"report {message.version}: {message.num_examples} examples{reason}"


def _segment(effect: SubscribeSegment | UnsubscribeSegment) -> str:
    single = "/" + ",".join(map(str, effect.indices)) if effect.indices else ""
    return f"{effect.version}/{effect.segment}{single}"


def update(round_id: int) -> UpdateId:
    return update_id(RoundId(round_id), NODE)
