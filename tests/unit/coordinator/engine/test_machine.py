"""The corners of the coordinator's machine: foreign offers, failing stores, odd nodes, restarts, the end."""

import pytest

from coordinator.engine import effects, events, registry
from coordinator.engine.alarms import STORAGE_RETRY_MAX_S
from coordinator.engine.announcer import round_seed
from coordinator.engine.assignments import LEASE_RESTARTS_MAX
from coordinator.engine.effects import ClearModel, Note, PublishAnnouncement
from coordinator.engine.events import MessageRefused
from coordinator.engine.settings import FINISH_WAIT_S
from coordinator.engine.transfers import TRANSFER_IDLE_S
from coordinator.engine.versions import EVALUATIONS_MAX
from coordinator.records import Member, RoundRecord, TransferRecord, UpdateRecord, Verdict
from coordinator.strategies.learning_rate import RateSchedule, ScheduleKind
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import COHORT_NODES_MAX, cohort_of
from federation.protocol.limits import COHORT_NODES_DESCRIBED_MAX
from federation.protocol.messages import Activity, Presence, Progress, Reason, ReceiptStatus, TrainSettings
from federation.types import Incarnation, ModelVersion, NodeId, RoundId, RunId, UpdateId
from tests.rigs.coordinator_rig import DIGEST, RUN, Rig, digest_of, engine, fresh, offer_of, transcript, version_record

ANN, BOB = NodeId("ann"), NodeId("bob")
BODIES = (b"0123", b"4567", b"89")
LARGE = {"inline": None, "payload_bytes": 10, "chunk_bytes": 4}
ASYNC = engine(concurrency=3, buffer=2, refill=1, max_staleness=2, nodes_min=3, lease_s=600.0)


def record_of(node: str, round_id: int, base: int = 0) -> UpdateRecord:
    return UpdateRecord(
        update=UpdateId(f"{round_id}-{node}"),
        node=NodeId(node),
        round=RoundId(round_id),
        base_version=ModelVersion(base),
        num_examples=10,
        codec="edge",
        payload_bytes=10,
        payload_digest=DIGEST,
    )


def round_of(round_id: int, *nodes: str, version: int = 0) -> RoundRecord:
    names = tuple(NodeId(node) for node in nodes)
    return RoundRecord(
        round=RoundId(round_id),
        version=ModelVersion(version),
        nodes=names,
        cohort=cohort_of(RUN, RoundId(round_id), names),
    )


# --- offers ---------------------------------------------------------------------------------------------------------


def test_an_update_of_another_run_is_not_answered_and_said_once() -> None:
    """FED-98: that run's coordinator may have it on disk; the same id may belong to honest work of this run."""
    rig = Rig()
    rig.start("ann", "bob")
    former = RunId("f" * 16)
    known = Verdict(update=UpdateId("0-ann"), node=ANN, status=ReceiptStatus.APPLIED)
    foreign = events.OfferReceived(node=ANN, offer=offer_of("ann", 0, run=former), known=known)
    assert transcript(rig.tell(foreign), notes=True) == ["note other_run_update"]
    assert transcript(rig.tell(foreign), notes=True) == []
    assert rig.get("counters") == {"other_run_updates": 2}
    assert transcript(rig.offer("ann", 0)) == ["store 0-ann", "tell ann stored 0-ann"]


def test_the_verdict_that_is_known_is_said_again() -> None:
    """FED-43: stored, applied, stale and refused updates alike."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    assert transcript(rig.offer("ann", 0)) == ["tell ann stored 0-ann"]
    rig.offer("bob", 0)
    assert transcript(rig.offer("ann", 0)) == ["tell ann applied 0-ann in 1"]


def test_an_offer_that_comes_again_before_the_store_has_answered_changes_nothing() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    event = events.OfferReceived(node=ANN, offer=offer_of("ann", 0))
    assert transcript(rig.machine.handle(event, rig.now)) == ["store 0-ann"]
    assert rig.machine.handle(event, rig.now) == []
    rig.machine.handle(events.UpdateStored(update=UpdateId("0-ann")), rig.now)
    assert transcript(rig.machine.handle(event, rig.now)) == ["tell ann stored 0-ann"]


def test_a_stored_update_that_the_machine_lost_sight_of_counts_after_all() -> None:
    """FED-49: after `stored` a final receipt follows."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.store.save_update(record_of("ann", 0))
    assert transcript(rig.offer("ann", 0)) == ["tell ann stored 0-ann"]
    assert rig.get("buffered") == 1


def test_a_stored_update_that_became_too_old_out_of_sight_is_settled() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.offer("bob", 0)
    rig.store.save_update(record_of("cid", 0))
    assert transcript(rig.offer("cid", 0)) == [
        "tell cid rebirth",
        "save 0-cid stale too_stale",
        "tell cid stale 0-cid too_stale",
    ]


