"""The outbox: saved before offered, chunks as granted, kept until the final receipt (FED-41 to FED-52)."""

from dataclasses import replace
from typing import Any

import pytest

from edge_node.engine.effects import EnterRun, SendChunks, SendOffer, StartTraining
from edge_node.engine.events import BrokerDisconnected, OutboxSaved, StorageFailed, TrainingFinished
from edge_node.engine.outbox import RETRY_AFTER_S_MAX, RETRY_AFTER_S_MIN
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import Grant, Presence, Reason, Rebirth, ReceiptStatus
from tests.rigs.node_rig import CHUNK, OTHER_RUN, Script, announcement, bitmap, entry, holding, model, result, update


def waiting(*rounds: int, size: int = 25, **changes: Any) -> Script:
    """A connected node whose outbox holds these rounds, offered once."""
    return Script(holding(3, outbox=[entry(one, size=size) for one in rounds]), **changes)


def trained(size: int = 5) -> Script:
    """A node that has just finished round 5; nothing is saved yet."""
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    node.trained(5, size)
    return node


@pytest.mark.parametrize(("size", "line"), [(10, "offer 5-pi-3 inline"), (11, "offer 5-pi-3")])
def test_an_update_rides_inside_its_offer_when_it_fits_one_chunk(size: int, line: str) -> None:
    """FED-42."""
    assert trained(size).saved() == [line]


def test_the_payload_rides_along_only_once_in_a_process() -> None:
    """FED-52: when it did not arrive, the coordinator grants it."""
    node = waiting(5, size=5)
    assert node.wait() == ["offer 5-pi-3"]
    node.on(BrokerDisconnected(reason="cut"))
    assert node.connect()[1:] == ["offer 5-pi-3"]


def test_a_payload_that_the_coordinator_has_is_never_sent_again() -> None:
    """FED-52."""
    node = Script(holding(3, outbox=[entry(5, stored=True, size=5)]), online=False)
    assert node.connect()[1:] == ["offer 5-pi-3"]


def test_offers_go_out_oldest_first() -> None:
    node = Script(holding(3, outbox=[entry(8), entry(5), entry(6)]), online=False, draw=0.5)
    assert node.connect() == ["state online #7 uploading 6"]
    assert node.machine.deadline() == 100.5
    assert node.wait() == ["offer 8-pi-3", "offer 5-pi-3", "offer 6-pi-3"]


def test_nothing_is_timed_while_the_broker_is_away() -> None:
    node = waiting(5)
    node.on(BrokerDisconnected(reason="cut"))
    assert node.machine.deadline() is None
    node.now += 10_000
    assert node.on(None) == []


def test_an_absent_coordinator_is_offered_hardly_anything_until_it_is_back() -> None:
    """FED-62: what says that it went may be late, so the offers become rare and do not end."""
    node = waiting(5)
    node.coordinator()
    node.coordinator(Presence.OFFLINE)
    began = node.now
    assert node.wait() == ["offer 5-pi-3"]
    assert node.now == began + node.settings.reoffer_max_s
    assert node.wait() == ["offer 5-pi-3"]
    assert node.now == began + 2 * node.settings.reoffer_max_s
    assert node.coordinator() == ["offer 5-pi-3"]
    assert node.coordinator() == []


def test_what_is_trained_while_the_coordinator_seems_absent_waits_for_the_slow_timer() -> None:
    """FED-62."""
    node = trained()
    node.coordinator(Presence.LOST)
    assert node.on(OutboxSaved(entry=entry(5))) == []
    assert node.machine.deadline() == node.now + node.settings.reoffer_max_s
    node.on(BrokerDisconnected(reason="cut"))
    node.connect()
    assert node.machine.deadline() == node.now + node.settings.reoffer_max_s


def test_a_new_round_shows_that_the_coordinator_is_there() -> None:
    """FED-62."""
    node = waiting(5)
    node.coordinator(Presence.LOST)
    assert "offer 5-pi-3" in node.announce(announcement(9, 3, cohort=NOBODY))


