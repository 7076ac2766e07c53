"""What a node does when the broker, the coordinator, the disk or its own process fails, as transcripts."""

from dataclasses import replace

from edge_node.engine.effects import SaveOutbox
from edge_node.engine.events import BrokerDisconnected, OutboxSaved, RunEntered, StorageFailed
from edge_node.records import Held, OutboxEntry
from federation.protocol.messages import Presence, Reason, ReceiptStatus
from federation.types import ModelVersion
from tests.rigs.node_rig import (
    OTHER_RUN,
    RUN,
    Script,
    announcement,
    delta,
    entry,
    holding,
    keyframe,
    model,
    version_digest,
)


def test_a_crash_after_the_outbox_was_written_costs_one_more_offer() -> None:
    """FED-41, FED-52, FED-27."""
    node = Script(holding(3, last_round=5, outbox=[entry(5)]), online=False)
    assert node.connect() == ["state online #7 uploading 5", "offer 5-pi-3"]
    assert node.announce(announcement(5, 3)) == []
    assert node.receipt(5, ReceiptStatus.APPLIED) == ["settle 5-pi-3, applied"]


def test_a_crash_in_training_costs_only_the_work() -> None:
    """FED-27: the round was not finished, and the retained announcement still asks."""
    node = Script(holding(3, last_round=4))
    assert node.announce(announcement(5, 3)) == ["train 5 from 3"]


def test_a_large_update_is_resumed_from_the_bitmap_after_a_broken_connection() -> None:
    """FED-46, FED-47: nothing that arrived is sent again, and nothing is sent without a grant."""
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    node.trained(5, size=100)
    assert node.saved() == ["offer 5-pi-3"]
    assert node.grant(5, 10, [], 4) == ["send 5-pi-3 chunks [0, 1, 2, 3]"]
    assert node.grant(5, 10, [0, 1], 4) == ["send 5-pi-3 chunks [4, 5]"]
    assert node.grant(5, 10, [0, 1], 4) == []
    assert node.on(BrokerDisconnected(reason="cut")) == []
    assert node.grant(5, 10, [0, 1], 4) == []
    assert node.connect() == ["state online #7 uploading 5", "offer 5-pi-3"]
    assert node.grant(5, 10, [0, 1, 2, 4], 4) == ["send 5-pi-3 chunks [3, 5, 6, 7]"]
    assert node.receipt(5, ReceiptStatus.STORED) == ["mark 5-pi-3 stored"]


def test_a_broken_fetch_asks_only_for_the_chunks_that_are_missing() -> None:
    """FED-37: single chunks by their own topics."""
    whole = keyframe(4, 45)
    node = Script(holding(3))
    assert node.announce(announcement(9, model(4, [whole]))) == ["subscribe 4/k0"]
    for index in (0, 1, 3):
        node.chunk(whole, index)
    assert node.on(BrokerDisconnected(reason="cut")) == ["unsubscribe 4/k0"]
    assert node.connect() == ["state online #7 fetching 9", "subscribe 4/k0/2,4"]
    assert node.chunk(whole, 4) == []
    assert node.chunk(whole, 2) == ["unsubscribe 4/k0/2,4", "adopt 4 from keyframe 4"]


def test_chunks_that_never_come_end_in_a_decline() -> None:
    """No wait is unbounded: six times ten seconds. FED-90: the coordinator can publish them again."""
    node = Script(holding(3))
    node.announce(announcement(9, model(4, [keyframe(4)])))
    again = ["unsubscribe 4/k0", "subscribe 4/k0"] * 5
    declined = ["unsubscribe 4/k0", "save round 9", "decline 9: model chunks do not come (30 s, missing)"]
    assert node.wait_until(1000.0) == again + declined
    assert node.machine.deadline() is None