def test_a_node_that_was_not_asked_is_refused_and_the_run_goes_on() -> None:
    """FED-45: also after a restart, when only the cohort tells who was asked."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.state("cid")
    assert transcript(rig.offer("cid", 0)) == ["save 0-cid refused not_assigned", "tell cid refused 0-cid not_assigned"]
    rig.restart()
    rig.connect()
    assert "tell dan refused 0-dan not_assigned" in transcript(rig.offer("dan", 0))
    assert "tell ann stored 0-ann" in transcript(rig.offer("ann", 0))


def test_what_a_standing_announcement_names_is_cleared_only_after_the_next_one() -> None:
    """FED-35: two versions were committed since the last announcement."""
    rig = Rig(engine(concurrency=2, buffer=1, refill=2, max_staleness=5, nodes_min=2))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    stands = rig.announced
    found = rig.offer("bob", 0)
    assert stands is not None
    assert transcript(found)[-3:] == ["clear all but model 2", "publish model 2", "announce round 1 of version 2"]
    assert [effect.named for effect in found if isinstance(effect, ClearModel)] == [stands.model.parts]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"payload_bytes": 100_001}, "100001 bytes; limits.payload_bytes_max: 100000"),
        ({"fetched_bytes": 2**63}, f"it says that it has fetched {2**63} bytes; at most {2**53 - 1} are believed"),
        ({"payload_bytes": 70_000, "chunk_bytes": 1}, "70000 bytes in chunks of 1; at most 65536 chunks"),
    ],
)
def test_an_update_that_is_too_large_is_refused_and_the_log_names_the_limit(
    changes: dict[str, object], detail: str
) -> None:
    rig = Rig(engine(payload_bytes_max=100_000))
    rig.start("ann", "bob")
    effects = rig.offer("ann", 0, **{**LARGE, **changes})
    assert transcript(effects)[:2] == ["save 0-ann refused too_large", "tell ann refused 0-ann too_large"]
    said = [effect.fields["detail"] for effect in effects if isinstance(effect, Note) and effect.fields.get("detail")]
    assert said == [detail]


def test_a_frame_that_is_refused_costs_one_update_and_its_node_rests() -> None:
    """FED-45."""
    rig = Rig(engine(quorum=2))
    rig.start("ann", "bob")
    rig.rejecting = Reason.NOT_FINITE
    assert transcript(rig.offer("ann", 0)) == [
        "store 0-ann",
        "save 0-ann refused not_finite",
        "tell ann refused 0-ann not_finite",
    ]
    rig.rejecting = None
    assert transcript(rig.offer("bob", 0))[1] == "tell bob stored 0-bob"
    assert rig.waiting_for == "no_candidates"
    assert transcript(rig.wait(5.0))[-2] == "save round 1 of version 0 for ann"


def test_a_full_quota_refuses_the_second_update_but_not_the_node() -> None:
    rig = Rig(ASYNC)
    rig.start("ann", "bob", "cid")
    rig.wait(601.0)
    late = max(rig.store.rounds)
    rig.offer("ann", 0)
    effects = transcript(rig.offer("ann", late))
    assert effects == [f"save {late}-ann refused quota", f"tell ann refused {late}-ann quota"]


@pytest.mark.parametrize(("max_staleness", "live"), [(0, 0), (1, 1)])
def test_a_late_update_spares_its_node_the_work_that_could_not_count(max_staleness: int, live: int) -> None:
    """FED-29, FED-32: the round would wait for it otherwise."""
    rig = Rig(engine(quorum=3, concurrency=3, buffer=3, refill=3, max_staleness=max_staleness))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.wait(60.0)
    assert rig.store.rounds[RoundId(1)].nodes == (BOB,)
    assert ("tell bob cancel 1" in transcript(rig.offer("bob", 0))) is (live == 0)
    assert rig.get("live") == live


def test_answers_to_questions_that_were_never_asked_are_ignored() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert rig.tell(events.UpdateStored(update=UpdateId("7-ann"))) == []
    unknown = events.UpdateRejected(update=UpdateId("7-ann"), node=ANN, reason=Reason.NORM, detail="")
    assert rig.tell(unknown) == []


def test_an_update_that_is_stored_after_its_base_grew_too_old_is_stale() -> None:
    rig = Rig(engine(concurrency=3, nodes_min=3))
    rig.start("ann", "bob", "cid")
    rig.machine.handle(events.OfferReceived(node=NodeId("cid"), offer=offer_of("cid", 0)), rig.now)
    rig.offer("ann", 0)
    rig.offer("bob", 0)
    rig.store.save_update(record_of("cid", 0))
    assert "save 0-cid stale too_stale" in transcript(rig.tell(events.UpdateStored(update=UpdateId("0-cid"))))


# --- transfers ------------------------------------------------------------------------------------------------------


def test_too_many_transfers_are_told_to_come_later() -> None:
    """FED-48: and never all at the same time."""
    rig = Rig(engine(transfers_max=1))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    assert transcript(rig.offer("bob", 0, **LARGE)) == ["tell bob retry 0-bob"]


@pytest.mark.parametrize(("presence", "quiet_s"), [(Presence.LOST, 30.0), (Presence.ONLINE, 60.0)])
def test_the_place_of_a_transfer_that_went_quiet_is_given_to_who_waits(presence: Presence, quiet_s: float) -> None:
    """FED-29: a node that is gone, or was granted and never sends, holds no place longer than its lease."""
    rig = Rig(engine(transfers_max=1, lease_s=60.0, max_staleness=10))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.state("ann", presence)
    rig.wait(quiet_s - 1.0)
    assert transcript(rig.offer("bob", 0, **LARGE)) == ["tell bob retry 0-bob"]
    rig.wait(1.0)
    assert transcript(rig.offer("bob", 0, **LARGE))[:2] == ["drop transfer 0-ann", "open transfer 0-bob"]
    assert transcript(rig.offer("ann", 0, **LARGE))[0] == "tell ann retry 0-ann"


def test_a_transfer_whose_chunks_arrive_keeps_its_place() -> None:
    rig = Rig(engine(transfers_max=1, lease_s=60.0, max_staleness=10))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.wait(50.0)
    rig.chunk("ann", "0-ann", 0, BODIES[0])
    rig.wait(50.0)
    assert transcript(rig.offer("bob", 0, **LARGE))[0] == "tell bob retry 0-bob"


@pytest.mark.parametrize("signed", [True, False])
def test_chunks_that_were_altered_on_their_way_do_not_end_an_update(signed: bool) -> None:
    """FED-78: whoever alters a chunk would otherwise have the update dropped, and one of another run may be late."""
    rig = Rig(engine(signed=signed))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.rejecting = Reason.DIGEST_MISMATCH
    lines = [line for index, body in enumerate(BODIES) for line in transcript(rig.chunk("ann", "0-ann", index, body))]
    assert lines[-2:] == ["drop transfer 0-ann", "tell ann retry 0-ann"]
    rig.rejecting = None
    assert transcript(rig.offer("ann", 0, **LARGE))[0] == "open transfer 0-ann"
    lines = [line for index, body in enumerate(BODIES) for line in transcript(rig.chunk("ann", "0-ann", index, body))]
    assert lines[-1] == "tell ann stored 0-ann"


def test_without_signatures_other_bytes_than_were_offered_are_refused_the_second_time() -> None:
    """FED-78: nothing says that it is not the node itself that sends them."""
    rig = Rig(engine())
    rig.start("ann", "bob")
    rig.rejecting = Reason.DIGEST_MISMATCH
    for ending in ("tell ann retry 0-ann", "tell ann refused 0-ann digest_mismatch"):
        rig.offer("ann", 0, **LARGE)
        lines = [
            line for index, body in enumerate(BODIES) for line in transcript(rig.chunk("ann", "0-ann", index, body))
        ]
        assert ending in lines


def test_a_payload_inside_a_signed_offer_is_the_nodes_own_word() -> None:
    """FED-78, FED-45."""
    rig = Rig(engine(signed=True))
    rig.start("ann", "bob")
    rig.rejecting = Reason.DIGEST_MISMATCH
    assert "tell ann refused 0-ann digest_mismatch" in transcript(rig.offer("ann", 0))


def test_a_transfer_that_stopped_is_dropped_and_can_begin_again() -> None:
    rig = Rig(engine(quorum=2))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    assert "drop transfer 0-ann" in transcript(rig.wait(TRANSFER_IDLE_S))
    assert transcript(rig.offer("ann", 0, **LARGE))[0] == "open transfer 0-ann"


def test_a_node_that_trained_the_round_again_sends_other_bytes() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    assert transcript(rig.offer("ann", 0, **{**LARGE, "payload_bytes": 8})) == [
        "drop transfer 0-ann",
        "open transfer 0-ann",
        "tell ann grant 0-ann 00 window 128",
    ]
    assert transcript(rig.offer("ann", 0)) == ["drop transfer 0-ann", "store 0-ann", "tell ann stored 0-ann"]


@pytest.mark.parametrize(
    ("node", "update", "index", "body"),
    [
        ("bob", "0-ann", 0, b"0123"),
        ("ann", "0-bob", 0, b"0123"),
        ("ann", "0-ann", 0, b"012"),
        ("ann", "0-ann", 9, b"0"),
    ],
)
def test_a_chunk_that_was_not_granted_is_ignored(node: str, update: str, index: int, body: bytes) -> None:
    """FED-55, FED-6."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    assert rig.chunk(node, update, index, body) == []


