"""Who came and who was absent is read from the machine's notes, and saved together."""

from coordinator.monitoring.attendance import PAUSE_S, AttendanceRecorder
from coordinator.records import Attendance
from federation.errors import StorageError
from federation.types import Incarnation, NodeId


class Kept:
    """A store that keeps what it is given, or fails."""

    def __init__(self) -> None:
        self.saved: list[Attendance] = []
        self.fails = False

    def save_attendance(self, attendance: Attendance) -> None:
        if self.fails:
            raise StorageError("disk full")
        self.saved.append(attendance)


def test_births_declines_and_silence_are_saved_together() -> None:
    store = Kept()
    notes = AttendanceRecorder(store)
    notes.hear("round_announced", {"round": 1})
    notes.look(1.0)
    assert store.saved == []
    notes.hear("node_online", {"node": "a", "incarnation": 1, "online": 1})
    notes.hear("node_online", {"node": "a", "incarnation": 2, "online": 1})
    notes.hear("node_declined", {"node": "b", "round": 1, "reason": "battery\x1b[2J is low"})
    notes.hear("node_declined", {"node": "b", "round": 2, "reason": "\n"})
    notes.hear("lease_expired", {"node": "b", "round": 3})
    notes.hear("node_incompatible", {"node": "c", "task": "other", "codecs": ()})
    notes.look(2.0)
    assert store.saved == [
        Attendance(
            incarnations={NodeId("a"): Incarnation(2)},
            absences={
                NodeId("b"): {"battery[2J is low": 1, "no reason": 1, "no answer": 1},
                NodeId("c"): {"incompatible": 1},
            },
        )
    ]


def test_a_crowd_costs_one_save_a_second() -> None:
    store = Kept()
    notes = AttendanceRecorder(store)
    assert notes.due() is None
    for incarnation, now in enumerate((5.0, 5.0 + PAUSE_S / 2, 5.0 + PAUSE_S), start=1):
        notes.hear("node_online", {"node": "a", "incarnation": incarnation})
        notes.look(now)
        assert notes.due() == (5.0 + PAUSE_S if incarnation == 2 else None)
    assert [dict(one.incarnations) for one in store.saved] == [{"a": 1}, {"a": 3}]


def test_what_a_full_disk_refused_is_saved_later() -> None:
    store = Kept()
    notes = AttendanceRecorder(store)
    notes.hear("lease_expired", {"node": "a", "round": 3})
    store.fails = True
    notes.write()
    store.fails = False
    notes.hear("lease_expired", {"node": "a", "round": 4})
    notes.write()
    notes.write()
    assert [dict(one.absences) for one in store.saved] == [{"a": {"no answer": 2}}]