def test_a_chain_that_was_cleared_gives_way_to_the_keyframe_of_the_newest_version() -> None:
    """FED-36: an announcement that asks others moves the target of a fetch that is stuck."""
    node = Script(holding(3), fetch_attempts_max=1)
    assert node.announce(announcement(9, model(4, [delta(4)]))) == ["subscribe 4/d0"]
    assert (
        node.announce(announcement(10, model(6, [keyframe(6)]), final=False, cohort=announcement(1, final=True).cohort))
        == []
    )
    assert node.wait() == ["unsubscribe 4/d0", "subscribe 6/k0"]
    assert node.pull(keyframe(6)) == ["unsubscribe 6/k0", "adopt 6 from keyframe 6"]
    assert node.ready(6) == ["train 9 from 6"]


def test_a_restarted_coordinator_is_told_everything_again() -> None:
    """FED-52, FED-20."""
    node = Script(holding(3, outbox=[entry(4), entry(5, stored=True)]))
    node.coordinator(epoch=1)
    assert node.coordinator(Presence.LOST, epoch=1) == []
    assert node.wait_until(node.now + 299.0) == []
    assert node.coordinator(epoch=2) == ["offer 4-pi-3", "offer 5-pi-3", "state online #7 uploading 4"]
    assert node.coordinator(epoch=1) == []
    assert node.announce(announcement(9, 3, epoch=1)) == []
    assert node.announce(announcement(9, 3, epoch=2)) == ["train 9 from 3"]


def test_offers_are_repeated_with_growing_pauses_and_hardly_ever_once_it_is_stored() -> None:
    """FED-52."""
    node = Script(holding(3, outbox=[entry(5)]))
    moments = []
    for _ in range(7):
        assert node.wait() == ["offer 5-pi-3"]
        moments.append(node.now - 100.0)
    assert moments == [10.0, 30.0, 70.0, 150.0, 310.0, 610.0, 910.0]
    node.receipt(5, ReceiptStatus.STORED)
    assert node.machine.deadline() == node.now + 300.0
    assert node.wait() == ["offer 5-pi-3"]


def test_a_busy_coordinator_is_left_alone_for_as_long_as_it_asks() -> None:
    """FED-48."""
    node = Script(holding(3, outbox=[entry(5)]), draw=0.5)
    node.wait()
    assert node.retry_after(5, 40.0) == []
    assert node.machine.deadline() == node.now + 42.0
    assert node.wait() == ["offer 5-pi-3"]


def test_an_update_that_is_not_on_disk_is_not_offered() -> None:
    """FED-41: a full disk stops the talking, not the node."""
    node = Script(holding(3))
    node.announce(announcement(5, 3))
    assert node.trained(5) == ["save update 5-pi-3"]
    assert node.on(StorageFailed(detail="disk full")) == []
    assert node.notes() == ["storage_paused"]
    assert node.announce(announcement(6, 3)) == ["save round 6", "decline 6: storage (30 s)"]
    assert node.wait() == ["save update 5-pi-3"]
    assert node.on(StorageFailed(detail="disk full")) == []
    assert node.machine.deadline() == node.now + 2.0
    assert node.wait() == ["save update 5-pi-3"]
    assert node.saved() == ["offer 5-pi-3 inline"]


def test_a_verdict_that_could_not_be_saved_is_saved_later() -> None:
    """FED-51."""
    node = Script(holding(3, outbox=[entry(5)]))
    assert node.receipt(5, ReceiptStatus.STALE, Reason.TOO_STALE) == ["settle 5-pi-3, give back"]
    assert node.on(StorageFailed(detail="disk full", effect=node.effects[0])) == []
    assert node.wait() == ["settle 5-pi-3, give back"]
    assert node.machine.deadline() is None