def test_a_transfer_whose_base_grew_too_old_ends_with_its_receipt() -> None:
    rig = Rig(engine(concurrency=3, nodes_min=3))
    rig.start("ann", "bob", "cid")
    rig.offer("cid", 0, **LARGE)
    rig.offer("ann", 0)
    lines = transcript(rig.offer("bob", 0))
    place = lines.index("drop transfer 0-cid")
    assert lines[place + 1 : place + 3] == ["save 0-cid stale too_stale", "tell cid stale 0-cid too_stale"]
    assert not rig.store.transfers


def test_chunks_that_nobody_could_hear_are_asked_for_again() -> None:
    """FED-329: their node would wait for the next grant until its own limit, three minutes."""
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0, **LARGE)
    rig.chunk("ann", "0-ann", 0, b"0123")
    assert transcript(rig.tell(events.ChunksLost())) == ["tell ann retry 0-ann"]
    assert transcript(rig.offer("ann", 0, **LARGE)) == ["tell ann grant 0-ann 01 window 128"]
    assert transcript(rig.wait(1.0)) == []


def test_no_word_about_lost_chunks_before_this_process_leads() -> None:
    """FED-97."""
    rig = Rig(engine(max_wait_s=1e9, settle_s=1.0))
    rig.start("ann", "bob")
    rig.wait(1.0)
    rig.offer("ann", 0, **LARGE)
    rig.disconnect()
    rig.connect()
    assert transcript(rig.tell(events.ChunksLost())) == []
    assert "tell ann retry 0-ann" in transcript(rig.wait(1.0))


# --- the store fails ------------------------------------------------------------------------------------------------


def test_a_chunk_that_did_not_reach_the_disk_is_asked_for_again() -> None:
    """FED-47: only what is on disk is in the bitmap."""
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.chunk("ann", "0-ann", 0, b"0123")
    rig.failing = True
    assert transcript(rig.chunk("ann", "0-ann", 1, b"4567")) == ["accept failure", "tell ann retry 0-ann"]
    assert rig.chunk("ann", "0-ann", 2, b"89") == []
    rig.failing = False
    rig.wait(1.0)
    assert transcript(rig.offer("ann", 0, **LARGE)) == ["tell ann grant 0-ann 01 window 128"]


def test_a_transfer_that_could_not_be_opened_is_offered_again() -> None:
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.failing = True
    assert transcript(rig.offer("ann", 0, **LARGE)) == ["accept failure", "tell ann retry 0-ann"]
    assert rig.get("transfers") == 0
    rig.failing = False
    rig.wait(1.0)
    assert transcript(rig.offer("ann", 0, **LARGE))[0] == "open transfer 0-ann"


def test_a_complete_transfer_is_stored_after_the_pause_without_its_node() -> None:
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.failing, rig.failing_kinds = True, (effects.StoreTransfer,)
    rig.chunk("ann", "0-ann", 0, b"0123")
    rig.chunk("ann", "0-ann", 1, b"4567")
    assert transcript(rig.chunk("ann", "0-ann", 2, b"89")) == ["store chunk 2 of 0-ann", "accept failure"]
    assert rig.get("paused")
    rig.failing = False
    lines = transcript(rig.wait(1.0))
    assert "tell ann stored 0-ann" in lines