def test_an_unsaved_update_is_offered_by_no_event_at_all() -> None:
    """FED-41."""
    node = trained()
    assert node.grant(5, 1, [], 4) == []
    assert node.receipt(5, ReceiptStatus.APPLIED) == []
    assert node.retry_after(5, 1.0) == []
    node.on(BrokerDisconnected(reason="cut"))
    assert node.connect() == ["state online #7 uploading 5"]
    assert node.coordinator(epoch=1) == []
    assert node.coordinator(epoch=2) == ["state online #7 uploading 5"]
    assert node.machine.deadline() is None


def test_saved_updates_that_are_unknown_or_known_change_nothing() -> None:
    node = waiting(5)
    assert node.on(OutboxSaved(entry=entry(5))) == []
    assert node.on(OutboxSaved(entry=entry(6))) == []


def test_a_result_that_nobody_waits_for_is_dropped() -> None:
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    assert node.trained(4) == []
    assert node.on(TrainingFinished(result=result(5, run=OTHER_RUN))) == []
    assert node.trained(5) == ["save update 5-pi-3"]


# --- grants ---------------------------------------------------------------------------------------------------------


def test_only_the_first_window_of_missing_chunks_is_sent() -> None:
    """FED-46."""
    node = waiting(5, size=95)
    assert node.grant(5, 10, [1, 9], 3) == ["send 5-pi-3 chunks [0, 2, 3]"]
    assert node.grant(5, 10, [1, 9], 5) == ["send 5-pi-3 chunks [4, 5]"]
    assert node.grant(5, 10, [1, 9], 0) == []


def test_a_grant_with_news_puts_the_next_offer_off() -> None:
    """FED-52: re-offering is for silence."""
    node = waiting(5, size=95)
    node.now += 9.0
    node.grant(5, 10, [], 2)
    assert node.machine.deadline() == node.now + 10.0
    node.now += 9.0
    node.grant(5, 10, [0], 2)
    assert node.machine.deadline() == node.now + 10.0
    node.now += 9.0
    node.grant(5, 10, [0], 2)
    assert node.machine.deadline() == node.now + 1.0


def test_an_update_that_was_cut_for_another_broker_is_cut_again_for_this_one() -> None:
    node = Script(holding(3, outbox=[entry(5, size=10 * CHUNK)]), chunk_bytes=CHUNK // 2)
    node.wait()
    (offer,) = (effect.offer for effect in node.effects if isinstance(effect, SendOffer))
    assert offer.chunk_bytes == CHUNK // 2
    assert node.grant(5, 20, [1], 3) == ["send 5-pi-3 chunks [0, 2, 3]"]
    (sent,) = (effect for effect in node.effects if isinstance(effect, SendChunks))
    assert sent.chunk_bytes == CHUNK // 2
    larger = Script(holding(3, outbox=[entry(5, size=10 * CHUNK)]), chunk_bytes=2 * CHUNK)
    larger.wait()
    assert [effect.offer.chunk_bytes for effect in larger.effects if isinstance(effect, SendOffer)] == [CHUNK]


def test_chunks_that_nobody_confirms_for_long_are_sent_again() -> None:
    node = waiting(5, size=95)
    assert node.grant(5, 10, [], 2) == ["send 5-pi-3 chunks [0, 1]"]
    while node.now < 100.0 + 150.0:
        assert node.wait() == ["offer 5-pi-3"]
        assert node.grant(5, 10, [], 2) == []
    node.wait()
    assert node.grant(5, 10, [], 2) == ["send 5-pi-3 chunks [0, 1]"]


def test_a_grant_that_waited_for_the_reconnect_is_ignored_until_the_new_offer() -> None:
    """FED-47: its bitmap is older than what has arrived."""
    node = waiting(5, size=95, draw=0.5)
    assert node.grant(5, 10, [0], 2) == []
    assert node.wait() == ["offer 5-pi-3"]
    assert node.grant(5, 10, [0, 1], 2) == ["send 5-pi-3 chunks [2, 3]"]


def test_a_refused_transfer_begins_anew_from_the_next_grant() -> None:
    """FED-48."""
    node = waiting(5, size=95)
    node.grant(5, 10, [], 2)
    node.retry_after(5, 5.0)
    assert node.wait() == ["offer 5-pi-3"]
    assert node.grant(5, 10, [], 2) == ["send 5-pi-3 chunks [0, 1]"]


def test_a_malformed_bitmap_is_noted_and_dropped() -> None:
    """FED-18, FED-46."""
    node = waiting(5, size=95)
    assert node.command(Grant(update=update(5), bitmap=b"\x00", window=4)) == []
    assert node.notes() == ["grant_refused"]


def test_a_grant_for_an_unknown_update_is_ignored() -> None:
    assert waiting(5).command(Grant(update=update(6), bitmap=bitmap(3, []), window=4)) == []


# --- receipts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (ReceiptStatus.APPLIED, Reason.NONE, "settle 5-pi-3, applied"),
        (ReceiptStatus.STALE, Reason.TOO_STALE, "settle 5-pi-3, give back"),
        (ReceiptStatus.REFUSED, Reason.QUOTA, "settle 5-pi-3, give back"),
        (ReceiptStatus.REFUSED, Reason.NORM, "settle 5-pi-3, drop"),
        (ReceiptStatus.REFUSED, Reason.NOT_FINITE, "settle 5-pi-3, drop"),
    ],
)
def test_a_final_receipt_settles_the_update_once(status: ReceiptStatus, reason: Reason, line: str) -> None:
    """FED-51, FED-50."""
    node = waiting(5)
    assert node.receipt(5, status, reason) == [line]
    assert node.receipt(5, status, reason) == []
    assert node.machine.deadline() is None


