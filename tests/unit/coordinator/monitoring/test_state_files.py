"""What a coordinator tells in its status file is current, whole, and read back, also from a release before this one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.effects import Effect, Stop
from coordinator.engine.events import Event
from coordinator.monitoring.state_files import (
    FORMER,
    StoppingRule,
    read_counters,
    read_incidents,
    read_stopping,
    read_waiting,
)
from coordinator.monitoring.status_file import AGAIN_S, PAUSE_S
from coordinator.monitoring.watched_machine import WatchedMachine
from coordinator.storage.files import STATUS
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import StorageError
from federation.storage.folder import FolderLock
from tests.rigs.clocks import in_our_hands
from tests.rigs.status_values import snapshot, status_file


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock, and the time that passes."""
    time = [1000.0]
    monkeypatch.setattr("time.time", lambda: time[0])
    monkeypatch.setattr("federation.runtime.clock.passed_s", lambda: time[0])
    return time


def test_what_is_waited_for_is_current_and_each_version_is_waited_for_anew(tmp_path: Path, clock: list[float]) -> None:
    lock, found = FolderLock(tmp_path), [snapshot("assignments", "ann", "bob")]
    file = status_file(tmp_path, lambda: found[0])
    file.look(5.0)
    assert file.due() is None
    found[0], clock[0] = snapshot("assignments", "bob"), 1010.0
    file.look(5.0 + PAUSE_S / 2)
    assert (read_waiting(tmp_path).fields["nodes"], file.due()) == (["ann", "bob"], 5.0 + PAUSE_S)
    file.look(5.0 + PAUSE_S)
    waiting = read_waiting(tmp_path)
    assert (waiting.fields["nodes"], waiting.since_s, waiting.said_s) == (["bob"], 10.0, 0.0)
    assert waiting.pid is not None
    found[0] = snapshot("assignments", "ann", "bob", version=4)
    file.look(20.0)
    assert read_waiting(tmp_path).since_s == 0.0
    clock[0] = 1020.0
    file.look(30.0)
    assert read_waiting(tmp_path).said_s == 10.0
    lock.release()


def test_asking_does_not_take_the_folder_away(tmp_path: Path) -> None:
    status_file(tmp_path, snapshot).write()
    assert read_waiting(tmp_path).pid is None
    lock = FolderLock(tmp_path)
    assert read_waiting(tmp_path).pid is not None
    lock.release()


def test_counts_and_incidents_are_read_back_and_cost_one_write_in_half_a_second(tmp_path: Path) -> None:
    """FED-18: a flood is no reason to write each time."""
    counters, incidents = {"messages_refused": 1}, {"edge-01": {"bad_signature": 1}}
    file = status_file(tmp_path, lambda: snapshot(counters=dict(counters)), lambda: {**incidents})
    file.look(10.0)
    counters["messages_refused"], incidents["edge-02"] = 2, {"flood": 7}
    file.look(10.0 + PAUSE_S / 2)
    assert (read_counters(tmp_path), file.due()) == ({"messages_refused": 1}, 10.0 + PAUSE_S)
    file.look(10.0 + PAUSE_S)
    assert read_counters(tmp_path) == {"messages_refused": 2}
    assert read_incidents(tmp_path) == {"edge-01": {"bad_signature": 1}, "edge-02": {"flood": 7}}


def test_a_refusal_alone_does_not_begin_the_wait_anew(tmp_path: Path, clock: list[float]) -> None:
    counters = {"declines": 1}
    file = status_file(tmp_path, lambda: snapshot(counters=dict(counters)))
    file.write()
    clock[0], counters["declines"] = 1010.0, 2
    file.write()
    assert (read_waiting(tmp_path).since_s, read_waiting(tmp_path).said_s) == (10.0, 0.0)


def test_what_does_not_change_costs_no_write(tmp_path: Path) -> None:
    file = status_file(tmp_path, snapshot)
    file.look(10.0)
    (tmp_path / STATUS).unlink()
    file.look(20.0)
    assert not (tmp_path / STATUS).exists()