def test_an_answer_about_a_transfer_that_has_ended_changes_nothing() -> None:
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    assert rig.tell(events.ChunkStored(update=UpdateId("0-ann"), index=0)) == []
    assert rig.tell(events.UpdateStored(update=UpdateId("0-ann"))) == []


def test_nothing_is_decided_while_the_disk_is_asked() -> None:
    """A lease ends while an offer is handled: whether the offer counts is known before anybody else is asked."""
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, nodes_min=1))
    rig.start("ann", "bob")
    rig.wait(rig.settings.lease_s - 1.0)
    rig.now += 1.0
    (asked,) = rig.store.rounds[RoundId(0)].nodes
    assert transcript(rig.offer(asked, 0))[:4] == [
        f"tell {asked} rebirth",
        f"store 0-{asked}",
        f"tell {asked} stored 0-{asked}",
        f"close {asked} in round 0",
    ]
    assert rig.store.rounds[RoundId(1)].version == 1


def test_a_failing_transfer_from_before_a_restart_is_tried_again_after_the_pause() -> None:
    saved = TransferRecord(record=record_of("ann", 0), chunk_bytes=4, arrived=frozenset({0, 1, 2}))
    rig = Rig(recovered=fresh(next_round=RoundId(1), transfers=(saved,)))
    rig.store.transfers[saved.record.update] = saved
    assert transcript(rig.tell(None)) == []
    rig.failing = True
    assert transcript(rig.connect())[-1] == "accept failure"
    rig.failing = False
    assert {"store 0-ann", "tell ann stored 0-ann"} <= set(transcript(rig.wait(1.0)))


def test_a_complete_transfer_outlasts_any_storage_failure() -> None:
    """What has arrived is not thrown away because our own disk is full."""
    saved = TransferRecord(record=record_of("ann", 0), chunk_bytes=4, arrived=frozenset({0, 1, 2}))
    rig = Rig(recovered=fresh(next_round=RoundId(1), transfers=(saved,)))
    rig.store.transfers[saved.record.update] = saved
    rig.failing = True
    rig.connect()
    lines = transcript(rig.wait(2.0 * TRANSFER_IDLE_S))
    assert not any(line.startswith("drop") for line in lines)
    rig.failing = False
    assert "tell ann stored 0-ann" in transcript(rig.wait(STORAGE_RETRY_MAX_S))


def test_what_fell_due_during_a_pause_is_done_when_it_ends() -> None:
    rig = Rig(engine(max_wait_s=1e9, lease_s=1e6, quorum=2))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.wait(TRANSFER_IDLE_S - 0.5)
    rig.tell(events.StorageFailed(detail="EIO"))
    lines = transcript(rig.wait(1.0))
    assert lines[-1] == "drop transfer 0-ann"
    assert rig.get("transfers") == 0


def test_a_transfer_that_cannot_be_dropped_is_dropped_after_the_pause() -> None:
    rig = Rig(engine(max_wait_s=1e9, lease_s=1e6, quorum=2))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.failing = True
    rig.wait(TRANSFER_IDLE_S)
    assert (rig.get("transfers"), list(rig.store.transfers)) == (0, [UpdateId("0-ann")])
    rig.failing = False
    assert "drop transfer 0-ann" in transcript(rig.wait(STORAGE_RETRY_MAX_S))
    assert not rig.store.transfers
    assert not any("drop" in line for line in transcript(rig.wait(STORAGE_RETRY_MAX_S)))


def test_a_transfer_that_could_not_be_dropped_and_is_offered_again_stays() -> None:
    rig = Rig(engine(max_wait_s=1e9, lease_s=1e6, quorum=2))
    rig.start("ann", "bob")
    rig.offer("ann", 0, **LARGE)
    rig.failing = True
    rig.wait(TRANSFER_IDLE_S)
    rig.failing = False
    rig.now += STORAGE_RETRY_MAX_S
    said = transcript(rig.offer("ann", 0, **LARGE)) + transcript(rig.wait(STORAGE_RETRY_MAX_S))
    assert "open transfer 0-ann" in said
    assert "drop transfer 0-ann" not in said
    assert list(rig.store.transfers) == [UpdateId("0-ann")]


def test_pauses_double_are_bounded_and_shrink_after_a_success() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.failing = True
    rig.offer("ann", 0)
    pauses = []
    for _ in range(10):
        due = rig.machine.deadline()
        assert due is not None
        pauses.append(due - rig.now)
        rig.now = due
        rig.tell(None)
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert pauses[-1] == STORAGE_RETRY_MAX_S
    rig.failing = False
    rig.wait(STORAGE_RETRY_MAX_S)
    rig.state("ann", incarnation=Incarnation(2))
    rig.offer("ann", max(rig.store.rounds))
    rig.failing = True
    rig.tell(events.StorageFailed(detail="disk full"))
    due = rig.machine.deadline()
    assert due is not None
    assert due - rig.now == 1.0


def test_a_reconnect_during_a_pause_announces_only_what_is_saved() -> None:
    """FED-24."""
    rig = Rig()
    rig.connect()
    rig.state("ann")
    rig.failing = True
    assert transcript(rig.state("bob")) == ["accept failure"]
    rig.disconnect()
    assert transcript(rig.connect()) == ["publish state online epoch 1", "publish model 0"]
    rig.failing = False
    assert "announce round 0 of version 0" in transcript(rig.wait(1.0))


def test_known_verdicts_are_repeated_during_a_pause_and_what_is_new_comes_later() -> None:
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.tell(events.StorageFailed(detail="EIO"))
    assert transcript(rig.offer("ann", 0)) == ["tell ann stored 0-ann"]
    assert transcript(rig.offer("bob", 0)) == ["tell bob retry 0-bob"]


