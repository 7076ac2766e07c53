"""Every effect does what it says, in the order of its saving and saying, and a full disk stops the talking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.engine import effects, events
from coordinator.engine.effects import CommitVersion, Effect, StoreUpdate
from coordinator.engine.events import ChunkStored, Event, TransferDropped, TransferOpened, UpdateRejected, UpdateStored
from coordinator.global_model.aggregation import AggregateLimits
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import Attendance, Member, RoundRecord, TransferRecord, Verdict
from coordinator.runtime.central_evaluation import Evaluator, NoEvaluator
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.publisher import CONTROL_BYTES_MAX
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import Weights
from federation.errors import StorageError, StoreGone
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import (
    CoordinatorState,
    Grant,
    ModelRef,
    Presence,
    Reason,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
    TrainSettings,
)
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message
from federation.testing import FakeClock
from federation.types import Digest, Epoch, FederationId, Incarnation, ModelVersion, NodeId, RoundId, RunId, UpdateId
from tests.rigs.model_values import ARRAYS, MANIFEST, Arrived, arrived, committer, initialised, update, with_codec
from tests.rigs.stores import in_own_folder
from update_codec import CodecSpec, Manifest, Vectors, decode, encode, inspect

F32 = NDArray[np.float32]
TOPICS = Topics(FederationId("t"))


@dataclass
class Wire:
    """Remembers what was published."""

    sent: list[tuple[str, bytes, bool]] = field(default_factory=list)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        assert qos == 1
        self.sent.append((topic, payload, retain))

    def topics(self) -> list[str]:
        return [topic.removeprefix("fl/t/") for topic, _, _ in self.sent]


class FullStore(SqliteStore):
    """A store whose disk can be full."""

    full = False

    def _check(self) -> None:
        if self.full:
            raise StorageError("No space left on device")

    def save_round(self, record: RoundRecord) -> None:
        self._check()
        super().save_round(record)

    def save_attendance(self, attendance: Attendance) -> None:
        self._check()
        super().save_attendance(attendance)

    def commit(self, commit: object) -> None:
        self._check()
        super().commit(commit)  # type: ignore[arg-type]


@dataclass
class Bench:
    store: FullStore = field(default_factory=partial(in_own_folder, FullStore))
    control: Wire = field(default_factory=Wire)
    data: Wire = field(default_factory=Wire)
    clock: FakeClock = field(default_factory=FakeClock)
    notes: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    evaluator: Evaluator = field(default_factory=NoEvaluator)
    settings: CommitterSettings = field(default_factory=CommitterSettings)
    executor: CoordinatorExecutor = field(init=False)

    def __post_init__(self) -> None:
        initialised(self.store)
        self.executor = CoordinatorExecutor(
            ExecutorParts(
                store=self.store,
                committer=committer(self.store, self.settings),
                control=self.control,
                data=self.data,
                topics=TOPICS,
                now=self.clock.now,
                say=lambda event, fields: self.notes.append((event, fields)),
                evaluator=self.evaluator,
                update_norm_max=1e3,
            )
        )

    def run(self, *effects: Effect) -> list[Event]:
        return [event for effect in effects for event in self.executor.execute(effect)]

    def store_updates(self, *sent: Arrived) -> None:
        for one in sent:
            answered = self.run(StoreUpdate(record=one.record, payload=one.payload))
            assert answered == [UpdateStored(update=one.record.update)]

    def commit(self, *sent: Arrived) -> list[Event]:
        version = ModelVersion(self.store.recovered(recent=1).head.version + 1)
        return self.run(CommitVersion(version=version, members=tuple(one.member for one in sent), reason="full"))


def announcement(round_id: int = 0) -> RoundAnnouncement:
    model = ModelRef(
        version=ModelVersion(0),
        digest=Digest(MANIFEST.digest),
        manifest_digest=Digest(MANIFEST.digest),
        seed=3,
        parts=(),
    )
    return RoundAnnouncement(
        run=RunId("0" * 16),
        epoch=Epoch(1),
        round=RoundId(round_id),
        task="digits",
        model=model,
        cohort=NOBODY,
        settings=TrainSettings(),
        codec="edge",
        min_base_version=ModelVersion(0),
        lease_s=10.0,
        spread_s=0.0,
    )


def rejected(bench: Bench, sent: Arrived) -> UpdateRejected:
    (event,) = bench.run(StoreUpdate(record=sent.record, payload=sent.payload))
    assert isinstance(event, UpdateRejected)
    assert bench.store.verdict(sent.record.update) is None
    return event


def test_an_update_is_on_disk_before_anybody_hears_of_it() -> None:
    bench, sent = Bench(), arrived("a", update(1.0))
    bench.store_updates(sent)
    assert bench.store.payload(sent.record.update) == sent.payload
    assert bench.control.sent == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(arrived("a", update(1.0)), payload=b"other bytes"), Reason.DIGEST_MISMATCH),
        (arrived("a", update(np.full(45, 1e9, np.float32))), Reason.NORM),
        (with_codec(arrived("a", update(1.0)), "edge"), Reason.CODEC),
        (with_codec(arrived("a", update(1.0)), "no such codec"), Reason.CODEC),
    ],
)
def test_a_bad_update_is_rejected_with_its_reason_and_not_stored(bad: Arrived, reason: Reason) -> None:
    assert rejected(Bench(), bad).reason is reason


def test_bytes_that_are_no_frame_are_rejected() -> None:
    from federation.protocol.chunking import payload_digest

    body = b"FMQU but not really"
    record = replace(arrived("a", update(1.0)).record, payload_bytes=len(body), payload_digest=payload_digest(body))
    assert rejected(Bench(), Arrived(record=record, payload=body)).reason is Reason.MALFORMED_FRAME


def test_an_update_of_another_model_is_incompatible() -> None:
    from federation.protocol.chunking import payload_digest

    other = Manifest.of({"weight": ARRAYS["weight"]})
    frame = encode(Vectors.zeros(other), other, CodecSpec.parse("lossless")).frame
    record = replace(arrived("a", update(1.0)).record, payload_bytes=len(frame), payload_digest=payload_digest(frame))
    assert rejected(Bench(), Arrived(record=record, payload=frame)).reason is Reason.INCOMPATIBLE


def test_an_update_that_is_not_finite_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = arrived("a", update(1.0))
    found = replace(inspect(sent.payload, MANIFEST), finite=False)
    monkeypatch.setattr("coordinator.global_model.update_checks.inspect", lambda *_, **__: found)
    assert rejected(Bench(), sent).reason is Reason.NOT_FINITE


def test_a_large_update_is_assembled_from_its_chunks() -> None:
    bench, sent = Bench(), arrived("a", update(1.0))
    half = len(sent.payload) // 2 + 1
    answered = bench.run(
        effects.OpenTransfer(transfer=TransferRecord(record=sent.record, chunk_bytes=half)),
        effects.StoreChunk(update=sent.record.update, index=1, body=sent.payload[half:]),
        effects.StoreChunk(update=sent.record.update, index=0, body=sent.payload[:half]),
        effects.StoreTransfer(record=sent.record),
    )
    opened, *stored = answered
    assert opened == TransferOpened(transfer=TransferRecord(record=sent.record, chunk_bytes=half))
    update_id = sent.record.update
    assert stored == [*(ChunkStored(update=update_id, index=index) for index in (1, 0)), UpdateStored(update=update_id)]
    assert bench.store.payload(sent.record.update) == sent.payload


def test_a_transfer_that_stopped_is_forgotten() -> None:
    bench, sent = Bench(), arrived("a", update(1.0))
    answered = bench.run(
        effects.OpenTransfer(transfer=TransferRecord(record=sent.record, chunk_bytes=16)),
        effects.DropTransfer(update=sent.record.update),
    )
    assert answered[-1] == TransferDropped(update=sent.record.update)
    assert bench.store.recovered(recent=1).transfers == ()


def test_a_commit_answers_with_its_record_and_says_what_it_cost() -> None:
    bench = Bench()
    sent, bad = [arrived("a", update(1.0)), arrived("b", update(2.0))], arrived("c", update(1.0))
    bench.store_updates(*sent)
    verdict = Verdict(update=bad.record.update, node=bad.record.node, status=ReceiptStatus.REFUSED, reason=Reason.NORM)
    bench.run(
        effects.PublishAnnouncement(announcement=announcement()),
        effects.SaveVerdict(verdict=verdict, record=replace(bad.record, fetched_bytes=100)),
    )
    bench.clock.advance(2.5)
    (event,) = bench.commit(*sent)
    assert isinstance(event, events.VersionCommitted)
    assert event.record == bench.store.recovered(recent=1).head
    (said,) = [fields for name, fields in bench.notes if name == "version_committed"]
    assert (said["version"], said["accepted"], said["refused"], said["stale"]) == (1, 2, 1, 0)
    assert said["seconds"] == 2.5
    assert said["bytes_down"] == 100
    assert bench.store.history()[1].figures.wall_s == 2.5


def test_seconds_count_from_the_first_announcement_and_then_from_commit_to_commit() -> None:
    bench = Bench()
    for number, pause in enumerate((4.0, 1.0)):
        sent = arrived("a", update(1.0), round_id=number)
        bench.run(effects.PublishAnnouncement(announcement=announcement(number)))
        bench.store_updates(sent)
        bench.clock.advance(pause)
        bench.commit(sent)
    assert [row.figures.wall_s for row in bench.store.history()] == [0.0, 4.0, 1.0]


def test_an_unusable_aggregate_blames_its_culprit_and_leaves_the_head() -> None:
    bench = Bench(settings=CommitterSettings(limits=AggregateLimits(step_norm_max=1.0)))
    sent = [arrived("a", update(1.0)), arrived("b", update(50.0))]
    bench.store_updates(*sent)
    (event,) = bench.commit(*sent)
    assert isinstance(event, events.CommitFailed)
    assert (event.culprits, event.reason) == ((UpdateId("0-b"),), Reason.NORM)
    assert bench.store.recovered(recent=1).head.version == 0


class Exploding:
    """A strategy whose step leaves float32."""

    def weigh(self, members: Sequence[Member]) -> Weights:
        return Weights(values=(1.0,) * len(members), divisor=None)

    def step(self, aggregate: F32, state: State) -> tuple[F32, State]:
        return np.full_like(aggregate, np.inf), state


def test_a_step_out_of_float32_is_refused_and_the_head_stays() -> None:
    limits = AggregateLimits(step_norm_max=float("inf"))
    bench, sent = Bench(settings=CommitterSettings(strategy=Exploding(), limits=limits)), arrived("a", update(1.0))
    bench.store_updates(sent)
    (event,) = bench.commit(sent)
    assert isinstance(event, events.CommitFailed)
    assert (event.culprits, event.reason) == ((UpdateId("0-a"),), Reason.NOT_FINITE)
    assert bench.store.recovered(recent=1).head.version == 0


def test_a_full_disk_silences_everything_until_the_machine_has_heard_of_it() -> None:
    bench = Bench()
    bench.store.full = True
    record = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=(), cohort=NOBODY)
    answered = bench.run(
        effects.SaveRound(record=record),
        effects.PublishAnnouncement(announcement=announcement()),
        effects.Note(event="x"),
    )
    assert answered == [events.StorageFailed(detail="No space left on device")]
    assert (bench.control.sent, bench.notes) == ([], [])
    bench.store.full = False
    bench.run(
        effects.AcceptFailure(),
        effects.SaveRound(record=record),
        effects.PublishAnnouncement(announcement=announcement()),
    )
    assert bench.control.topics() == ["round"]
    assert bench.store.recovered(recent=1).next_round == 1


def test_an_invitation_goes_to_those_it_asks_and_stays_on_no_topic() -> None:
    """FED-190."""
    bench, said = Bench(), announcement()
    bench.run(effects.Invite(nodes=(NodeId("ann"), NodeId("bob")), announcement=said))
    assert bench.control.topics() == ["n/ann/cmd", "n/bob/cmd"]
    heard = [decode_message(payload) for _, payload, _ in bench.control.sent]
    assert [(type(one), one.round) for one in heard if isinstance(one, RoundAnnouncement)] == [(type(said), 0)] * 2
    assert not any(retain for _, _, retain in bench.control.sent)


def test_parts_that_an_announcement_goes_by_are_not_cleared() -> None:
    """FED-35: whatever the head lists now."""
    bench = Bench()
    before = bench.store.recovered(recent=1).head
    for number in range(3):
        sent = arrived("a", update(1.0), round_id=number)
        bench.store_updates(sent)
        bench.commit(sent)
    head = bench.store.recovered(recent=1).head
    bench.run(effects.PublishModel(record=head), effects.ClearModel(head=head, named=before.parts))
    assert set(before.parts) & set(bench.store.obsolete_parts(head))
    bench.run(effects.ClearModel(head=head))
    assert not bench.store.obsolete_parts(head)


def test_a_failed_save_holds_up_no_stop() -> None:
    """The machine says it once and hears nothing afterwards: the process would never end."""
    bench = Bench()
    bench.store.full = True
    record = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=(), cohort=NOBODY)
    bench.run(effects.SaveRound(record=record), effects.Stop(reason="requested"))
    assert bench.executor.stopped


def test_attendance_is_saved_and_a_full_disk_costs_only_its_figures() -> None:
    bench = Bench()
    seen = Attendance(incarnations={NodeId("a"): Incarnation(3)}, absences={NodeId("a"): {"self": 1, "event": 2}})
    bench.store.full = True
    assert bench.run(effects.SaveAttendance(attendance=seen)) == [events.AttendanceNotSaved()]
    bench.run(effects.PublishAnnouncement(announcement=announcement()))
    assert bench.control.topics() == ["round"]
    bench.store.full = False
    assert bench.run(effects.SaveAttendance(attendance=seen)) == [events.AttendanceSaved(attendance=seen)]
    (known,) = bench.store.participation()
    assert (known.attended.incarnation, known.attended.absences) == (3, {"self": 1, "event": 2})


def test_a_state_folder_that_was_moved_away_ends_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def moved(*_: object) -> None:
        raise StoreGone("was moved or deleted")

    monkeypatch.setattr(bench.store, "save_round", moved)
    with pytest.raises(StoreGone):
        bench.run(
            effects.SaveRound(record=RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=(), cohort=NOBODY))
        )


def test_a_commit_on_a_full_disk_can_be_repeated() -> None:
    bench, sent = Bench(), arrived("a", update(1.0))
    bench.store_updates(sent)
    bench.store.full = True
    (event,) = bench.commit(sent)
    assert isinstance(event, events.StorageFailed)
    bench.store.full = False
    bench.run(effects.AcceptFailure())
    (event,) = bench.commit(sent)
    assert isinstance(event, events.VersionCommitted)


def test_retained_messages_are_retained_and_commands_are_not() -> None:
    """[FED-4] What is retained, and what never."""
    bench = Bench()
    state = CoordinatorState(
        presence=Presence.ONLINE, run=RunId("0" * 16), epoch=Epoch(1), protocol_min=1, protocol_max=1
    )
    grant = Grant(update=UpdateId("0-a"), bitmap=b"\0", window=1)
    receipt = Receipt(run=RunId("0" * 16), update=UpdateId("0-a"), status=ReceiptStatus.STORED)
    bench.run(
        effects.PublishState(state=state),
        effects.PublishAnnouncement(announcement=announcement()),
        effects.SendCommand(node=NodeId("a"), command=grant),
        effects.SendCommand(node=NodeId("a"), command=receipt),
    )
    assert [(topic, retained) for topic, _, retained in bench.control.sent] == [
        ("fl/t/srv", True),
        ("fl/t/round", True),
        ("fl/t/n/a/cmd", False),
        ("fl/t/n/a/cmd", False),
    ]
    assert decode_message(bench.control.sent[3][1]) == receipt


def test_a_model_is_published_once_and_again_when_the_broker_may_have_lost_it() -> None:
    bench = Bench()
    head = bench.store.recovered(recent=1).head
    bench.run(effects.PublishModel(record=head), effects.PublishModel(record=head))
    assert bench.control.topics() == ["model/0/k0/0"]
    assert bench.control.sent[0][1] == bench.store.frame(head.parts[0])
    bench.executor.broker_connected()
    bench.run(effects.PublishModel(record=head))
    assert len(bench.control.sent) == 2


def test_what_no_version_lists_any_more_is_cleared_from_the_broker_once() -> None:
    bench = Bench()
    for number in range(2):
        sent = arrived("a", update(1.0), round_id=number)
        bench.store_updates(sent)
        bench.commit(sent)
    head = bench.store.recovered(recent=1).head
    bench.run(effects.ClearModel(head=head), effects.ClearModel(head=head))
    assert ("fl/t/model/0/k0/0", b"", True) in bench.control.sent
    assert bench.control.topics().count("model/0/k0/0") == 1
    assert not any(topic.startswith("model/2") for topic in bench.control.topics())


def test_a_large_model_goes_over_the_data_connection_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.runtime import publisher

    monkeypatch.setattr(publisher, "CONTROL_BYTES_MAX", 1)
    bench = Bench()
    bench.run(effects.PublishModel(record=bench.store.recovered(recent=1).head))
    assert (bench.control.topics(), bench.data.topics()) == ([], ["model/0/k0/0"])
    assert CONTROL_BYTES_MAX > 400_000


def test_a_frame_that_is_damaged_since_the_start_is_made_again_before_it_is_published() -> None:
    """The machine goes on with the head that it knows: what it says names the parts that are there."""
    bench = Bench()
    head = bench.store.recovered(recent=1).head
    bench.store._database.execute("UPDATE parts SET frame = X'00'")
    bench.control.sent.clear()
    bench.run(effects.PublishModel(record=head, lost=True))
    (part,) = bench.store.recovered(recent=1).head.parts
    assert decode(bench.store.frame(part), MANIFEST).digest() == head.digest
    assert bench.control.topics() == ["model/0/k0/0"]
    assert bench.run(effects.ClearModel(head=head)) == []
    assert bench.control.topics() == ["model/0/k0/0"], "what was made again is not cleared"


def test_an_evaluation_is_always_answered() -> None:
    bench = Bench()
    assert bench.run(effects.Evaluate(version=ModelVersion(0))) == [
        events.Evaluated(version=ModelVersion(0), metrics={}, skipped=True)
    ]
    assert bench.run(effects.Evaluate(version=ModelVersion(9))) == [
        events.Evaluated(version=ModelVersion(9), metrics={}, skipped=True)
    ]


def test_the_evaluator_gets_the_exact_model() -> None:
    class Seeing:
        seen: Vectors | None = None

        def submit(self, version: ModelVersion, model: Vectors) -> tuple[Event, ...]:
            self.seen = model
            return ()

    seeing = Seeing()
    bench, sent = Bench(evaluator=seeing), arrived("a", update(1.0))
    bench.store_updates(sent)
    bench.commit(sent)
    assert bench.run(effects.Evaluate(version=ModelVersion(1))) == []
    assert seeing.seen is not None
    np.testing.assert_array_equal(seeing.seen.parameters, bench.store.model(ModelVersion(1)).parameters)


def test_rounds_are_reserved_and_closed_in_the_store() -> None:
    bench = Bench()
    record = RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=(NodeId("a"),), cohort=NOBODY)
    bench.run(effects.SaveRound(record=record))
    assert bench.store.recovered(recent=1).open_rounds == (record,)
    bench.run(effects.CloseRound(round=RoundId(0), nodes=(NodeId("a"),)))
    assert bench.store.recovered(recent=1).open_rounds == ()


def test_notes_reach_the_log_and_stop_stops() -> None:
    bench = Bench()
    bench.run(effects.Note(event="waiting", fields={"for": "a"}))
    assert bench.notes == [("waiting", {"for": "a"})]
    assert not bench.executor.stopped
    bench.run(effects.Stop(reason="finished"))
    assert (bench.executor.stopped, bench.executor.stop_reason) == (True, "finished")


def test_announcements_cost_one_copy_for_each_node_that_is_online() -> None:
    bench = Bench()
    for node in ("a", "b"):
        bench.executor.traffic.presence(NodeId(node), Presence.ONLINE)
    bench.executor.traffic.presence(NodeId("b"), Presence.LOST)
    bench.run(effects.PublishAnnouncement(announcement=announcement()))
    one = bench.executor.traffic.take()[1]
    bench.executor.traffic.presence(NodeId("b"), Presence.ONLINE)
    bench.run(effects.PublishAnnouncement(announcement=announcement()))
    assert bench.executor.traffic.take() == (0, 2 * one)
    assert one > 0


def test_the_head_is_published_without_cosine_frames_where_a_node_reads_none() -> None:
    """FED-235."""
    down = DownlinkSettings(spec=CodecSpec.parse("cosine(bpp=9)"), delta_worth=9.0, keyframe_reach=9.0)
    bench = Bench(settings=CommitterSettings(downlink=down))
    sent = arrived("a", update(1.0))
    bench.store_updates(sent)
    bench.commit(sent)
    head = bench.store.recovered(recent=1).head
    bench.run(effects.PublishModel(record=head, plain=True))
    assert bench.control.topics() == ["model/1/k0/0"]
    assert ("head_without_cosine_frames", {"version": 1}) in bench.notes
    bench.run(effects.PublishModel(record=head, plain=True))
    assert bench.control.topics() == ["model/1/k0/0"]
    assert sum(name == "head_without_cosine_frames" for name, _ in bench.notes) == 1
