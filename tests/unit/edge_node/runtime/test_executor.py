"""Every effect does what it says: publishes, saves, adopts, trains; and a failing disk is an event, not a crash."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_node.engine.effects import (
    AdoptModel,
    EnterRun,
    MakeInitialModel,
    MarkStored,
    Note,
    PublishEvent,
    PublishProgress,
    PublishState,
    SaveOutbox,
    SaveProgress,
    SendChunks,
    SendOffer,
    SettleUpdate,
    StartTraining,
    Stop,
    StopTraining,
    SubscribeSegment,
    UnsubscribeSegment,
)
from edge_node.engine.events import ModelReady, ModelRejected, OutboxSaved, RunEntered, StorageFailed
from edge_node.records import FinishedTraining, Held, OutboxEntry, RecoveredNode
from edge_node.runtime import executor
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.storage import bodies
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import HeldModel
from edge_node.training.update import ResidualAging
from edge_node.training.worker import run_round
from federation.errors import LocalProtocolError, StoreGone
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import Activity, Decline, NodeState, PartKind, Presence, Progress, UpdateOffer
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message
from federation.testing import FakeClock
from federation.types import Digest, FederationId, Incarnation, ModelVersion, RoundId, RunId, update_id
from tests.rigs.node_doubles import (
    MANIFEST,
    NODE,
    RUN,
    RecordingTrainer,
    RecordingTransport,
    announcement,
    model_ref,
    part,
    tensors,
    training_setup,
    vectors,
)
from tests.rigs.stores import FailingNodeStore, in_own_folder, reopened
from update_codec import Manifest, Role, decode

TOPICS = Topics(FederationId("fed"))
UPDATE = update_id(RoundId(7), NODE)


OTHER_RUN = RunId("00000000000000bb")


@dataclass
class Rig:
    """An executor between doubles."""

    store: FailingNodeStore = field(default_factory=partial(in_own_folder, FailingNodeStore))
    transport: RecordingTransport = field(default_factory=RecordingTransport)
    trainer: RecordingTrainer = field(default_factory=RecordingTrainer)
    executor: NodeExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.executor = NodeExecutor(
            NodeParts(
                setup=training_setup(),
                store=self.store,
                trainer=self.trainer,
                transport=self.transport,
                topics=TOPICS,
            )
        )
        if self.store.recovered().run is None:
            self.executor.execute(EnterRun(run=RUN))

    def adopt(self, version: int = 4, value: float = 0.0) -> list[object]:
        target = vectors(value)
        keyframe = part(PartKind.KEYFRAME, version, target)
        return list(self.executor.execute(AdoptModel(model=model_ref(version, target), parts=(keyframe,))))

    def train(self, round_number: int = 7, codec: str = "deadzone(bpp=2,feedback=1)") -> FinishedTraining:
        """Start a training and do the worker's work here."""
        assert list(self.executor.execute(StartTraining(announcement=announcement(round_number, codec=codec)))) == []
        return run_round(training_setup(), self.trainer.jobs[-1], lambda: False, FakeClock())

    def save(self, result: FinishedTraining, codec: str = "deadzone(bpp=2,feedback=1)") -> list[object]:
        return list(self.executor.execute(SaveOutbox(offer=offer(result.frame, result.round, codec), result=result)))


def offer(
    frame: bytes, round_number: int = 7, codec: str = "deadzone(bpp=2,feedback=1)", chunk_bytes: int = 61_440
) -> UpdateOffer:
    return UpdateOffer(
        run=RUN,
        round=RoundId(round_number),
        update=update_id(RoundId(round_number), NODE),
        incarnation=Incarnation(1),
        base_version=ModelVersion(4),
        base_digest=Digest(vectors().digest()),
        num_examples=10,
        metrics={},
        codec=codec,
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
        chunk_bytes=chunk_bytes,
    )


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(executor, "KEPT_BYTES_MIN", 0)  # the tests' models are small
    return Rig()


def test_state_is_published_retained(rig: Rig) -> None:
    """[FED-4] A node's state is retained."""
    state = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
    assert list(rig.executor.execute(PublishState(state=state))) == []
    (said,) = rig.transport.published
    assert (said.topic, said.qos, said.retain) == (TOPICS.node_state(NODE), 1, True)
    assert decode_message(said.payload) == state