# --- commits --------------------------------------------------------------------------------------------------------


def test_nothing_else_is_committed_while_a_commit_is_under_way() -> None:
    rig = Rig(engine(concurrency=3, nodes_min=3))
    rig.start("ann", "bob", "cid")
    rig.holding_commits = True
    rig.offer("ann", 0)
    assert transcript(rig.offer("bob", 0))[-1] == "commit 1 of 0-ann@0 0-bob@0 because buffer_full"
    assert transcript(rig.offer("cid", 0)) == ["store 0-cid", "tell cid stored 0-cid"]
    members = tuple(
        Member(update=UpdateId(f"0-{node}"), node=NodeId(node), num_examples=10, staleness=0) for node in ("ann", "bob")
    )
    record = rig.store.commit(ModelVersion(1), members)
    lines = transcript(rig.tell(events.VersionCommitted(record=record, members=members)))
    assert lines[:4] == [
        "tell ann applied 0-ann in 1",
        "tell bob applied 0-bob in 1",
        "save 0-cid stale too_stale",
        "tell cid stale 0-cid too_stale",
    ]


def test_the_culprit_of_a_failed_commit_is_refused_and_the_others_count() -> None:
    """FED-45: a bad update costs one update, never the run."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.commit_failure = events.CommitFailed(culprits=(UpdateId("0-bob"),), reason=Reason.NORM, detail="norm 1e9")
    assert transcript(rig.offer("bob", 0))[3:8] == [
        "save 0-bob refused norm",
        "tell bob refused 0-bob norm",
        "commit 1 of 0-ann@0 because nobody_left",
        "tell ann applied 0-ann in 1",
        "close ann bob in round 0",
    ]


def test_a_failed_commit_without_a_culprit_is_not_tried_for_ever() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.commit_failure = events.CommitFailed(culprits=(), reason=Reason.NOT_FINITE, detail="step")
    lines = transcript(rig.offer("bob", 0))
    assert "save 0-ann refused not_finite" in lines
    assert "save 0-bob refused not_finite" in lines
    assert rig.get("buffered") == 0


def test_evaluations_under_way_are_bounded_and_the_newest_is_kept() -> None:
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, nodes_min=1, evaluate_every=1))
    rig.start("ann")
    for number in range(EVALUATIONS_MAX + 3):
        rig.offer("ann", number)
    assert rig.evaluations == list(range(1, EVALUATIONS_MAX + 1))
    rig.tell(events.Evaluated(version=ModelVersion(2), metrics={}))
    assert rig.evaluations[EVALUATIONS_MAX:] == [EVALUATIONS_MAX + 3]


def test_only_each_nth_version_and_the_last_are_evaluated() -> None:
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, nodes_min=1, evaluate_every=2, versions=3))
    rig.start("ann")
    for number in range(3):
        rig.offer("ann", number)
    assert rig.evaluations == [2, 3]


# --- nodes ----------------------------------------------------------------------------------------------------------


def test_an_unknown_node_is_asked_for_its_state() -> None:
    """FED-23, FED-53: telemetry alone decides nothing."""
    rig = Rig()
    rig.start("ann", "bob")
    progress = Progress(round=RoundId(0), activity=Activity.TRAINING)
    before = rig.machine.snapshot()
    assert transcript(rig.tell(events.ProgressReceived(node=NodeId("cid"), progress=progress))) == ["tell cid rebirth"]
    assert rig.tell(events.ProgressReceived(node=ANN, progress=progress)) == []
    assert rig.machine.snapshot() == before


def test_bytes_that_are_no_message_are_counted_and_noted_once_per_kind() -> None:
    """FED-18: never answered."""
    rig = Rig()
    topics = ["fl/f/n/ann/evt", "fl/f/n/bob/evt", "fl/f/n/ann/up/0-ann/3", "x", "fl/f/n/ann/up/0-ann/4"]
    said = [transcript(rig.tell(MessageRefused(topic=topic, reason="truncated")), notes=True)[:1] for topic in topics]
    assert [line == ["note message_refused"] for line in said] == [True, False, True, True, False]
    assert rig.get("counters") == {"messages_refused": 5}


def test_a_declining_node_is_left_alone_for_as_long_as_it_asked() -> None:
    """FED-29, FED-30."""
    rig = Rig(engine(quorum=2, max_wait_s=1e9, lease_s=1e6))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.decline("bob", 0, retry_after_s=100.0)
    assert rig.get("live") == 0
    assert transcript(rig.wait(99.0)) == []
    assert transcript(rig.wait(1.0))[0] == "save round 1 of version 0 for bob"


def nobody(rig: Rig) -> tuple[bool, dict[str, str], int]:
    """Whether nobody trains, who fails and why, and how many do."""
    waiting = rig.machine.snapshot()["waiting_for"]
    assert isinstance(waiting, dict)
    return waiting["nobody_trains"], waiting["failing"], waiting["failed"]


def said_nobody(done: list[effects.Effect]) -> list[dict[str, object]]:
    """What the log says of nobody's training."""
    return [dict(effect.fields) for effect in done if isinstance(effect, Note) and effect.event == "nobody_trains"]


def test_when_nobody_trains_it_is_said_with_every_reason_once_and_in_the_first_round() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert said_nobody(rig.decline("ann", 0, reason="no data")) == []
    assert nobody(rig) == (False, {"ann": "no data"}, 1)
    said = said_nobody(rig.decline("bob", 0, reason="no \x1b[2Jmemory"))
    assert said == [{"version": 0, "failing": {"ann": "no data", "bob": "no [2Jmemory"}, "failed": 2}]
    assert nobody(rig)[0]
    again = rig.wait(60.0)
    assert rig.announced is not None
    again += rig.decline("ann", rig.announced.round, reason="") + rig.decline("bob", rig.announced.round)
    assert said_nobody(again) == []
    assert nobody(rig) == (True, {"ann": "no reason", "bob": "busy"}, 2)


