"""Whoever waits can say for what, for whom and since when, also when the one who waited is dead."""

from pathlib import Path

import pytest

from coordinator.blobs import FolderLock
from coordinator.cli import make_app
from coordinator.why import MEANINGS, Waiting, explain, read_waiting, write_waiting
from federation.errors import StorageError

FIELDS = {"reason": "assignments", "nodes": ["ann", "bob"], "live": 2, "buffered": 1}


def test_a_running_coordinator_says_for_whom_and_since_when(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    write_waiting(tmp_path, FIELDS)
    waiting = read_waiting(tmp_path)
    assert (dict(waiting.fields), waiting.pid is None) == (FIELDS, False)
    text = explain(Waiting(fields=waiting.fields, since_s=12.4, pid=waiting.pid))
    assert text == "waiting for updates of nodes that are training (of ann, bob) since 12 s: live 2, buffered 1"
    lock.release()


def test_a_dead_coordinator_is_not_said_to_wait(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    write_waiting(tmp_path, {"reason": "something new", "live": 0})
    waiting = read_waiting(tmp_path)
    assert waiting.pid is None
    assert explain(waiting) == "no coordinator is running; the last one waited for something new: live 0"


def test_asking_does_not_take_the_folder_away(tmp_path: Path) -> None:
    write_waiting(tmp_path, FIELDS)
    assert read_waiting(tmp_path).pid is None
    lock = FolderLock(tmp_path)
    assert read_waiting(tmp_path).pid is not None
    lock.release()


@pytest.mark.parametrize("content", [None, "", "[]", '{"at": "x", "fields": {}}', '{"fields": {}}'])
def test_a_folder_that_says_nothing_is_a_storage_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "waiting.json").write_text(content)
    with pytest.raises(StorageError, match="has a coordinator run"):
        read_waiting(tmp_path)


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    write_waiting(tmp_path / "gone", FIELDS)
    assert not (tmp_path / "gone").exists()


def test_the_command_prints_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_waiting(tmp_path, FIELDS)
    make_app(["why"])(["why", "--state", str(tmp_path)], standalone_mode=False)
    assert MEANINGS["assignments"] in capsys.readouterr().out
    make_app(["why"])(["why", "--state", str(tmp_path), "--json"], standalone_mode=False)
    assert '"reason": "assignments"' in capsys.readouterr().out
