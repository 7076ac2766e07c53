"""Rounds as readable transcripts: what the coordinator does, in order, when this happens."""

from typing import Any

import pytest

from coordinator.engine import effects, events
from coordinator.engine.effects import Note
from federation.protocol.messages import Activity, Presence
from federation.types import Epoch, Incarnation, RoundId, SeenRun, StateId
from tests.rigs.coordinator_rig import RUN, Rig, engine, transcript


def test_a_synchronous_round_from_the_first_connection_to_the_next_announcement() -> None:
    """FED-22, FED-24, FED-35, FED-49, FED-56: save, then say; the model before its announcement; old parts go last."""
    rig = Rig(engine(nodes_min=2))

    assert transcript(rig.connect()) == ["publish state online epoch 1", "publish model 0"]
    assert transcript(rig.state("ann")) == []
    # Neither reads frames of the cosine kind, so the head goes down once more, in a way that both read [FED-236].
    assert transcript(rig.state("bob")) == [
        "save round 0 of version 0 for ann bob",
        "publish model 0",
        "announce round 0 of version 0",
    ]
    assert transcript(rig.offer("ann", 0)) == ["store 0-ann", "tell ann stored 0-ann"]
    assert transcript(rig.offer("bob", 0)) == [
        "store 0-bob",
        "tell bob stored 0-bob",
        "commit 1 of 0-ann@0 0-bob@0 because buffer_full",
        "tell ann applied 0-ann in 1",
        "tell bob applied 0-bob in 1",
        "close ann bob in round 0",
        "save round 1 of version 1 for ann bob",
        "clear all but model 1",
        "publish model 1",
        "announce round 1 of version 1",
    ]


def test_a_node_that_vanishes_does_not_hold_up_the_round() -> None:
    """FED-29: the will frees the slot; nobody is left to wait for, and one update is a quorum."""
    rig = Rig()
    rig.start("ann", "bob")
    rig.offer("ann", 0)

    assert transcript(rig.state("bob", Presence.LOST)) == [
        "close ann bob in round 0",
        "commit 1 of 0-ann@0 because nobody_left",
        "tell ann applied 0-ann in 1",
        "save round 1 of version 1 for ann",
        "clear all but model 1",
        "publish model 1",
        "announce round 1 of version 1",
    ]


def test_a_silent_node_loses_its_slot_when_its_lease_ends() -> None:
    """FED-29: an update that comes after its lease is judged like any other."""
    rig = Rig(engine(quorum=2, max_staleness=1))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.wait(59.0)
    assert rig.get("live") == 1

    lines = transcript(rig.wait(1.0), notes=True)
    assert "note lease_expired" in lines
    assert "save round 1 of version 0 for bob" in lines  # nobody else is there, so it is asked again
    assert transcript(rig.offer("bob", 0))[:3] == [
        "store 0-bob",
        "tell bob stored 0-bob",
        "commit 1 of 0-ann@0 0-bob@0 because buffer_full",
    ]


def test_a_replacement_round_asks_only_for_what_is_missing() -> None:
    rig = Rig(engine(concurrency=3, buffer=3, refill=3, quorum=3, nodes_min=3))
    rig.start("ann", "bob", "cid")
    rig.state("dan")
    rig.state("eve")
    rig.offer("ann", 0)
    rig.offer("bob", 0)

    lines = transcript(rig.state("cid", Presence.OFFLINE))
    assert len(lines) == 3
    assert lines[0] == "close ann bob cid in round 0"
    assert lines[1] in ("save round 1 of version 0 for dan", "save round 1 of version 0 for eve")
    assert rig.get("live") == 1


def test_a_partial_buffer_is_committed_after_the_longest_wait_and_slower_work_is_called_back() -> None:
    rig = Rig(engine(quorum=1, lease_s=600.0))
    rig.start("ann", "bob")
    rig.offer("ann", 0)

    assert transcript(rig.wait(29.0)) == []
    lines = transcript(rig.wait(1.0))
    assert lines[0] == "commit 1 of 0-ann@0 because max_wait"
    assert "tell bob cancel 0" in lines
    assert "save round 1 of version 1 for ann bob" in lines
    assert transcript(rig.offer("bob", 0)) == ["save 0-bob stale too_stale", "tell bob stale 0-bob too_stale"]


def test_buffered_asynchronous_rounds_keep_slow_work_alive() -> None:
    """FED-31, FED-44: a slow node's update counts in a later version, with its staleness."""
    rig = Rig(engine(concurrency=3, buffer=2, refill=1, max_staleness=2, lease_s=600.0, nodes_min=3))
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0)
    lines = transcript(rig.offer("bob", 0))
    assert "commit 1 of 0-ann@0 0-bob@0 because buffer_full" in lines
    assert "save round 1 of version 1 for ann bob" in lines
    rig.offer("ann", 1)

    assert "commit 2 of 1-ann@0 0-cid@1 because buffer_full" in transcript(rig.offer("cid", 0))


