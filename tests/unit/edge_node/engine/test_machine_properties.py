"""What holds for a node's machine whatever happens in whatever order (RELIABILITY: I1, I2, I8)."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edge_node.engine.effects import (
    AdoptModel,
    Effect,
    EnterRun,
    MakeInitialModel,
    MarkStored,
    PublishEvent,
    SaveOutbox,
    SaveProgress,
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
    BrokerDisconnected,
    CommandReceived,
    CoordinatorStateReceived,
    EvaluationFinished,
    Event,
    MessageRefused,
    ModelChunkReceived,
    ModelReady,
    ModelRejected,
    OutboxSaved,
    RunEntered,
    StopRequested,
    StorageFailed,
    TrainingFailed,
    TrainingFinished,
)
from edge_node.engine.machine import NodeMachine, NodeSettings, TrainBounds
from edge_node.records import FinishedTraining, Held, OutboxEntry, RecoveredNode
from federation.protocol.cohort import EVERYONE, NOBODY
from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    EvaluationReceipt,
    EvaluationReport,
    Grant,
    Presence,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RetryAfter,
    RoundAnnouncement,
)
from federation.types import Digest, Epoch, Incarnation, ModelVersion, RoundId, RunId, UpdateId, update_id
from tests.rigs.node_rig import (
    CHUNK,
    NODE,
    OTHER_RUN,
    RUN,
    announcement,
    content,
    delta,
    entry,
    holding,
    keyframe,
    model,
    version_digest,
)

ROUNDS = st.integers(1, 9).map(RoundId)
VERSIONS = st.integers(0, 4)
RUNS = st.sampled_from((*[RUN] * 9, OTHER_RUN))
UPDATES = ROUNDS.map(lambda one: update_id(one, NODE))
SIZES = st.sampled_from((3, CHUNK, CHUNK + 1, 4 * CHUNK))


@st.composite
def announcements(draw: st.DrawFn) -> RoundAnnouncement:
    version = draw(VERSIONS)
    chain = [delta(one, 15) for one in range(1, version + 1)]
    parts = draw(st.sampled_from(([keyframe(version, 25)], [*chain, keyframe(version, 25)], chain, [])))
    return announcement(
        draw(ROUNDS),
        model(version, parts, seed=draw(st.sampled_from((None, 1))) if version == 0 else None),
        cohort=draw(st.sampled_from((EVERYONE, EVERYONE, NOBODY))),
        epoch=draw(st.integers(1, 3)),
        run=draw(RUNS),
        min_base=draw(st.integers(0, version)),
        lease_s=draw(st.sampled_from((1.0, 50.0))),
        spread_s=draw(st.sampled_from((0.0, 5.0))),
        final=draw(st.integers(0, 19)) == 19,
        task=draw(st.sampled_from(("toy", "toy", "toy", "other"))),
    )


@st.composite
def chunks(draw: st.DrawFn) -> ModelChunkReceived:
    part = draw(
        st.one_of(VERSIONS.map(lambda one: keyframe(one, 25)), st.integers(1, 4).map(lambda one: delta(one, 15)))
    )
    index = draw(st.integers(0, 3))
    body = content(part.kind, part.version, part.payload_bytes)[index * CHUNK : (index + 1) * CHUNK]
    body = draw(st.sampled_from((body, body, body, b"", bytes(len(body)))))
    return ModelChunkReceived(version=part.version, segment=f"{part.kind[0]}0", index=index, body=body)


def finished(round_id: RoundId, run: RunId | None, size: int) -> FinishedTraining:
    return FinishedTraining(round=round_id, frame=bytes(size), num_examples=3, metrics={}, train_s=1.0, run=run)


COMMANDS = st.one_of(
    st.builds(Receipt, run=RUNS, update=UPDATES, status=st.sampled_from(ReceiptStatus)),
    st.builds(
        Grant, update=UPDATES, bitmap=st.sampled_from((b"\0", b"\1", b"\3", b"\xff", b"")), window=st.integers(0, 5)
    ),
    st.builds(Cancel, run=RUNS, round=ROUNDS),
    st.builds(RetryAfter, update=UPDATES, seconds=st.floats(0, 1e7)),
    st.just(Rebirth()),
)
STATES = st.builds(
    CoordinatorState,
    presence=st.sampled_from(Presence),
    run=RUNS,
    epoch=st.integers(1, 3).map(Epoch),
    protocol_min=st.just(1),
    protocol_max=st.just(1),
)
MODELS = VERSIONS.map(ModelVersion)
HEARD = st.one_of(
    st.none(),
    st.builds(BrokerConnected),
    st.builds(BrokerDisconnected, reason=st.just("cut")),
    st.builds(CoordinatorStateReceived, state=STATES),
    st.builds(AnnouncementReceived, announcement=announcements()),
    st.builds(AnnouncementReceived, announcement=announcements()),
    chunks(),
    st.builds(CommandReceived, command=COMMANDS),
    st.builds(CommandReceived, command=COMMANDS),
    st.just(MessageRefused(topic="t", reason="r")),
)
"""What the network brings."""
SETTLED = st.builds(SettleUpdate, update=UPDATES, applied=st.booleans())
WILD = st.one_of(
    HEARD,
    MODELS.map(lambda one: ModelReady(version=one, digest=version_digest(one))),
    st.builds(ModelRejected, version=MODELS, reason=st.just("digest")),
    st.builds(TrainingFinished, result=st.builds(finished, ROUNDS, st.sampled_from((None, RUN, OTHER_RUN)), SIZES)),
    st.builds(TrainingFailed, round=ROUNDS, reason=st.just("no"), run=st.sampled_from((None, RUN, OTHER_RUN))),
    st.builds(OutboxSaved, entry=ROUNDS.map(entry)),
    st.builds(RunEntered, run=RUNS, forgotten=st.sampled_from(((), (RUN,), (OTHER_RUN,)))),
    st.builds(StorageFailed, detail=st.just("full")),
    st.builds(StorageFailed, detail=st.just("full"), effect=SETTLED),
    st.just(StopRequested()),
)
"""Anything at all, also what no shell would say."""
PAUSES = st.sampled_from((0.0, 0.0, 1.0, 11.0, 400.0))


class World:
    """An honest disk, worker and model store around a machine; it knows what an effect may never do."""

    def __init__(self, recovered: RecoveredNode, *, fails: Iterable[bool], draw: float) -> None:
        bounds = TrainBounds(model_bytes_max=50)
        node = NodeSettings(
            node=NODE, task="toy", chunk_bytes=CHUNK, bounds=bounds, outbox_max=3, exit_when_finished=draw > 0
        )
        self.machine = NodeMachine(node, Incarnation(1), recovered, rng=lambda: draw)
        self.full = False
        self.run = recovered.run
        self.held: dict[RunId | None, Held] = {}
        self.on_disk = [(one.offer.run, one.offer.update) for one in recovered.outbox]
        self.fails = iter(fails)
        self.receipts: set[tuple[RunId, UpdateId]] = set()
        self.training: tuple[RunId, RoundId] | None = None
        self.given_up: list[tuple[RunId, RoundId]] = []
        self.asked: dict[tuple[RunId, ModelVersion], Digest] = {}
        self.evaluating: list[EvaluationReport] = []
        self.reported: set[tuple[RunId, ModelVersion]] = set()
        self.subscribed: SubscribeSegment | None = None
        self.stopped = False
        self.now = 0.0

    def happens(self, event: Event | None) -> None:
        """One event, and everything that disk and model store answer to it."""
        pending: list[Event | None] = [event]
        while pending:
            one = pending.pop(0)
            match one:
                case CommandReceived(command=Receipt(status=status, run=run, update=update)) if status.final:
                    self.receipts.add((run, update))
                case AnnouncementReceived(announcement=asking) if asking.evaluation is not None:
                    self.asked[asking.run, asking.model.version] = asking.model.digest
            effects = self.machine.handle(one, self.now)
            assert not (self.stopped and effects), "nothing follows Stop"
            for effect in effects:
                answer = self.carry_out(effect)
                pending += [] if answer is None else [answer]
        deadline = self.machine.deadline()
        assert deadline is None or deadline > self.now, "what is due was done: no busy loop"
        assert deadline is None or deadline < self.now + 5_000.0, "no wait is unbounded"

    def worker_answers(self, size: int, *, well: bool) -> None:
        """The worker ends what it is at; sometimes it is late with what was given up."""
        if self.training is not None:
            (run, round_id), self.training = self.training, None
        elif self.given_up:
            run, round_id = self.given_up.pop()
        else:
            return
        if well:
            self.happens(TrainingFinished(result=finished(round_id, run, size)))
        else:
            self.happens(TrainingFailed(round=round_id, reason="no", run=run))

    def evaluation_ends(self, *, late: bool) -> None:
        """The worker has evaluated; what nobody waits for any more runs to its end as well."""
        if self.evaluating:
            self.happens(EvaluationFinished(report=self.evaluating.pop(0 if late else -1)))

    def carry_out(self, effect: Effect) -> Event | None:
        """Check one effect and do it."""
        match effect:
            case SaveOutbox() | SettleUpdate() | EnterRun() | SaveProgress() | MarkStored():
                if isinstance(effect, EnterRun):
                    self.run = effect.run
                    self.reported.clear()
                if self.full or next(self.fails, False):
                    return StorageFailed(detail="full", effect=effect)
                return self.save(effect)
            case SendOffer():
                assert (self.run, effect.offer.update) in self.on_disk, "never said before it is saved"
                assert effect.offer.run == self.run, "nothing is said of another run"
                assert not effect.inline or effect.offer.payload_bytes <= CHUNK
            case SendChunks():
                assert (self.run, effect.update) in self.on_disk, "never said before it is saved"
                assert effect.indices
            case AdoptModel() | MakeInitialModel():
                if next(self.fails, False):
                    return ModelRejected(version=effect.model.version, reason="digest")
                self.held[self.run] = Held(version=effect.model.version, digest=effect.model.digest)
                return ModelReady(version=effect.model.version, digest=effect.model.digest)
            case StartTraining(announcement=asked):
                assert self.training is None, "one training at a time"
                if next(self.fails, False):
                    return ModelRejected(version=asked.model.version, reason="not held")
                self.training = (asked.run, asked.round)
            case StartEvaluation() | PublishEvent(message=EvaluationReport()):
                self.evaluate(effect)
            case Stop():
                self.stopped = True
            case _:
                self.watch(effect)
        return None

    def evaluate(self, effect: StartEvaluation | PublishEvent) -> None:
        match effect:
            case StartEvaluation(model=wanted, run=run):
                assert self.training is None, "one at a time"
                assert self.asked[run, wanted.version] == wanted.digest, "in its own name"
                assert (run, wanted.version) not in self.reported, "each version once"
                report = EvaluationReport(run=run, version=wanted.version, digest=wanted.digest, num_examples=3)
                self.evaluating.append(report)
            case PublishEvent(message=EvaluationReport() as said):
                assert self.asked[said.run, said.version] == said.digest, "what nobody has asked for"
                self.reported.add((said.run, said.version))

    def save(self, effect: SaveOutbox | SettleUpdate | EnterRun | SaveProgress | MarkStored) -> Event | None:
        match effect:
            case SaveOutbox():
                known = (effect.offer.run, effect.offer.update)
                assert known not in self.on_disk, "one update per round"
                assert len([run for run, _ in self.on_disk if run == self.run]) <= 4, "the outbox is bounded"
                self.on_disk.append(known)
                return OutboxSaved(entry=OutboxEntry(offer=effect.offer))
            case SettleUpdate():
                assert self.run is not None
                self.on_disk.remove((self.run, effect.update))
                assert (self.run, effect.update) in self.receipts, "kept until the final receipt of its run"
            case EnterRun(run=run):
                return RunEntered(run=run, held=self.held.get(run))
        return None

    def watch(self, effect: Effect) -> None:
        match effect:
            case StopTraining():
                assert self.training is not None
                assert self.training[1] == effect.round
                self.given_up.append(self.training)
                self.training = None
            case SubscribeSegment():
                assert self.subscribed is None, "one segment at a time"
                self.subscribed = effect
            case UnsubscribeSegment():
                assert self.subscribed is not None
                assert (effect.segment, effect.indices) == (self.subscribed.segment, self.subscribed.indices)
                self.subscribed = None


RECOVERED = st.sampled_from(
    (
        RecoveredNode(),
        holding(0),
        holding(2, last_round=3),
        holding(1, last_round=2, outbox=[entry(1), entry(2, stored=True, size=5)]),
    )
)


@settings(deadline=None, max_examples=300)
@given(steps=st.lists(st.tuples(WILD, PAUSES), max_size=40), recovered=RECOVERED)
def test_no_sequence_of_events_raises_or_spins(
    steps: list[tuple[Event | None, float]], recovered: RecoveredNode
) -> None:
    machine = NodeMachine(NodeSettings(node=NODE, task="toy"), Incarnation(1), recovered, rng=lambda: 0.5)
    now = 0.0
    for event, pause_s in steps:
        now += pause_s
        machine.handle(event, now)
        deadline = machine.deadline()
        assert deadline is None or deadline > now
        assert machine.snapshot()["incarnation"] == 1


class Life(RuleBasedStateMachine):
    """A plausible life of a node, with everything that may go wrong in it."""

    @initialize(
        recovered=RECOVERED,
        fails=st.lists(st.booleans(), max_size=20),
        draw=st.sampled_from((0.0, 0.5)),
        trusts=st.booleans(),
    )
    def starts(self, recovered: RecoveredNode, fails: list[bool], draw: float, trusts: bool) -> None:
        self.world = World(recovered, fails=fails if trusts else [], draw=draw)
        self.round, self.version, self.epoch, self.run = 3, 0, 3, RUN
        self.other = (OTHER_RUN, 0, 0, 3)
        self.world.happens(BrokerConnected())

    @rule(
        newer=st.integers(0, 2),
        skipped=st.integers(1, 2),
        asks=st.sampled_from((True, True, True, False)),
        whole=st.booleans(),
        old=st.integers(0, 2),
        spread_s=st.sampled_from((0.0, 4.0)),
        evaluates=st.booleans(),
    )
    def round_is_announced(
        self, *, newer: int, skipped: int, asks: bool, whole: bool, old: int, spread_s: float, evaluates: bool
    ) -> None:
        self.round += skipped
        self.version += newer
        known = [delta(one, 15) for one in range(max(1, self.version - 2), self.version + 1)]
        parts = [*known, keyframe(self.version, 25)] if whole or not known else known
        about = model(self.version, parts, seed=1 if self.version == 0 and whole else None)
        if self.version and self.version % 3 == 0:  # its updates were nothing but zeros
            about = replace(about, digest=version_digest(self.version - 1))
        message = announcement(
            self.round,
            about,
            cohort=EVERYONE if asks else NOBODY,
            epoch=self.epoch,
            run=self.run,
            min_base=max(0, self.version - old),
            lease_s=30.0,
            spread_s=spread_s,
        )
        message = replace(message, evaluation=INT64_MAX if evaluates and self.version else None)
        self.world.happens(AnnouncementReceived(announcement=message))

    @rule(late=st.booleans(), receipted=st.booleans())
    def evaluation_ends(self, late: bool, receipted: bool) -> None:
        self.world.evaluation_ends(late=late)
        for run, version in sorted(self.world.reported) if receipted else ():
            receipt = EvaluationReceipt(run=run, version=version, status=ReceiptStatus.APPLIED)
            self.world.happens(CommandReceived(command=receipt))

    @rule(count=st.integers(1, 4))
    def chunks_arrive(self, count: int) -> None:
        for _ in range(count):
            wanted = self.world.subscribed
            if wanted is None:
                return
            whole = wanted.segment == "k0"
            part = keyframe(wanted.version, 25) if whole else delta(wanted.version, 15)
            for index in wanted.indices or range(3 if whole else 2):
                body = content(part.kind, part.version, part.payload_bytes)[index * CHUNK : (index + 1) * CHUNK]
                event = ModelChunkReceived(version=wanted.version, segment=wanted.segment, index=index, body=body)
                self.world.happens(event)

    @rule(size=SIZES, well=st.sampled_from((True, True, True, False)))
    def worker_ends(self, size: int, well: bool) -> None:
        self.world.worker_answers(size, well=well)

    @precondition(lambda self: self.world.on_disk)
    @rule(which=st.integers(0, 9), status=st.sampled_from(ReceiptStatus))
    def receipt_arrives(self, which: int, status: ReceiptStatus) -> None:
        run, update = self.world.on_disk[which % len(self.world.on_disk)]
        self.world.happens(CommandReceived(command=Receipt(run=run, update=update, status=status)))

    @precondition(lambda self: self.world.on_disk)
    @rule(which=st.integers(0, 9), arrived=st.integers(0, 15), window=st.integers(0, 4))
    def grant_arrives(self, which: int, arrived: int, window: int) -> None:
        _, update = self.world.on_disk[which % len(self.world.on_disk)]
        grant = Grant(update=update, bitmap=bytes([arrived]), window=window)
        self.world.happens(CommandReceived(command=grant))

    @rule(event=HEARD)
    def anything_is_heard(self, event: Event | None) -> None:
        self.world.happens(event)

    @rule()
    def connection_breaks(self) -> None:
        self.world.happens(BrokerDisconnected(reason="cut"))
        self.world.happens(BrokerConnected())

    @rule(presence=st.sampled_from(Presence), restarted=st.booleans(), dice=st.integers(0, 9))
    def coordinator_says(self, presence: Presence, restarted: bool, dice: int) -> None:
        self.epoch += restarted
        if dice == 9:
            before = (self.run, self.round, self.version, self.epoch)
            (self.run, self.round, self.version, self.epoch), self.other = self.other, before
            presence = Presence.ONLINE  # else the node does not hear of it, and versions only go back
        state = CoordinatorState(
            presence=presence, run=self.run, epoch=Epoch(self.epoch), protocol_min=1, protocol_max=1
        )
        self.world.happens(CoordinatorStateReceived(state=state))

    @rule(full=st.booleans())
    def disk_runs_full(self, full: bool) -> None:
        self.world.full = full

    @rule(pause_s=PAUSES)
    def process_is_stopped(self, pause_s: float) -> None:
        """``SIGSTOP``: deadlines pass, and what has arrived meanwhile is handled before any of them."""
        self.world.now += pause_s

    @rule(pause_s=PAUSES)
    def time_passes(self, pause_s: float) -> None:
        end = self.world.now + pause_s
        while (deadline := self.world.machine.deadline()) is not None and deadline <= end:
            self.world.now = deadline
            self.world.happens(None)
        self.world.now = end


class TestLife(Life.TestCase):  # type: ignore[valid-type,misc]
    """FED-27, FED-37, FED-41, FED-50: saved before it is offered, one training, one segment, kept until the receipt."""

    settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