def test_whoever_delivers_leaves_or_is_born_again_does_not_fail_any_more() -> None:
    rig = Rig(engine(quorum=1, max_wait_s=1.0))
    rig.start("ann", "bob")
    rig.decline("ann", 0)
    rig.decline("bob", 0)
    assert nobody(rig)[0]
    rig.wait(60.0)
    assert rig.announced is not None
    assert not nobody(rig)[0]
    rig.offer("ann", rig.announced.round)
    assert nobody(rig) == (False, {"bob": "busy"}, 1)
    rig.state("bob", incarnation=Incarnation(2))
    assert nobody(rig) == (False, {}, 0)
    rig.decline("bob", rig.announced.round)
    rig.state("bob", Presence.LOST, incarnation=Incarnation(2))
    assert nobody(rig) == (False, {}, 0)


def test_updates_that_are_refused_and_nodes_that_are_incompatible_are_reasons_too() -> None:
    rig = Rig(engine(nodes_min=1, quorum=1))
    rig.start("ann", "bob")
    rig.rejecting = Reason.NORM
    done = rig.offer("ann", 0) + rig.state("bob", incarnation=Incarnation(2), task="other")
    (said,) = said_nobody(done)
    assert said["failing"] == {
        "ann": "its update was refused: bad",
        "bob": "incompatible: its task is other, its codecs are ('edge',)",
    }
    rig.state("cid")
    assert not nobody(rig)[0]


def test_a_decline_of_a_node_that_nobody_knows_is_no_reason() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.decline("eve", 0)
    assert nobody(rig) == (False, {}, 0)


def test_a_decline_that_comes_again_does_not_count_as_declines_in_a_row() -> None:
    """Found by simulation: a node cut off with a handful of declines waiting was left alone for an hour."""
    rig = Rig(engine(quorum=2, max_wait_s=1e9, lease_s=1e6))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    for _ in range(6):
        rig.decline("bob", 0, retry_after_s=10.0)
    assert transcript(rig.wait(10.0))[0] == "save round 1 of version 0 for bob"


def test_a_decline_of_another_run_or_round_keeps_the_slot() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert rig.decline("ann", 0, run=RunId("f" * 16)) == []
    rig.decline("ann", 7)
    assert rig.get("live") == 2


def test_only_nodes_that_can_write_the_codec_are_asked() -> None:
    """FED-34: a cohort needs no declines where the node has said what it can."""
    rig = Rig()
    rig.connect()
    rig.state("cid", codecs=("lossless",))
    assert not rig.store.rounds
    rig.state("dan", codecs=("lossless", "edge"))
    assert [record.nodes for record in rig.store.rounds.values()] == [("dan",)]


def test_each_node_is_asked_for_the_best_codec_that_it_agrees_to() -> None:
    """FED-60: the node says what it can, the coordinator picks."""
    rig = Rig(engine(codec_fallbacks=("balanced", "lossless"), nodes_min=5, concurrency=4, buffer=4, refill=4))
    rig.connect()
    rig.state("ann")
    rig.state("bob", codecs=("lossless", "balanced"))
    rig.state("cid", codecs=("eden1",))
    rig.state("dan", codecs=("lossless",))
    effects = rig.state("eve", codecs=("edge", "lossless"))
    announced = [one.announcement for one in effects if isinstance(one, PublishAnnouncement)]
    asked = {one.codec: set(rig.store.rounds[one.round].nodes) for one in announced}
    assert asked == {"edge": {"ann", "eve"}, "balanced": {"bob"}, "lossless": {"dan"}}


def test_a_node_with_another_task_is_told_apart_and_loses_its_slot() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    lines = transcript(rig.state("ann", task="mnist", incarnation=Incarnation(2)), notes=True)
    assert "note node_incompatible" in lines
    assert rig.get("live") == 1
    assert transcript(rig.state("ann", task="mnist", incarnation=Incarnation(2)), notes=True) == []


def test_an_old_birth_and_one_node_too_many_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """FED-21."""
    rig = Rig()
    rig.start("ann", "bob")
    monkeypatch.setattr(registry, "NODES_MAX", 2)
    assert rig.state("ann", Presence.LOST, incarnation=Incarnation(0)) == []
    assert transcript(rig.state("cid"), notes=True) == ["note node_limit"]
    assert transcript(rig.state("dan"), notes=True) == []
    assert rig.get("counters") == {"outdated_states": 1, "node_limit": 2}
    assert rig.get("live") == 2


def test_a_node_busy_with_an_older_round_keeps_its_slot_and_an_idle_one_does_not() -> None:
    """FED-29: the announcement that named it is gone, so an idle node will never answer it."""
    rig = Rig(ASYNC)
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0)
    rig.offer("bob", 0)
    assert rig.get("live") == 3
    rig.state("cid", activity=Activity.TRAINING, round=RoundId(0))
    assert rig.get("live") == 3
    lines = transcript(rig.state("cid"))
    assert lines[0] == "close cid in round 0"
    assert lines[1] == "save round 2 of version 1 for cid"