def test_decline_and_progress_go_to_their_topics(rig: Rig) -> None:
    """[FED-3] Telemetry alone is QoS 0."""
    rig.executor.execute(PublishEvent(message=Decline(run=RUN, round=RoundId(7), reason="busy")))
    rig.executor.execute(PublishProgress(progress=Progress(round=RoundId(7), activity=Activity.TRAINING)))
    said = [(one.topic, one.qos, one.retain) for one in rig.transport.published]
    assert said == [(TOPICS.node_event(NODE), 1, False), (TOPICS.node_telemetry(NODE), 0, False)]


def test_segments_are_subscribed_and_unsubscribed(rig: Rig) -> None:
    rig.executor.execute(SubscribeSegment(version=ModelVersion(3), segment="k0"))
    assert rig.transport.filters == [TOPICS.model_segment(ModelVersion(3), "k0")]
    rig.executor.execute(UnsubscribeSegment(version=ModelVersion(3), segment="k0"))
    assert rig.transport.filters == []


def test_single_missing_chunks_are_subscribed_by_their_own_topics(rig: Rig) -> None:
    rig.executor.execute(SubscribeSegment(version=ModelVersion(3), segment="d0", indices=(4, 9)))
    assert rig.transport.filters == [TOPICS.model_chunk(ModelVersion(3), "d0", index) for index in (4, 9)]
    rig.executor.execute(UnsubscribeSegment(version=ModelVersion(3), segment="d0", indices=(4, 9)))
    assert rig.transport.filters == []


def test_adopted_model_is_announced_as_ready_and_saved_while_the_worker_trains(rig: Rig) -> None:
    assert rig.adopt(4, 0.0) == [ModelReady(version=ModelVersion(4), digest=Digest(vectors(0.0).digest()))]
    assert rig.store.held_model() is None
    rig.train()
    held = rig.store.held_model()
    assert held is not None
    assert held.version == 4


def test_model_of_one_message_is_not_kept_on_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "KEPT_BYTES_MIN", vectors(0.0).parameters.nbytes + 1)
    rig.adopt(4)
    rig.train()
    assert len(rig.trainer.jobs) == 1
    assert rig.store.held_model() is None


def test_model_that_is_saved_is_not_written_again(rig: Rig) -> None:
    rig.adopt()
    rig.train(7)
    rig.store.failing = True
    with capture_logs() as said:
        rig.train(8)
    assert said == []


def test_rejected_model_leaves_the_held_one(rig: Rig) -> None:
    rig.adopt(4)
    wrong = replace(model_ref(5, vectors(1.0)), digest=Digest(bytes(16)))
    (event,) = rig.executor.execute(AdoptModel(model=wrong, parts=()))
    assert isinstance(event, ModelRejected)
    rig.train()
    assert len(rig.trainer.jobs) == 1


def test_initial_model_is_made_from_its_seed(rig: Rig) -> None:
    (event,) = rig.executor.execute(MakeInitialModel(model=model_ref(0, vectors(6.0), seed=6)))
    assert event == ModelReady(version=ModelVersion(0), digest=Digest(vectors(6.0).digest()))


def test_model_that_cannot_be_saved_is_trained_all_the_same_and_saved_later(rig: Rig) -> None:
    rig.adopt()
    rig.store.failing = True
    with capture_logs() as said:
        rig.train(7)
    assert [line["event"] for line in said] == ["model_not_saved"]
    rig.store.failing = False
    rig.train(8)
    assert rig.store.held_model() is not None


def test_training_starts_from_the_held_model_and_the_residual(rig: Rig) -> None:
    rig.adopt(4)
    rig.save(rig.train(7))
    rig.train(8)
    job = rig.trainer.jobs[-1]
    np.testing.assert_array_equal(job.base.parameters, vectors().parameters)
    assert job.residual is rig.store.residual() is not None