def test_another_run_hides_everything_of_the_former_one_until_it_is_heard_again() -> None:
    """FED-19, FED-50, FED-113."""
    node = Script(holding(3, last_round=4, outbox=[entry(4)]))
    node.coordinator()
    node.announce(announcement(5, 3))
    assert node.coordinator(run=OTHER_RUN) == ["stop training 5", f"enter {OTHER_RUN}"]
    assert node.trained(5) == []
    assert node.receipt(4, ReceiptStatus.APPLIED) == []
    assert node.announce(announcement(1, model(0, seed=1), run=OTHER_RUN)) == ["make 0 from seed 1"]
    node.ready(0)
    assert node.trained(1) == ["save update 1-pi-3"]
    assert node.saved() == ["offer 1-pi-3 inline"]
    assert node.receipt(1, ReceiptStatus.STORED, run=OTHER_RUN) == ["mark 1-pi-3 stored"]
    assert not [line for line in node.wait_until(node.now + 1_000) if "4-pi-3" in line]

    assert node.coordinator() == [f"enter {RUN}", "offer 4-pi-3", "state online #7 uploading 4"]
    known = node.machine.snapshot()
    assert (known["held_version"], known["last_round"]) == (3, 4)
    assert node.receipt(1, ReceiptStatus.APPLIED, run=OTHER_RUN) == [], "not of this run's update of that name"
    assert node.announce(announcement(6, 3)) == ["train 6 from 3"]
    assert node.receipt(4, ReceiptStatus.APPLIED) == ["settle 4-pi-3, applied"]


def test_a_verdict_that_the_disk_owed_to_a_hidden_run_is_saved_when_it_is_back() -> None:
    """FED-51, FED-113."""
    node = Script(holding(3, outbox=[entry(4)]))
    node.coordinator()
    assert node.receipt(4, ReceiptStatus.STALE) == ["settle 4-pi-3, give back"]
    node.on(StorageFailed(detail="disk full", effect=node.effects[0]))
    node.coordinator(run=OTHER_RUN)
    assert not [line for line in node.wait_until(node.now + 1_000) if "settle" in line]
    assert "settle 4-pi-3, give back" in node.coordinator()


def test_an_update_that_the_disk_had_no_room_for_waits_for_its_run() -> None:
    """FED-41, FED-113."""
    node = Script(holding(3))
    node.coordinator()
    node.announce(announcement(5, 3))
    assert node.trained(5) == ["save update 5-pi-3"]
    unsaved = node.effects[0]
    node.coordinator(run=OTHER_RUN)
    node.on(StorageFailed(detail="disk full", effect=unsaved))
    assert not [line for line in node.wait_until(node.now + 1_000) if "5-pi-3" in line]
    assert "save update 5-pi-3" in node.coordinator()
    assert node.saved() == ["offer 5-pi-3 inline"]


def test_what_the_disk_saves_for_a_run_that_is_hidden_meanwhile_counts_for_it() -> None:
    """FED-113."""
    node = Script(holding(3))
    node.coordinator()
    node.announce(announcement(5, 3))
    node.trained(5)
    saved = [OutboxSaved(entry=OutboxEntry(offer=one.offer)) for one in node.effects if isinstance(one, SaveOutbox)]
    node.coordinator(run=OTHER_RUN)
    assert node.on(saved[0]) == []
    assert node.coordinator()[:2] == [f"enter {RUN}", "offer 5-pi-3 inline"]


def test_runs_that_the_disk_has_forgotten_begin_anew() -> None:
    """FED-114."""
    node = Script(holding(3, last_round=4, outbox=[entry(4)]))
    node.coordinator(epoch=5)
    node.coordinator(run=OTHER_RUN)
    assert node.on(RunEntered(run=OTHER_RUN, forgotten=(RUN,))) == []
    assert node.notes() == ["run_forgotten"]
    assert node.coordinator(epoch=1)[0] == f"enter {RUN}"
    known = node.machine.snapshot()
    assert (known["held_version"], known["last_round"], known["outbox"]) == (None, None, [])