def test_a_large_update_comes_in_granted_windows() -> None:
    """FED-46, FED-47: what arrived is in the bitmap of every grant; a chunk that comes again is not stored again."""
    rig = Rig(engine(window_chunks=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    large = {"inline": None, "payload_bytes": 10, "chunk_bytes": 4}

    assert transcript(rig.offer("ann", 0, **large)) == ["open transfer 0-ann", "tell ann grant 0-ann 00 window 2"]
    assert transcript(rig.chunk("ann", "0-ann", 1, b"4567")) == [
        "store chunk 1 of 0-ann",
        "tell ann grant 0-ann 02 window 2",
    ]
    assert transcript(rig.chunk("ann", "0-ann", 1, b"4567")) == []
    assert transcript(rig.offer("ann", 0, **large)) == ["tell ann grant 0-ann 02 window 2"]
    rig.chunk("ann", "0-ann", 0, b"0123")
    assert transcript(rig.chunk("ann", "0-ann", 2, b"89")) == [
        "store chunk 2 of 0-ann",
        "store 0-ann",
        "tell ann stored 0-ann",
    ]


def test_a_killed_coordinator_announces_the_same_round_again_and_nothing_is_lost() -> None:
    """FED-22, FED-24, FED-43, FED-47: same id, same cohort; what was stored counts, what had arrived stays."""
    rig = Rig(engine(concurrency=3, buffer=3, refill=3, nodes_min=3, quorum=3))
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0)
    rig.offer("bob", 0, inline=None, payload_bytes=6, chunk_bytes=4)
    rig.chunk("bob", "0-bob", 0, b"0123")
    cohort = rig.announced

    assert transcript(rig.restart()) == []
    assert transcript(rig.connect()) == [
        "publish state online epoch 2",
        "publish model 0",
        "announce round 0 of version 0",
        "close ann in round 0",
    ]
    assert rig.announced is not None
    assert cohort is not None
    assert rig.announced.cohort == cohort.cohort
    assert transcript(rig.offer("ann", 0)) == ["tell ann rebirth", "tell ann stored 0-ann"]
    rig.state("bob")
    assert transcript(rig.offer("bob", 0, inline=None, payload_bytes=6, chunk_bytes=4)) == [
        "tell bob grant 0-bob 01 window 128"
    ]
    rig.chunk("bob", "0-bob", 1, b"45")
    rig.state("cid")
    assert "commit 1 of 0-ann@0 0-bob@0 0-cid@0 because buffer_full" in transcript(rig.offer("cid", 0))


def test_a_full_disk_stops_acknowledging_says_so_and_ends_by_itself() -> None:
    """FED-49: no receipt without the disk."""
    rig = Rig(engine(max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.failing = True

    assert transcript(rig.offer("ann", 0), notes=True) == [
        "accept failure",
        "note storage_failed",
        "note waiting",
        "tell ann retry 0-ann",
    ]
    assert transcript(rig.offer("bob", 0)) == ["tell bob retry 0-bob"]
    waiting = rig.machine.snapshot()["waiting_for"]
    assert isinstance(waiting, dict)
    assert waiting["reason"] == "storage"
    rig.failing = False
    assert transcript(rig.wait(1.0), notes=True) == [
        "note storage_resumed",
        "save round 0 of version 0 for ann bob",
        "publish state online epoch 1",
        "publish model 0",
        "announce round 0 of version 0",
        "note waiting",
    ]
    assert transcript(rig.offer("ann", 0)) == ["store 0-ann", "tell ann stored 0-ann"]


def test_the_last_version_ends_the_run() -> None:
    """FED-33: the final announcement asks nobody, and late work is told that the run has finished."""
    rig = Rig(engine(versions=1, concurrency=3, buffer=2, refill=3, nodes_min=3, evaluate_every=1))
    rig.start("ann", "bob", "cid")
    rig.offer("ann", 0)

    assert transcript(rig.offer("bob", 0))[2:] == [
        "commit 1 of 0-ann@0 0-bob@0 because buffer_full",
        "tell ann applied 0-ann in 1",
        "tell bob applied 0-bob in 1",
        "tell cid cancel 0",
        "close ann bob cid in round 0",
        "save round 1 of version 1 for",
        "clear all but model 1",
        "publish model 1",
        "announce round 1 of version 1 final",
        "evaluate 1",
    ]
    assert transcript(rig.offer("cid", 0)) == ["save 0-cid stale finished", "tell cid stale 0-cid finished"]
    assert rig.waiting_for == "finished"


def test_a_finished_run_leaves_when_its_evaluation_has_ended() -> None:
    """FED-11: a planned stop says offline first."""
    rig = Rig(engine(versions=1, evaluate_every=1, exit_when_finished=True))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.offer("bob", 0)

    ended = rig.tell(events.Evaluated(version=rig.store.versions[-1].version, metrics={"accuracy": 0.9, "event": 1.0}))
    assert transcript(ended, notes=True) == [
        "note evaluated",
        "note best_version",
        "retain [] best 1",
        "publish state offline epoch 1",
        "stop finished",
    ]
    assert rig.tell(None) == []
    assert rig.machine.deadline() is None


def test_a_node_that_reboots_in_mid_round_starts_over_with_a_fresh_lease() -> None:
    rig = Rig(engine(quorum=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.wait(50.0)
    assert transcript(rig.state("bob", incarnation=2)) == []
    rig.wait(50.0)
    assert rig.get("live") == 1
    assert "commit 1 of 0-ann@0 0-bob@0 because buffer_full" in transcript(rig.offer("bob", 0))


def test_a_node_that_lost_its_state_takes_part_again_at_once() -> None:
    """FED-99: a new card begins at incarnation 1; what its former life left in the broker does not shut it out."""
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, nodes_min=1))
    rig.connect()
    former: dict[str, Any] = {"incarnation": Incarnation(17), "state_id": StateId(1)}
    rig.state("ann", **former)
    rig.offer("ann", 0)
    assert rig.get("live") == 1
    new: dict[str, Any] = {"incarnation": Incarnation(1), "state_id": StateId(2)}
    rig.state("ann", **new)
    rig.state("ann", Presence.LOST, **former)
    assert (rig.get("online"), rig.get("live")) == (1, 1)
    assert "tell ann applied 1-ann in 2" in transcript(rig.offer("ann", 1))


IDS = (None, StateId(1))


@pytest.mark.parametrize("former", IDS)
@pytest.mark.parametrize("new", IDS)
def test_a_node_whose_counter_went_back_while_it_counts_as_online_is_asked_and_takes_part(
    former: StateId | None, new: StateId | None
) -> None:
    """FED-21: wiped or set back, and no other state id tells: who says it again when it is asked is there."""
    rig = Rig(engine(concurrency=2, buffer=2, refill=2, nodes_min=2, quorum=2))
    rig.start("bob")
    rig.state("ann", incarnation=Incarnation(17), state_id=former)
    assert transcript(rig.state("ann", incarnation=Incarnation(1), state_id=new)) == ["tell ann rebirth"]
    said = rig.state("ann", incarnation=Incarnation(1), state_id=new)
    notes = [effect.fields for effect in said if isinstance(effect, Note) and effect.event == "node_online"]
    assert notes == [{"node": "ann", "incarnation": 1, "online": 2}]
    rig.offer("ann", 0)
    assert "commit 1 of 0-ann@0 0-bob@0 because buffer_full" in transcript(rig.offer("bob", 0))
    rig.state("ann", Presence.LOST, incarnation=Incarnation(1), state_id=new)
    assert rig.get("online") == 1


def test_the_end_of_a_life_whose_counter_went_back_counts_when_it_was_asked_about() -> None:
    rig = Rig(engine())
    rig.start("bob")
    rig.state("ann", incarnation=Incarnation(17))
    rig.state("ann", incarnation=Incarnation(1))
    rig.state("ann", Presence.LOST, incarnation=Incarnation(1))
    assert rig.get("online") == 1


def test_a_birth_that_came_late_changes_nothing_once_the_node_has_answered() -> None:
    """FED-21: the answer of the life that is online ends the doubt, and what comes late again is asked anew."""
    rig = Rig(engine())
    rig.start("bob")
    rig.state("ann", incarnation=Incarnation(17))
    late: dict[str, Any] = {"incarnation": Incarnation(16)}
    assert transcript(rig.state("ann", **late)) == ["tell ann rebirth"]
    rig.state("ann", incarnation=Incarnation(17))
    rig.state("ann", Presence.LOST, **late)
    assert (rig.get("online"), rig.get("live")) == (2, 2)
    assert rig.get("counters") == {"outdated_states": 2}


def test_births_that_come_late_in_a_flood_are_asked_about_at_a_bounded_rate() -> None:
    """FED-101: each is of another incarnation, so that none is the answer to what was asked."""
    rig = Rig(engine())
    rig.start("bob")
    rig.state("ann", incarnation=Incarnation(1000))
    asked = [
        line for number in range(100, 0, -1) for line in transcript(rig.state("ann", incarnation=Incarnation(number)))
    ]
    assert asked == ["tell ann rebirth"] * 3
    assert rig.get("counters") == {"outdated_states": 100, "rebirths_withheld": 97}


def test_a_new_life_frees_the_slot_of_the_former_one_where_it_cannot_know_of_it() -> None:
    """FED-29, FED-99: the announcement that named it is gone, so it would be waited for in vain."""
    rig = Rig(engine(concurrency=2, buffer=1, refill=1, nodes_min=2, max_staleness=2))
    rig.connect()
    rig.state("ann", incarnation=Incarnation(17), state_id=StateId(1))
    rig.state("bob")
    rig.offer("bob", 0)
    assert rig.announced is not None
    assert rig.announced.round == 1
    assert "close ann" in " ".join(transcript(rig.state("ann", incarnation=Incarnation(1), state_id=StateId(2))))


def test_a_restored_coordinator_that_nobody_obeys_knows_it_within_a_lease() -> None:
    """FED-97: nodes ignore its rounds, and say when they are asked what they have seen."""
    rig = Rig(engine(lease_s=30.0))
    rig.start("ann", "bob")
    asked = transcript(rig.wait(30.0))
    assert {"tell ann rebirth", "tell bob rebirth"} <= set(asked)
    seen = SeenRun(run=RUN, epoch=Epoch(4), round=RoundId(70))
    for node in ("ann", "bob"):
        rig.state(node, seen=seen)
    row = rig.get("behind")
    assert isinstance(row, dict)
    assert (row["nodes"], row["epoch"], row["round"]) == (2, 4, 70)
    assert rig.waiting_for == "behind"


def test_a_node_that_was_lost_and_is_back_gets_its_slot_again() -> None:
    rig = Rig(engine(quorum=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.state("bob", Presence.LOST)
    assert rig.get("live") == 1
    rig.state("bob", activity=Activity.TRAINING, round=RoundId(0))
    assert rig.get("live") == 2


def test_the_reason_to_wait_is_said_when_it_changes_and_only_then() -> None:
    rig = Rig(engine(nodes_min=2, settle_s=1.0))
    said: list[tuple[object, object]] = []

    def hear(effects: list[effects.Effect]) -> None:
        notes = (effect.fields for effect in effects if isinstance(effect, Note) and effect.event == "waiting")
        said.extend((fields["reason"], fields["nodes"]) for fields in notes)

    hear(rig.connect())
    hear(rig.state("ann"))
    hear(rig.wait(2.0))
    hear(rig.state("bob"))
    hear(rig.offer("ann", 0))
    hear(rig.disconnect())
    assert [reason for reason, _ in said] == ["broker", "settling", "nodes_min", "assignments", "broker"]
    assert sorted(said[3][1]) == ["ann", "bob"]  # type: ignore[call-overload]


def test_nodes_that_seem_gone_are_called_when_nobody_else_can_be_asked() -> None:
    """FED-61: the will of a node that is there would leave both waiting for each other for ever."""
    rig = Rig(engine(quorum=2))
    rig.start("ann", "bob")
    rig.state("ann", Presence.LOST)
    rig.state("bob", Presence.LOST)
    assert rig.waiting_for == "no_candidates"

    assert transcript(rig.wait(59.0)) == []
    assert transcript(rig.wait(1.0)) == ["tell ann rebirth", "tell bob rebirth"]
    assert transcript(rig.wait(119.0)) == []  # with growing pauses
    assert transcript(rig.wait(1.0)) == ["tell ann rebirth", "tell bob rebirth"]
    rig.state("bob")
    rig.state("ann")
    assert rig.get("live") == 2  # the standing announcement asks them
    assert transcript(rig.wait(30.0)) == []
    assert rig.get("counters") == {"roll_calls": 2}


def test_a_call_stops_when_somebody_can_be_asked_or_the_broker_is_away() -> None:
    """FED-61."""
    rig = Rig(engine(nodes_min=2))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.offer("bob", 0)
    rig.state("ann", Presence.LOST)
    assert rig.waiting_for == "assignments"
    assert transcript(rig.wait(59.0)) == []
    rig.state("bob", Presence.LOST)
    rig.disconnect()
    assert transcript(rig.wait(500.0)) == []


def test_of_many_nodes_that_seem_gone_each_is_called_in_turn() -> None:
    """FED-61: a call to a node that is gone waits at the broker, so there are never many at once."""
    names = [f"n{number}" for number in range(250)]
    rig = Rig(engine())
    rig.start(*names[:2])
    for name in names:
        rig.state(name, Presence.LOST)
    called: list[str] = []
    for number in range(3):
        lines = transcript(rig.wait(60.0 * 2**number))
        assert len(lines) <= 100
        called += lines
    assert set(called) == {f"tell {name} rebirth" for name in names}