def test_a_run_of_an_earlier_release_keeps_the_residual_of_all_its_parameters(rig: Rig) -> None:
    manifest = Manifest.of(tensors(), {"mean": Role.STATISTIC, "bias": Role.CONSTANT})
    assert manifest.former == MANIFEST
    assert manifest.parameter_count < MANIFEST.parameter_count
    setup = replace(training_setup(), manifest=manifest)
    parts = NodeParts(setup=setup, store=rig.store, trainer=rig.trainer, transport=rig.transport, topics=TOPICS)
    rig.executor = NodeExecutor(parts)
    rig.adopt(4)
    rig.save(rig.train(7))
    rig.train(8)
    assert rig.trainer.jobs[-1].residual is rig.store.residual() is not None


def test_a_residual_counts_less_after_versions_without_this_node(rig: Rig) -> None:
    rig.adopt(4)
    rig.save(rig.train(7))
    aging = replace(training_setup(), aging=ResidualAging(decay=0.5))
    parts = NodeParts(setup=aging, store=rig.store, trainer=rig.trainer, transport=rig.transport, topics=TOPICS)
    rig.executor = NodeExecutor(parts)
    shares = []
    for version in (5, 7):
        rig.adopt(version)
        rig.train(version)
        shares.append(rig.trainer.jobs[-1].residual_share)
    assert shares == [1.0, 0.25]


def test_a_residual_ages_on_the_disk_over_a_restart_and_then_expires(tmp_path: Path) -> None:
    def start() -> tuple[SqliteNodeStore, RecordingTrainer, Rig]:
        store, trainer = SqliteNodeStore(tmp_path / "state"), RecordingTrainer()
        rig = Rig(trainer=trainer)
        aging = replace(training_setup(), aging=ResidualAging(decay=0.5, versions_max=5))
        parts = NodeParts(setup=aging, store=store, trainer=trainer, transport=rig.transport, topics=TOPICS)
        rig.executor = NodeExecutor(parts)
        return store, trainer, rig

    store, trainer, rig = start()
    rig.adopt(4)
    rig.save(rig.train(7))  # its announcement is about version 4
    kept = store.residual()
    assert kept is not None
    assert kept.any()
    store.close()
    store, trainer, rig = start()
    np.testing.assert_array_equal(store.residual(), kept)
    shares = []
    for version in (5, 8, 10, 11):
        rig.adopt(version)
        rig.train(version)
        np.testing.assert_array_equal(trainer.jobs[-1].residual, kept)
        shares.append(trainer.jobs[-1].residual_share)
    assert shares == [1.0, 0.5**3, 0.5**5, 0.0]
    store.close()


def test_training_on_a_model_that_is_not_held_rejects_the_model(rig: Rig) -> None:
    effect = StartTraining(announcement=announcement(7, vectors(1.0)))
    for _ in range(2):
        (event,) = rig.executor.execute(effect)
        assert isinstance(event, ModelRejected)
        rig.adopt(4, 0.0)
    assert not rig.trainer.jobs


def test_stop_of_training_reaches_the_worker(rig: Rig) -> None:
    rig.executor.execute(StopTraining(round=RoundId(7)))
    assert rig.trainer.stopped == [7]


def test_update_and_residual_are_saved_before_the_offer(rig: Rig) -> None:
    rig.adopt()
    result = rig.train()
    assert rig.save(result) == [OutboxSaved(entry=OutboxEntry(offer=offer(result.frame)))]
    assert rig.store.recovered().last_round == 7
    assert rig.store.residual() is not None
    assert rig.transport.published == []


def test_failing_disk_answers_storage_failed_and_the_same_save_works_later(rig: Rig) -> None:
    rig.adopt()
    result = rig.train()
    rig.store.failing = True
    (event,) = rig.save(result)
    assert isinstance(event, StorageFailed)
    assert rig.store.residual() is None
    rig.store.failing = False
    assert [type(event) for event in rig.save(result)] == [OutboxSaved]


@pytest.mark.parametrize(
    "effect",
    [
        SaveProgress(run=RUN, last_round=RoundId(9)),
        MarkStored(update=UPDATE),
        SettleUpdate(update=UPDATE, applied=False),
        EnterRun(run=OTHER_RUN),
    ],
)
def test_every_other_save_on_a_failing_disk_answers_storage_failed(
    rig: Rig, effect: SaveProgress | MarkStored | SettleUpdate | EnterRun
) -> None:
    rig.adopt()
    rig.save(rig.train())
    before = rig.store.residual()
    rig.store.failing = True
    (event,) = rig.executor.execute(effect)
    assert isinstance(event, StorageFailed)
    assert event.effect == effect
    assert rig.store.residual() is before


