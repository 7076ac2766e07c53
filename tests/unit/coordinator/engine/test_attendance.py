"""Who came and who was absent is gathered by the machine, and saved together, once a second at most."""

import pytest

from coordinator.engine import effects, events
from coordinator.engine.effects import SaveAttendance
from coordinator.engine.liveness import PAUSE_S, AttendanceRecorder
from coordinator.engine.state import MachineState
from coordinator.records import Attendance
from federation.protocol.messages import Presence
from federation.types import Incarnation, NodeId, RunId
from tests.rigs.coordinator_rig import Rig, engine, fresh, transcript


def saved(done: list[effects.Effect]) -> list[Attendance]:
    return [effect.attendance for effect in done if isinstance(effect, SaveAttendance)]


def rested() -> Rig:
    """Connected, and nothing has been saved for long."""
    rig = Rig(engine(nodes_min=9))
    rig.connect()
    return rig


def test_births_declines_and_silence_are_saved_together() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.wait(PAUSE_S)
    rig.decline("ann", 0, reason="battery\x1b[2J is low")
    rig.decline("ann", 0, reason="\n")
    rig.state("ann", incarnation=Incarnation(2))
    rig.state("cid", task="other")
    said = {"battery[2J is low": 1, "no reason": 1}
    assert saved(rig.wait(PAUSE_S)) == [
        Attendance(
            incarnations={NodeId("ann"): Incarnation(2), NodeId("cid"): Incarnation(1)},
            absences={NodeId("ann"): dict(said), NodeId("cid"): {"incompatible": 1}},
        )
    ]
    assert rig.store.attended[NodeId("ann")] == said
    rig.wait(rig.settings.lease_s)
    assert rig.store.attended[NodeId("bob")] == {"no answer": 1}
    assert rig.store.incarnations == {"ann": 2, "bob": 1, "cid": 1}


def test_a_crowd_costs_one_save_a_second() -> None:
    rig = rested()
    assert [dict(one.incarnations) for one in saved(rig.state("ann"))] == [{"ann": 1}]
    crowd = [effect for number in range(50) for effect in rig.state(f"node-{number}")]
    assert saved(crowd) == []
    assert rig.machine.deadline() == rig.now + PAUSE_S
    assert [len(one.incarnations) for one in saved(rig.wait(PAUSE_S))] == [50]
    assert saved(rig.wait(10 * PAUSE_S)) == []


def test_a_foreign_decline_or_a_state_that_is_no_news_tells_nothing() -> None:
    rig = rested()
    rig.state("ann")
    rig.state("ann")
    rig.decline("ann", 0, run=RunId("another run"))
    assert saved(rig.wait(PAUSE_S)) == []


def test_a_full_disk_costs_no_pause_and_it_is_saved_later() -> None:
    rig = rested()
    rig.full_for_attendance = True
    assert transcript(rig.state("ann", presence=Presence.ONLINE)) == []
    assert (rig.get("paused"), rig.store.incarnations) == (False, {})
    rig.decline("ann", 0)
    rig.wait(3 * PAUSE_S)
    rig.full_for_attendance = False
    rig.decline("ann", 0)
    rig.wait(PAUSE_S)
    assert (rig.store.incarnations, rig.store.attended) == ({"ann": 1}, {"ann": {"busy": 2}})


def test_what_a_storage_failure_has_swallowed_is_saved_after_the_pause() -> None:
    rig = Rig()
    rig.start("ann")
    rig.failing, rig.failing_kinds = True, (effects.SaveRound,)
    rig.wait(PAUSE_S)
    rig.state("bob")
    rig.failing = False
    rig.state("cid")
    assert rig.get("paused")
    assert "cid" not in rig.store.incarnations
    rig.wait(60.0)
    assert rig.store.incarnations == {"ann": 1, "bob": 1, "cid": 1}


def test_what_was_seen_last_is_saved_before_the_coordinator_leaves() -> None:
    rig = rested()
    rig.state("ann")
    rig.state("bob")
    done = rig.tell(events.StopRequested())
    assert [dict(one.incarnations) for one in saved(done)] == [{"bob": 1}]
    assert isinstance(done[-1], effects.Stop)


def test_declines_of_unknown_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.engine.liveness.NODES_MAX", 3)
    rig = rested()
    rig.state("ann")
    for number in range(10):
        rig.decline(f"forged-{number}", 0)
    rig.wait(PAUSE_S)
    assert len(rig.store.attended) == 3


def test_what_was_seen_while_the_disk_was_asked_is_kept_for_the_next_time() -> None:
    state = MachineState(engine(), fresh())
    recorder, ann = AttendanceRecorder(state), NodeId("ann")
    recorder.came(ann, Incarnation(1))
    recorder.absent(ann, "low battery")
    recorder.save()
    recorder.came(ann, Incarnation(2))
    recorder.absent(ann, "low battery")
    recorder.save(at_once=True)
    (first,) = saved(state.effects)
    recorder.saved(first)
    recorder.save(at_once=True)
    rest = Attendance(incarnations={ann: Incarnation(2)}, absences={ann: {"low battery": 1}})
    assert saved(state.effects)[1:] == [rest]