def test_the_stopping_rule_is_read_back(tmp_path: Path) -> None:
    settings = StoppingSettings(source=Source.NODES, metric="distance", goal=Goal.MIN, patience=3, min_delta=0.5)
    rule = StoppingRule(settings=settings, versions=20)
    status_file(tmp_path, snapshot, stopping=rule).write()
    assert read_stopping(tmp_path) == rule


OLD: Mapping[str, object] = {
    "waiting": {"at": 5.0, "fields": {"reason": "broker"}},
    "counters": {"at": 5.0, "counters": {"declines": 1}},
    "incidents": {"edge-01": {"malformed": 2}},
    "stopping": {
        "versions": 7,
        "stopping": {"source": "central", "metric": "", "goal": None, "patience": 2, "min_delta": 0.0},
    },
}


def write_former(folder: Path, files: Mapping[str, object] = OLD) -> None:
    for name, content in files.items():
        (folder / FORMER[name]).write_text(json.dumps(content))


def test_the_files_of_a_release_before_are_read_until_there_is_a_newer_one(tmp_path: Path) -> None:
    write_former(tmp_path)
    assert read_waiting(tmp_path).fields == {"reason": "broker"}
    assert read_counters(tmp_path) == {"declines": 1}
    assert read_incidents(tmp_path) == {"edge-01": {"malformed": 2}}
    assert read_stopping(tmp_path) == StoppingRule(settings=StoppingSettings(patience=2), versions=7)
    status_file(tmp_path, snapshot).write()
    write_former(tmp_path)
    assert read_waiting(tmp_path).fields["reason"] == "assignments"
    assert (read_counters(tmp_path), read_incidents(tmp_path)) == ({}, {})


def test_the_files_of_a_release_before_are_taken_away_once_they_are_replaced(tmp_path: Path) -> None:
    write_former(tmp_path)
    status_file(tmp_path, snapshot).write()
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


@pytest.mark.parametrize("text", ["", "damaged", "[]", "3", "{}"])
def test_a_damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS).write_text(text)
    assert (read_counters(tmp_path), read_incidents(tmp_path), read_stopping(tmp_path)) == ({}, {}, None)
    with pytest.raises(StorageError, match=r"has a coordinator run .* keeps its run with --keep DIR"):
        read_waiting(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("waiting", {"at": "x", "fields": {}}),
        ("waiting", {"fields": {}}),
        ("waiting", []),
        ("counters", 3),
        ("counters", {"x": "y"}),
        ("incidents", []),
        ("incidents", {"a": 1}),
        ("incidents", {"a": {"b": "x"}}),
        ("stopping", {}),
        ("stopping", {"versions": 1, "stopping": {"source": "elsewhere", "goal": None}}),
    ],
)
def test_a_damaged_part_says_nothing(tmp_path: Path, name: str, content: object) -> None:
    former = {"counters": content} if name == "counters" else content
    for path, text in ((STATUS, {name: content}), (FORMER[name], former)):
        (tmp_path / path).write_text(json.dumps(text))
        assert (read_counters(tmp_path), read_incidents(tmp_path), read_stopping(tmp_path)) == ({}, {}, None)
        with pytest.raises(StorageError, match="has a coordinator run"):
            read_waiting(tmp_path)
        (tmp_path / path).unlink()


def test_a_folder_that_says_nothing_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has a coordinator run"):
        read_waiting(tmp_path)


def test_a_run_that_no_coordinator_has_had_says_so(tmp_path: Path) -> None:
    """The page of a simulation that was kept asked whether `a coordinator has run with this store`."""
    SqliteStore(tmp_path).close()
    with pytest.raises(StorageError, match="no coordinator has run with this state folder: a simulation has kept it"):
        read_waiting(tmp_path)


def test_a_folder_that_cannot_be_written_stops_nobody_and_keeps_what_is_there(tmp_path: Path) -> None:
    status_file(tmp_path / "gone", snapshot).write()
    assert not (tmp_path / "gone").exists()