def test_a_state_folder_that_was_moved_away_ends_the_node(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it kept from here on, no start would find; a new start does what can be done."""

    def moved(*_: object) -> None:
        raise StoreGone("was moved or deleted")

    monkeypatch.setattr(rig.store, "save_progress", moved)
    with pytest.raises(StoreGone):
        rig.executor.execute(SaveProgress(run=RUN, last_round=RoundId(9)))


def test_offer_carries_the_payload_only_when_asked(rig: Rig) -> None:
    rig.adopt()
    result = rig.train()
    rig.save(result)
    for inline in (True, False):
        rig.executor.execute(SendOffer(offer=offer(result.frame), inline=inline))
    sent = [decode_message(one.payload) for one in rig.transport.published]
    assert sent == [replace(offer(result.frame), inline=result.frame), offer(result.frame)]
    assert {one.topic for one in rig.transport.published} == {TOPICS.node_event(NODE)}


def test_offer_too_large_for_the_broker_goes_without_its_payload(rig: Rig) -> None:
    rig.adopt()
    result = rig.train()
    rig.save(result)
    rig.transport.packet_bytes_max = len(encode_message(offer(result.frame)))
    rig.executor.execute(SendOffer(offer=offer(result.frame), inline=True))
    assert [decode_message(one.payload) for one in rig.transport.published] == [offer(result.frame)]


def test_offer_of_an_update_that_is_not_in_the_outbox_is_our_own_bug(rig: Rig) -> None:
    with pytest.raises(LocalProtocolError, match="not in the outbox"):
        rig.executor.execute(SendOffer(offer=offer(b"frame"), inline=True))


def test_chunks_of_an_update_put_its_payload_together(rig: Rig) -> None:
    rig.adopt()
    result = rig.train()
    small = offer(result.frame, chunk_bytes=50)
    rig.executor.execute(SaveOutbox(offer=small, result=result))
    count = -(-len(result.frame) // 50)
    rig.executor.execute(SendChunks(update=UPDATE, indices=tuple(range(count)), chunk_bytes=50))
    assert b"".join(one.payload for one in rig.transport.published) == result.frame
    assert [one.topic for one in rig.transport.published] == [TOPICS.node_chunk(NODE, UPDATE, i) for i in range(count)]
    with pytest.raises(LocalProtocolError, match="chunks"):
        rig.executor.execute(SendChunks(update=UPDATE, indices=(count,), chunk_bytes=50))


def test_chunks_that_a_new_broker_does_not_take_end_no_process(rig: Rig) -> None:
    """It takes less than its profile says: the update stays in the outbox, and the log says why."""
    rig.adopt()
    result = rig.train()
    rig.executor.execute(SaveOutbox(offer=offer(result.frame, chunk_bytes=50), result=result))
    rig.transport.packet_bytes_max = 40
    with capture_logs() as logs:
        assert list(rig.executor.execute(SendChunks(update=UPDATE, indices=(0, 1), chunk_bytes=50))) == []
    assert [line["event"] for line in logs] == ["chunks_too_large"]
    assert rig.store.entry(UPDATE) is not None


def test_chunks_of_an_update_that_is_settled_are_not_sent(rig: Rig) -> None:
    assert list(rig.executor.execute(SendChunks(update=UPDATE, indices=(0,), chunk_bytes=50))) == []
    assert rig.transport.published == []


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("body", [None, b"other bytes"])
def test_an_update_that_the_disk_has_lost_ends_no_node_and_holds_nobody_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, body: bytes | None, *, stored: bool
) -> None:
    """It is not offered: chunks would be granted that never come. One that is stored needs no payload any more."""
    monkeypatch.setattr(bodies, "LARGE_BYTES", 4)
    rig.adopt()
    result = rig.train()
    rig.save(result)
    if stored:
        rig.executor.execute(MarkStored(update=UPDATE))
    (file,) = Path(rig.store._folder.path).glob("frame-*")
    file.unlink() if body is None else file.write_bytes(body)
    rig.executor._frames.forget()
    for inline in (True, False):
        with capture_logs() as logs:
            rig.executor.execute(SendOffer(offer=offer(result.frame), inline=inline))
        assert [line["event"] for line in logs].count("update_unreadable") == (inline or not stored)
    rig.executor.execute(SendChunks(update=UPDATE, indices=(0,), chunk_bytes=10))
    said = [decode_message(each.payload) for each in rig.transport.published]
    assert [each.inline for each in said if isinstance(each, UpdateOffer)] == [None, None] * stored
    assert len(said) == 2 * stored
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))
    assert rig.store.outbox() == ()


def test_stored_mark_and_progress_are_saved(rig: Rig) -> None:
    rig.adopt()
    rig.save(rig.train())
    assert list(rig.executor.execute(MarkStored(update=UPDATE))) == []
    assert list(rig.executor.execute(SaveProgress(run=RUN, last_round=RoundId(9)))) == []
    recovered = rig.store.recovered()
    assert (recovered.outbox[0].stored, recovered.last_round) == (True, 9)


def test_applied_update_keeps_the_residual(rig: Rig) -> None:
    rig.adopt()
    rig.save(rig.train())
    before = rig.store.residual()
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=True))
    assert rig.store.residual() is before
    assert rig.store.recovered().outbox == ()


def test_update_that_was_not_applied_goes_back_into_the_residual(rig: Rig) -> None:
    rig.adopt()
    result = rig.train()
    rig.save(result)
    before = rig.store.residual()
    assert before is not None
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))
    after = rig.store.residual()
    assert after is not None
    np.testing.assert_array_equal(after, before + decode(result.frame, MANIFEST).parameters)
    np.testing.assert_allclose(after[:12], np.ones(12), atol=1e-6)


def test_update_whose_values_were_refused_goes_nowhere(rig: Rig) -> None:
    """FED-51: neither what was sent nor what was left out is part of a later update."""
    rig.adopt()
    rig.save(rig.train())
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False, unfit=True))
    assert rig.store.residual() is None
    assert rig.store.recovered().outbox == ()
    rig.train(8)
    assert rig.trainer.jobs[-1].residual is None


def test_values_refused_during_training_are_undone_in_the_next_update(rig: Rig) -> None:
    """FED-51: what the next update carries of them is taken back by the one after it."""
    rig.adopt()
    rig.save(rig.train(7))
    used = rig.store.residual()
    assert used is not None
    second = rig.train(8)
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False, unfit=True))
    rig.save(second)
    total = rig.store.residual()
    assert total is not None
    sent = total + decode(second.frame, MANIFEST).parameters
    np.testing.assert_allclose(sent, [1.0] * 12 + [0.0] * 3, atol=1e-5)


def test_update_without_feedback_is_not_given_back(rig: Rig) -> None:
    rig.adopt()
    rig.save(rig.train(codec="lossless"), codec="lossless")
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))
    assert rig.store.residual() is None
    assert rig.store.recovered().outbox == ()


def test_verdict_on_an_unknown_update_changes_nothing(rig: Rig) -> None:
    assert list(rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))) == []
    assert rig.store.residual() is None


def test_verdict_during_training_survives_the_next_save(rig: Rig) -> None:
    rig.adopt()
    first = rig.train(7)
    rig.save(first)
    second = rig.train(8)
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))
    rig.save(second)
    total = rig.store.residual()
    assert total is not None
    np.testing.assert_allclose(total + decode(second.frame, MANIFEST).parameters, [2.0] * 12 + [0.0] * 3, atol=1e-5)


def test_result_without_a_residual_change_keeps_the_residual(rig: Rig) -> None:
    rig.adopt()
    rig.save(rig.train(7))
    before = rig.store.residual()
    rig.save(replace(rig.train(8), token=None))
    assert rig.store.residual() is before


def test_frame_that_no_longer_fits_the_task_is_settled_without_being_given_back(rig: Rig) -> None:
    foreign = FinishedTraining(round=RoundId(7), frame=b"another model", num_examples=1, metrics={}, train_s=0.0)
    rig.save(foreign)
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))
    assert rig.store.recovered().outbox == ()
    assert rig.store.residual() is None


def test_update_of_a_codec_that_is_no_longer_known_is_settled_all_the_same(rig: Rig) -> None:
    rig.store.save_outbox(OutboxEntry(offer=offer(b"frame", codec="forgotten")), b"frame", None)
    rig.executor.execute(SettleUpdate(update=UPDATE, applied=False))
    assert rig.store.recovered().outbox == ()


def test_residual_of_another_model_is_not_used(rig: Rig) -> None:
    rig.store.save_outbox(OutboxEntry(offer=offer(b"x", 3)), b"x", np.ones(99, np.float32))
    rig.adopt()
    rig.train(8)
    assert rig.trainer.jobs[-1].residual is None


def test_held_model_of_another_task_is_as_good_as_none() -> None:
    store = in_own_folder(FailingNodeStore)
    store.enter_run(RUN)
    content = vectors()
    store.save_model(
        HeldModel(
            version=ModelVersion(4),
            digest=Digest(content.digest()),
            manifest_digest=bytes(16),
            vectors=content,
        )
    )
    assert Rig(store=store).executor.recovered() == RecoveredNode(run=RUN)


def test_recovered_state_names_the_held_model(rig: Rig) -> None:
    rig.adopt(4)
    rig.train()
    again = Rig(store=reopened(rig.store))
    assert again.executor.recovered().held_version == 4


def test_another_run_hides_model_residual_and_outbox_until_the_first_one_is_back(rig: Rig) -> None:
    """FED-19."""
    rig.adopt()
    rig.save(rig.train())
    kept, held = rig.store.residual(), rig.store.held_model()
    assert list(rig.executor.execute(EnterRun(run=OTHER_RUN))) == [RunEntered(run=OTHER_RUN)]
    assert (rig.store.residual(), rig.store.held_model(), rig.store.outbox()) == (None, None, ())
    (event,) = rig.executor.execute(StartTraining(announcement=announcement(8)))
    assert isinstance(event, ModelRejected)
    (entered,) = rig.executor.execute(EnterRun(run=RUN))
    assert held is not None
    assert entered == RunEntered(run=RUN, held=Held(version=held.version, digest=held.digest))
    np.testing.assert_array_equal(rig.store.residual(), kept)
    assert [one.offer.update for one in rig.store.outbox()] == [UPDATE]
    rig.train(8)


def test_runs_that_the_disk_has_no_room_for_are_named(rig: Rig) -> None:
    runs = [RunId(f"{number:016x}") for number in range(1, 5)]
    answers = [one for run in runs for one in rig.executor.execute(EnterRun(run=run))]
    assert [one.forgotten for one in answers if isinstance(one, RunEntered)] == [(), (), (), (RUN,)]


def test_notes_are_logged_and_stop_stops(rig: Rig) -> None:
    with capture_logs() as said:
        rig.executor.execute(Note(event="round_joined", fields={"round": 7}))
        assert not rig.executor.stopped
        rig.executor.execute(Stop(reason="operator"))
    assert (rig.executor.stopped, rig.executor.stop_reason) == (True, "operator")
    assert [(line["event"], line.get("round")) for line in said] == [("round_joined", 7), ("stopping", None)]


def test_a_run_that_cannot_be_entered_on_disk_is_at_hand_all_the_same(rig: Rig) -> None:
    """FED-19: nothing of the former one is used for it, and none of its updates is lost."""
    rig.adopt()
    rig.save(rig.train())
    rig.store.failing = True
    entering = EnterRun(run=OTHER_RUN)
    assert failed(rig.executor.execute(entering)) == [entering]
    rig.store.failing = False
    assert failed(rig.executor.execute(entering)) == []
    assert rig.store.recovered().run == OTHER_RUN
    assert [one.run for one in rig.store.recovered().hidden] == [RUN]


def failed(events: Iterable[object]) -> list[object]:
    """The effects that failed."""
    return [event.effect for event in events if isinstance(event, StorageFailed)]