def test_a_receipt_of_another_run_is_ignored() -> None:
    """FED-50."""
    node = waiting(5)
    assert node.receipt(5, ReceiptStatus.APPLIED, run=OTHER_RUN) == []
    assert node.receipt(5, ReceiptStatus.APPLIED) == ["settle 5-pi-3, applied"]


def test_stored_is_marked_once() -> None:
    node = waiting(5)
    assert node.receipt(5, ReceiptStatus.STORED) == ["mark 5-pi-3 stored"]
    assert node.receipt(5, ReceiptStatus.STORED) == []


@pytest.mark.parametrize(("asked", "waits"), [(0.0, RETRY_AFTER_S_MIN), (60.0, 60.0), (1e7, RETRY_AFTER_S_MAX)])
def test_retry_after_is_obeyed_within_bounds(asked: float, waits: float) -> None:
    """FED-48."""
    node = waiting(5)
    assert node.retry_after(5, asked) == []
    assert node.machine.deadline() == node.now + waits
    assert node.retry_after(6, asked) == []


# --- room and disk --------------------------------------------------------------------------------------------------


def test_a_full_outbox_declines_new_rounds_until_there_is_room() -> None:
    """FED-30."""
    node = waiting(4, 5, outbox_max=2)
    assert node.announce(announcement(6, 3)) == ["save round 6", "decline 6: outbox_full (30 s)"]
    node.receipt(4, ReceiptStatus.STALE)
    assert node.announce(announcement(7, 3)) == ["train 7 from 3"]


def test_failed_saves_are_repeated_with_growing_pauses_until_one_succeeds() -> None:
    node = trained()
    pauses = []
    for _ in range(11):
        node.on(StorageFailed(detail="disk full"))
        pauses.append(node.machine.deadline() or 0.0)
        pauses[-1] -= node.now
        assert node.wait() == ["save update 5-pi-3"]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    node.saved()
    node.on(StorageFailed(detail="disk full"))
    assert node.machine.deadline() == node.now + 1.0


def test_what_fails_while_the_disk_is_waited_for_does_not_make_the_wait_longer() -> None:
    """Each announcement asks for a save of its own: a disk that was full for two seconds would cost five minutes."""
    node = Script(holding(3))
    began = node.now
    for number in range(20):
        node.announce(announcement(number, 3, cohort=NOBODY))
        node.on(StorageFailed(detail="disk full", effect=node.effects[0]))
        node.wait_until(node.now + 0.1)
    assert node.announce(announcement(50, 3)) == ["save round 50", "decline 50: storage (30 s)"]
    node.wait_until(began + 1.0 + 2.0 + 1.0)
    assert node.announce(announcement(51, 3)) == ["train 51 from 3"]


def test_an_update_that_is_finished_just_when_the_disk_is_tried_again_is_saved_once() -> None:
    """A process that was stopped finds both at the same moment, and the store takes no update twice."""
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    node.announce(announcement(6, 3))  # it waits for the running one
    assert node.trained(5) == ["save update 5-pi-3", "train 6 from 3"]
    node.on(StorageFailed(detail="disk full", effect=node.effects[0]))
    node.now += 60.0
    assert sorted(node.trained(6)) == ["save update 5-pi-3", "save update 6-pi-3"]


