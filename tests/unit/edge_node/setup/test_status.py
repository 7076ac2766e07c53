"""``edge-node status`` and the doctor say what came of readings: kept, dropped, refused, away, moved."""

import json
import os
from pathlib import Path
from typing import ClassVar

import pytest

import edge_node.setup.status
from edge_node.engine.effects import Note, SaveSeen
from edge_node.engine.events import StorageFailed
from edge_node.records import Seen
from edge_node.runtime.disk_trouble import DiskTrouble
from edge_node.setup.status import check_readings, read_status, show_status
from edge_node.storage.reading_store import Block, Bounds, ReadingStore
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.doctor import Verdict
from federation.errors import StorageError
from federation.runtime.obstacles import ObstacleFile
from federation.storage.folder import FolderLock
from federation.types import Epoch, ModelVersion, RoundId, RunId

NOW = 2_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SqliteNodeStore(tmp_path).close()
    return tmp_path


def filled(folder: Path) -> Path:
    store = ReadingStore(folder, Bounds(rows=150))
    for begin in (0, 100):
        times = [float(begin + number) for number in range(100)]
        store.add(Block(times, ["heat", "flow"] * 50, [20.0 + time for time in times]))
    store.add(
        None,
        refused={"not a number": 3, "from the future": 1},
        memos={
            "drift": {"heat": [0.4, 2.5], "flow": [0.01, float("inf")], "x": "nonsense"},
            "sources": {"mqtt": "", "files /var/log/pump.csv": "there is no file /var/log/pump.csv"},
            "trained_to": 150.0,
            "new_examples": 42,
        },
    )
    store.close()
    return folder


def test_all_of_it_is_plain_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(filled(folder), NOW, as_json=True)
    found = json.loads(capsys.readouterr().out)
    readings = found["readings"]
    assert (readings["rows"], readings["received"], readings["dropped"]) == (100, 200, {"rows": 100})
    assert readings["refused"] == {"not a number": 3, "from the future": 1}
    assert readings["newest_age_s"] == NOW - 199
    assert readings["columns"]["heat"] == {"readings": 50, "newest": 198.0, "value": 218.0, "drift": 0.4, "shift": 2.5}
    assert readings["columns"]["flow"]["drift"] is None
    assert (found["held_version"], found["outbox"]) == (None, 0)


def test_a_person_reads_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(filled(folder), NOW, as_json=False)
    text = capsys.readouterr().out
    for said in (
        "100 kept (1.4 KiB), 200 received, 100 dropped over the bound of rows",
        "3 refused: not a number",
        "mqtt: read",
        "there is no file /var/log/pump.csv",
        "trained last on 42 new examples",
        "0.40 moved",
        "+2.50 sd",
        "30 min",
    ):
        assert said in " ".join(text.split())


def test_a_node_without_readings_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_status(folder, NOW)["readings"] is None
    show_status(folder, NOW, as_json=False)
    assert "no readings: the node has no [data]" in capsys.readouterr().out


def test_a_person_reads_whether_it_runs_what_it_has_heard_and_that_nothing_is_owed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said `no model on disk, last round none, 0 updates without a receipt`, whether a node ran or not."""
    show_status(folder, NOW, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("no node is running here; edge-node run goes on where it was no coordinator was heard yet")
    assert "every update has its receipt" in text
    store = SqliteNodeStore(folder)
    seen = Seen(run=RunId("r" * 16), epoch=Epoch(1), began_ms=1, round=RoundId(7), version=ModelVersion(5))
    store.save_seen(seen)
    show_status(folder, NOW, as_json=False)
    store.close()
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"running, pid {os.getpid()} run {'r' * 16}: version 5 was heard of")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        show_status(tmp_path / "none", NOW, as_json=False)


def test_the_doctor_looks_at_readings(folder: Path) -> None:
    before = check_readings(folder, NOW)
    assert (before.verdict, before.detail) == (
        Verdict.PASS,
        "none yet: the node takes them in from its first start on",
    )
    filled(folder)
    away = check_readings(folder, NOW)
    assert away.verdict is Verdict.WARN
    assert "there is no file" in away.detail
    store = ReadingStore(folder)
    store.add(None, memos={"sources": {"mqtt": ""}})
    assert check_readings(folder, NOW).verdict is Verdict.PASS
    stale = check_readings(folder, NOW + 7_000)
    assert stale.verdict is Verdict.WARN
    assert "the newest is 2 h old" in stale.detail
    assert "3 not a number" in stale.remedy
    store.close()


def test_what_is_in_the_way_of_a_node_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_status(folder, NOW)["trouble"] == {}
    lock, file = FolderLock(folder), ObstacleFile(folder)
    file.met("node", "refused by the broker: Not authorized; see broker.username")
    show_status(folder, NOW, as_json=False)
    assert "broker: refused by the broker: Not authorized" in capsys.readouterr().out
    lock.release()
    monkeypatch.setattr(edge_node.setup.status, "is_full", lambda _: True)
    assert read_status(folder, NOW)["trouble"] == {"disk": "it is full; make room on this disk"}


def test_a_disk_that_takes_nothing_is_told_until_it_takes_something(folder: Path) -> None:
    lock, file = FolderLock(folder), ObstacleFile(folder)
    told = DiskTrouble(Answering(), file)  # type: ignore[arg-type]
    failing = SaveSeen(seen=Seen(run=RunId("00000000000000aa"), epoch=Epoch(1)))
    Answering.answers = [StorageFailed(detail="the disk is full; make room", effect=failing)]
    assert list(told.execute(failing)) == Answering.answers
    assert read_status(folder, NOW)["trouble"] == {"disk": "the disk is full; make room"}
    Answering.answers = []
    told.execute(Note(event="x", fields={}))
    assert "disk" in read_status(folder, NOW)["trouble"]
    told.execute(failing)
    assert read_status(folder, NOW)["trouble"] == {}
    assert told.stopped is False
    lock.release()


class Answering:
    """An executor that answers what it was given."""

    stopped = False
    answers: ClassVar[list[StorageFailed]] = []

    def execute(self, _: object) -> list[StorageFailed]:
        return self.answers


def test_readings_ahead_of_the_clock_are_said_and_are_not_new(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(folder)
    found = check_readings(folder, 199.0 - 7200.0)
    assert (found.verdict, "2 h ahead of this clock" in found.detail) == (Verdict.WARN, True)
    show_status(folder, 199.0 - 7200.0, as_json=False)
    assert "the newest reading is 2 h ahead of this clock" in capsys.readouterr().out
    assert read_status(folder, NOW)["readings"]["ahead_s"] == 0.0