def test_a_rebooting_node_gets_only_so_many_fresh_leases() -> None:
    """FED-29: a node that reboots for ever does not hold a slot for ever."""
    rig = Rig(engine(quorum=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    for boot in range(2, LEASE_RESTARTS_MAX + 3):
        rig.wait(40.0)
        rig.state("bob", incarnation=Incarnation(boot))
    assert rig.get("live") == 1
    rig.wait(20.0)
    assert rig.get("counters") == {"leases_expired": 1}


def test_a_flapping_node_gets_its_slot_back_only_so_often() -> None:
    rig = Rig(engine(concurrency=3, buffer=3, refill=3, nodes_min=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    lives = []
    for _ in range(LEASE_RESTARTS_MAX + 1):
        rig.state("bob", Presence.LOST)
        rig.state("bob")
        lives.append(rig.get("live"))
    assert lives == [2, 2, 2, 1]


def test_leases_stand_still_while_the_broker_is_away() -> None:
    rig = Rig(engine(quorum=2))
    rig.start("ann", "bob")
    rig.wait(30.0)
    rig.disconnect()
    rig.wait(600.0)
    assert rig.get("live") == 2
    assert rig.waiting_for == "broker"
    rig.connect()
    rig.wait(29.0)
    assert rig.get("live") == 2
    assert rig.get("counters") == {"disconnects": 1}


# --- restarts and the end -------------------------------------------------------------------------------------------


def test_a_restart_goes_on_with_rounds_buffer_and_transfers() -> None:
    """FED-47: a complete transfer is stored without its node; work from too old a version is called back."""
    head = version_record(2)
    saved = TransferRecord(record=record_of("cid", 3, base=2), chunk_bytes=4, arrived=frozenset({0, 1, 2}))
    state = fresh(
        head=head,
        recent={ModelVersion(2): digest_of(2)},
        next_round=RoundId(4),
        open_rounds=(round_of(3, "ann", "cid", version=2), round_of(1, "bob", "ann", version=1)),
        stored=(record_of("dan", 2, base=2),),
        transfers=(saved,),
    )
    rig = Rig(engine(concurrency=4, buffer=4, refill=4, quorum=4), state)
    rig.store.versions = [version_record(0), version_record(1), head]
    rig.store.transfers[saved.record.update] = saved
    rig.store.save_round(round_of(3, "ann", "cid", version=2))
    assert transcript(rig.tell(None)) == []
    assert transcript(rig.connect()) == [
        "publish state online epoch 1",
        "publish model 2",
        "announce round 3 of version 2",
        "tell bob cancel 1",
        "close ann bob in round 1",
        "store 3-cid",
        "tell cid stored 3-cid",
    ]
    assert rig.get("live") == 1
    assert rig.get("buffered") == 2


def test_slots_of_what_was_delivered_before_a_restart_are_forgotten_on_the_disk() -> None:
    """They may wait for the next save, and a power cut comes first: every later start would find them again."""
    rig = Rig(engine(concurrency=3, nodes_min=3, buffer=3, quorum=3, max_wait_s=1e9))
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0)
    rig.restart()
    assert transcript(rig.connect())[-1] == "close ann in round 0"


def test_slots_that_a_failing_disk_has_not_closed_are_closed_again() -> None:
    """Else the next process holds them for a lease, and each one after it."""
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.failing, rig.failing_kinds = True, (effects.CloseRound,)
    assert transcript(rig.decline("ann", 0))[-1] == "accept failure"
    rig.failing = False
    assert "close ann in round 0" in transcript(rig.wait(1.0))


def test_a_round_of_an_older_version_is_not_announced_again() -> None:
    """FED-22: only the current announcement is; a crash between commit and announcement leaves none."""
    state = fresh(
        head=version_record(1),
        recent={ModelVersion(1): digest_of(1)},
        next_round=RoundId(1),
        open_rounds=(round_of(0, "ann", "bob"),),
    )
    rig = Rig(recovered=state)
    rig.store.versions.append(version_record(1))
    rig.connect()
    assert rig.announced is None
    assert "announce round 1 of version 1" in transcript(rig.state("ann"))


def test_a_restart_after_the_last_version_ends_the_run_again() -> None:
    """FED-33."""
    state = fresh(head=version_record(3), recent={ModelVersion(3): digest_of(3)}, next_round=RoundId(5))
    rig = Rig(engine(versions=3, exit_when_finished=True), state)
    assert transcript(rig.tell(None)) == [
        "save round 5 of version 3 for",
        "publish model 3",
        "announce round 5 of version 3 final",
    ]
    assert transcript(rig.tell(events.BrokerConnected()))[-2:] == ["publish state offline epoch 1", "stop finished"]


def test_a_finished_run_does_not_wait_for_ever() -> None:
    rig = Rig(engine(versions=1, evaluate_every=1, exit_when_finished=True))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.offer("bob", 0)
    assert transcript(rig.wait(FINISH_WAIT_S - 1.0)) == []
    assert transcript(rig.wait(1.0)) == ["publish state offline epoch 1", "stop finished"]


def test_a_planned_stop_says_offline_first() -> None:
    """FED-11."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    assert transcript(rig.tell(events.StopRequested())) == [
        "close ann in round 0",
        "publish state offline epoch 1",
        "stop requested",
    ]
    assert rig.offer("bob", 0) == []
    assert rig.machine.deadline() is None


def test_a_stop_on_a_full_disk_is_a_stop() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.failing = True
    assert transcript(rig.tell(events.StopRequested())) == ["publish state offline epoch 1", "stop requested"]


def test_an_evaluation_does_not_depend_on_the_round_that_could_not_be_saved_before_it() -> None:
    """Else it would be waited for until the process ends, and sixteen of them would end all evaluation."""
    rig = Rig(engine(evaluate_every=1))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.failing, rig.failing_kinds = True, (effects.SaveRound,)
    rig.offer("bob", 0)
    assert rig.get("paused")
    assert rig.evaluations == [1]


@pytest.mark.parametrize("saved", [0, 1])
def test_announcements_of_which_one_cannot_be_saved_hold_no_slot_but_the_current_one_s(saved: int) -> None:
    """FED-29: nobody trains for what was never announced; the last one is saved and announced after the pause."""
    count = COHORT_NODES_MAX + 5

    class Filling(Rig):
        """Its disk is full after so many rounds."""

        def _run(self, effect: effects.Effect) -> list[events.Event]:
            answers = super()._run(effect)
            self.failing = self.failing or (isinstance(effect, effects.SaveRound) and len(self.store.rounds) >= saved)
            return answers

    rig = Filling(engine(concurrency=count, buffer=count, refill=count, nodes_min=count))
    rig.failing, rig.failing_kinds = saved == 0, (effects.SaveRound,)
    rig.start(*(f"n{number}" for number in range(count)))
    assert rig.get("paused")
    assert len(rig.store.rounds) == saved
    assert rig.get("live") == (count if saved else 5)


def test_a_stored_update_that_the_buffer_lost_sight_of_keeps_its_own_numbers() -> None:
    """Its node may have lost its disk, and offer the same round with other numbers."""
    rig = Rig(engine(quorum=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.store.save_update(record_of("ann", 0))
    rig.offer("ann", 0, num_examples=999_999)
    (commit,) = (one for one in rig.offer("bob", 0) if isinstance(one, effects.CommitVersion))
    assert {member.node: member.num_examples for member in commit.members}[NodeId("ann")] == 10


def test_a_cohort_that_no_announcement_can_list_is_asked_in_several() -> None:
    """FED-25."""
    count = COHORT_NODES_MAX + 5
    rig = Rig(engine(concurrency=count, buffer=count, refill=count, nodes_min=count))
    rig.start(*(f"n{number}" for number in range(count)))
    assert [len(record.nodes) for record in rig.store.rounds.values()] == [COHORT_NODES_MAX, 5]
    assert rig.get("live") == count
    waiting = rig.get("waiting_for")
    assert isinstance(waiting, dict)
    assert len(waiting["nodes"]) == 10


def test_what_the_inputs_mean_is_in_the_state_and_its_digest_in_every_announcement() -> None:
    """FED-125, FED-127: with it an announcement names fewer nodes."""
    text = '{"features":["heat"]}'
    count = COHORT_NODES_DESCRIBED_MAX + 1
    rig = Rig(engine(concurrency=count, buffer=count, refill=count, nodes_min=count), fresh(inputs=text))
    done = rig.connect()
    (state,) = (effect.state for effect in done if isinstance(effect, effects.PublishState))
    assert state.inputs == text
    for number in range(count):
        rig.state(f"n{number}")
    assert [len(record.nodes) for record in rig.store.rounds.values()] == [COHORT_NODES_DESCRIBED_MAX, 1]
    assert rig.announced is not None
    assert rig.announced.model.inputs_digest == payload_digest(text.encode())
    unknown = Rig()
    unknown.start("ann", "bob")
    assert unknown.announced is not None
    assert unknown.announced.model.inputs_digest is None


def test_each_round_is_announced_with_the_learning_rate_of_its_version() -> None:
    rates = RateSchedule(kind=ScheduleKind.STEP, every=1, factor=0.5)
    rig = Rig(engine(train=TrainSettings(learning_rate=0.4), rates=rates))
    rig.start("ann", "bob")
    found = []
    for _ in range(3):
        assert rig.announced is not None
        found.append(rig.announced.settings.learning_rate)
        rig.offer("ann", rig.announced.round)
        rig.offer("bob", rig.announced.round)
    assert found == [0.4, 0.2, 0.1]
    rig.restart()
    (again,) = (effect for effect in rig.connect() if isinstance(effect, PublishAnnouncement))
    assert again.announcement.settings.learning_rate == 0.05


def test_who_was_asked_in_a_forgotten_round_is_read_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """FED-95: a round that is no longer remembered is no open door."""
    monkeypatch.setattr("coordinator.engine.state.INVITATIONS_MAX", 2)
    rig = Rig(engine(quorum=2, lease_s=10.0))
    rig.start("ann", "bob")
    rig.wait(10.0)
    assert max(rig.store.rounds) == 1
    rig.state("cid")
    assert transcript(rig.offer("cid", 0))[-1] == "tell cid refused 0-cid not_assigned"
    assert "tell ann stored 0-ann" in transcript(rig.offer("ann", 0))
    assert transcript(rig.offer("dan", 1))[-1] == "tell dan refused 1-dan not_assigned"


def test_each_round_has_a_seed_of_its_own_and_a_run_repeats_it() -> None:
    seeds = [round_seed(7, RoundId(number)) for number in range(1_000)]
    assert len(set(seeds)) == 1_000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == [round_seed(7, RoundId(number)) for number in range(1_000)]
    assert round_seed(8, RoundId(0)) != seeds[0]


def test_the_seed_of_the_announcement_is_the_round_s() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert rig.announced is not None
    assert rig.announced.settings.seed == round_seed(rig.settings.train.seed, RoundId(0))
    assert rig.announced.min_base_version == 0


def test_a_quiet_machine_has_nothing_timed() -> None:
    rig = Rig()
    rig.tell(None)
    assert rig.machine.deadline() is None
    rig.connect()
    assert rig.machine.deadline() is None


def test_what_events_of_one_moment_ask_for_is_decided_once_after_the_last() -> None:
    rig = Rig(engine(concurrency=2, buffer=3, refill=1, max_staleness=2, nodes_min=3))
    rig.start("ann", "bob", "cid")
    rig.machine.follows(True)
    assert transcript(rig.offer("ann", 0)) == ["store 0-ann", "tell ann stored 0-ann"]
    rig.machine.follows(False)
    assert transcript(rig.tell(None)) == ["save round 1 of version 0 for bob", "announce round 1 of version 0"]


def test_full_buffer_waits_for_no_event_of_the_same_moment() -> None:
    """A version has as many updates as were asked for, however many come together."""
    rig = Rig(ASYNC)
    rig.start("ann", "bob", "cid")
    rig.machine.follows(True)
    for name in ("ann", "bob", "cid"):
        rig.offer(name, 0)
    assert rig.get("version") == 1
    assert rig.get("buffered") == 1