def test_the_disk_says_which_model_of_a_run_it_has() -> None:
    """FED-113: a small one is not kept."""
    node = Script(holding(3))
    node.coordinator(run=OTHER_RUN)
    node.on(RunEntered(run=RUN))
    node.coordinator()
    node.on(RunEntered(run=RUN))
    assert node.announce(announcement(5, 3)) == ["subscribe 3/k0"]
    node.on(RunEntered(run=RUN, held=Held(version=ModelVersion(1), digest=version_digest(1))))
    assert node.machine.snapshot()["held_version"] is None, "the pull has begun"


def test_a_node_keeps_an_update_that_a_foreign_coordinator_refuses() -> None:
    """FED-50: a receipt names the offer's run, so who says that it is another one is no judge of it."""
    node = Script(holding(0, outbox=[entry(3, stored=True)]))
    assert node.receipt(3, ReceiptStatus.REFUSED, Reason.OTHER_RUN) == []
    assert node.receipt(3, ReceiptStatus.APPLIED) == ["settle 3-pi-3, applied"]


def test_a_message_that_a_former_run_left_behind_costs_nothing() -> None:
    """FED-19: a retained announcement or a late will is no proof of a new run."""
    node = Script(holding(3, outbox=[entry(4)]))
    assert node.announce(announcement(1, 0, run=OTHER_RUN)) == []
    assert node.coordinator(Presence.LOST, run=OTHER_RUN) == []
    assert node.announce(announcement(5, 3)) == ["train 5 from 3"]
    assert node.receipt(4, ReceiptStatus.APPLIED) == ["settle 4-pi-3, applied"]


def test_a_new_run_counts_as_soon_as_its_coordinator_is_there() -> None:
    """FED-19: whichever of the two retained messages comes first."""
    node = Script(holding(3, outbox=[entry(4)]))
    node.announce(announcement(1, model(0, seed=1), run=OTHER_RUN))
    assert node.coordinator(run=OTHER_RUN) == [
        f"enter {OTHER_RUN}",
        "make 0 from seed 1",
        "state online #7 fetching 1",
    ]


def test_a_node_back_after_a_week_gets_its_verdict_and_goes_on() -> None:
    """FED-45, FED-51: the update is too old, and says so in its own base version."""
    old = replace(entry(5), stored=True)
    node = Script(holding(3, last_round=5, outbox=[old]), online=False)
    assert node.connect() == ["state online #7 idle None", "offer 5-pi-3"]
    assert node.announce(announcement(700, model(600, [keyframe(600), delta(600)]), min_base=590)) == [
        "subscribe 600/k0"
    ]
    assert node.receipt(5, ReceiptStatus.STALE, Reason.TOO_STALE) == ["settle 5-pi-3, give back"]


def test_a_late_update_is_still_finished_and_offered() -> None:
    """FED-29: the receipt will say whether it counts."""
    node = Script(holding(3), progress_after_s=1.0)
    node.announce(announcement(5, 3, lease_s=50.0))
    node.wait()  # telemetry
    assert node.wait() == []
    assert node.notes() == ["lease_passed"]
    assert node.machine.deadline() == 3_700.0  # train_s_max
    assert node.trained(5) == ["save update 5-pi-3"]


def test_the_end_of_the_run_waits_for_the_last_receipt_but_not_for_ever() -> None:
    """FED-33."""
    node = Script(holding(3, outbox=[entry(4)]), exit_when_finished=True)
    node.announce(announcement(5, 3))
    assert node.announce(announcement(6, 3, final=True)) == ["stop training 5"]
    ended = ["state offline #7 idle None", "stop: finished"]
    assert node.receipt(4, ReceiptStatus.STALE, Reason.FINISHED) == ["settle 4-pi-3, give back", *ended]

    silent = Script(holding(3, outbox=[entry(4, stored=True)]), exit_when_finished=True)
    silent.announce(announcement(6, 3, final=True))
    assert silent.wait_until(1000.0)[-2:] == ended
    assert silent.now == 1000.0