def full(*_: object, durable: bool) -> None:
    raise OSError(f"disk full, durable: {durable}")


def test_old_files_stay_where_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_former(tmp_path)
    monkeypatch.setattr("coordinator.monitoring.status_file.write_file", full)
    status_file(tmp_path, snapshot).write()
    assert read_incidents(tmp_path) == {"edge-01": {"malformed": 2}}


def test_a_full_disk_is_told_in_the_files_own_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ``why`` would name what was waited for before the disk was full, such as a broker that is there."""
    found = [snapshot("broker", *(f"node-{number}" for number in range(50)))]
    file = status_file(tmp_path, lambda: found[0])
    file.look(1.0)
    size = (tmp_path / STATUS).stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.monitoring.status_file.write_file", full)
        found[0] = snapshot("storage")
        file.look(2.0)
        assert read_waiting(tmp_path).fields["reason"] == "storage"
        assert (file.due(), (tmp_path / STATUS).stat().st_size) == (None, size)
        found[0] = snapshot("assignments", *(f"node-{number}" for number in range(2_000)))  # more than there is room
        file.look(3.0)
        assert read_waiting(tmp_path).fields["reason"] == "storage"
        assert file.due() == 3.0 + AGAIN_S
    file.look(3.0 + AGAIN_S)
    assert (read_waiting(tmp_path).fields["reason"], file.due()) == ("assignments", None)


class Machine:
    due: float | None = 50.0

    def handle(self, event: Event | None, now: float) -> list[Effect]:
        return [Stop(reason=f"{event} at {now:g}")]

    def deadline(self) -> float | None:
        return self.due


def test_a_file_that_has_something_left_to_say_wakes_the_driver(tmp_path: Path) -> None:
    machine, now = Machine(), [7.0]
    watched = WatchedMachine(machine, lambda: None, lambda: now[0], status_file(tmp_path, snapshot))
    assert watched.deadline() == 50.0
    watched.settle()
    watched.settle()
    assert watched.deadline() == 7.0 + PAUSE_S
    now[0] = 7.0 + PAUSE_S
    machine.due = None
    watched.settle()
    assert watched.deadline() is None
    assert watched.handle(None, 3.0) == [Stop(reason="None at 3")]


def test_what_is_told_was_settled_before_and_the_last_word_is_written(tmp_path: Path) -> None:
    told: list[bool] = []
    found: list[dict[str, Any]] = [snapshot()]
    file = status_file(tmp_path, lambda: found[0])
    watched = WatchedMachine(Machine(), lambda: told.append((tmp_path / STATUS).exists()), lambda: 7.0, file)
    watched.settle()
    found[0] = snapshot(version=9)
    watched.close()
    assert (told, read_waiting(tmp_path).fields["version"]) == ([False], 9)


@pytest.mark.parametrize("by_s", [86_400.0, -86_400.0])
def test_a_clock_that_is_set_makes_nobody_wait_longer_or_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    clocks, lock = in_our_hands(monkeypatch), FolderLock(tmp_path)
    file = status_file(tmp_path, lambda: snapshot("assignments", online=online))
    online = 1
    file.write()
    clocks.pass_by(30.0, by_s)  # while it runs, and before it writes again
    online = 2
    file.write()
    waiting = read_waiting(tmp_path)
    assert (waiting.since_s, waiting.said_s) == (30.0, 0.0)
    clocks.pass_by(5.0, -by_s)  # after it has written, before somebody asks
    waiting = read_waiting(tmp_path)
    assert (waiting.since_s, waiting.said_s) == (35.0, 5.0)
    lock.release()


def test_a_folder_that_may_not_be_read_is_no_folder_without_a_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="has a coordinator run with this store"):
        read_waiting(tmp_path)
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    with pytest.raises(StorageError, match=f"{tmp_path} cannot be read; .*chmod"):
        read_waiting(tmp_path)