def test_a_run_that_could_not_be_entered_on_disk_is_entered_again() -> None:
    """FED-19."""
    node = waiting(5)
    node.coordinator(run=OTHER_RUN)
    node.on(StorageFailed(detail="disk full", effect=EnterRun(run=OTHER_RUN)))
    assert node.wait() == [f"enter {OTHER_RUN}"]


def test_a_rebirth_is_answered_with_the_state() -> None:
    """FED-23."""
    assert waiting(5).command(Rebirth()) == ["state online #7 uploading 5"]


def test_an_update_of_a_run_waits_until_the_run_is_entered_on_disk() -> None:
    """FED-19."""
    node = waiting(5)
    node.announce(announcement(1, model(0, seed=3), run=OTHER_RUN))
    assert node.coordinator(run=OTHER_RUN) == [
        f"enter {OTHER_RUN}",
        "make 0 from seed 3",
        "state online #7 fetching 1",
    ]
    node.on(StorageFailed(detail="disk full", effect=EnterRun(run=OTHER_RUN)))
    assert node.ready(0) == ["train 1 from 0"]
    assert node.trained(1) == []
    assert node.wait() == [f"enter {OTHER_RUN}", "save update 1-pi-3"]


# --- how fast it gets through ---------------------------------------------------------------------------------------


def budget(node: Script, round_id: int = 9) -> int | None:
    """What the next training may send."""
    node.announce(announcement(round_id, 3, lease_s=8.0))
    (start,) = [effect for effect in node.effects if isinstance(effect, StartTraining)]
    return start.payload_bytes_max


def test_a_payload_that_rode_along_measures_the_link() -> None:
    node = trained(size=10)
    node.saved()
    node.now += 2.0
    node.receipt(5, ReceiptStatus.STORED)
    assert budget(node) == 10


def test_granted_chunks_measure_the_link_from_the_first_to_the_receipt() -> None:
    node = waiting(5, size=40)
    node.grant(5, 4, [], window=2)
    node.now += 1.0
    node.grant(5, 4, [0, 1], window=2)
    node.now += 1.0
    node.receipt(5, ReceiptStatus.APPLIED)
    assert budget(node) == 40


def test_a_payload_that_rode_along_and_was_cut_measures_nothing() -> None:
    cut = trained(size=10)
    cut.saved()
    cut.on(BrokerDisconnected(reason="cut"))
    cut.connect()
    cut.receipt(5, ReceiptStatus.STORED)
    assert budget(cut) is None


def test_what_the_grants_confirmed_before_a_cut_measures_the_link() -> None:
    node = waiting(5, size=95)
    node.grant(5, 10, [], window=4)
    node.now += 2.0
    node.grant(5, 10, [0, 1], window=4)
    node.now += 50.0
    node.on(BrokerDisconnected(reason="cut"))
    node.connect()
    assert budget(node) == 10 * 2


def test_a_transfer_that_had_begun_before_measures_the_rest_of_it() -> None:
    node = waiting(5, size=95)
    node.grant(5, 10, [0, 1], window=10)
    node.now += 5.0
    node.receipt(5, ReceiptStatus.STORED)
    assert budget(node) == 15 * 2


def test_a_wait_that_the_coordinator_asked_for_measures_nothing() -> None:
    node = waiting(5, size=25)
    node.grant(5, 3, [], window=3)
    node.retry_after(5, 60.0)
    node.now += 60.0
    node.receipt(5, ReceiptStatus.STORED)
    assert budget(node) is None


def test_a_training_that_takes_most_of_the_lease_leaves_less_to_send() -> None:
    node = trained(size=10)
    node.saved()
    node.now += 1.0
    node.receipt(5, ReceiptStatus.APPLIED)
    assert budget(node) == 20
    node.on(TrainingFinished(result=replace(result(9, 10), train_s=6.0)))
    assert budget(node, 10) == 10


def test_a_second_receipt_measures_nothing_new() -> None:
    node = trained(size=10)
    node.saved()
    node.now += 2.0
    node.receipt(5, ReceiptStatus.STORED)
    node.now += 100.0
    node.receipt(5, ReceiptStatus.APPLIED)
    assert budget(node) == 10
