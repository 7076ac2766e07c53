"""What is in a role's way is told while it runs, also on a full disk, and not of one that has ended."""

import json
from pathlib import Path

import pytest

from federation.runtime import obstacles
from federation.runtime.obstacles import DISK, FILE_BYTES, OBSTACLES, ObstacleFile, read_obstacles
from federation.storage.folder import FolderLock


def test_what_is_in_the_way_is_said_until_it_is_gone(tmp_path: Path) -> None:
    lock, file = FolderLock(tmp_path), ObstacleFile(tmp_path)
    assert read_obstacles(tmp_path) == {}
    file.met("control", "not there; see the port")
    file.met(DISK, "full\nmake room")
    assert read_obstacles(tmp_path) == {"control": "not there; see the port", DISK: "full make room"}
    file.gone("control")
    assert read_obstacles(tmp_path) == {DISK: "full make room"}
    lock.release()
    assert read_obstacles(tmp_path) == {}, "nobody runs: what was in the way then says nothing now"


def test_a_new_start_forgets_what_a_former_one_has_said(tmp_path: Path) -> None:
    ObstacleFile(tmp_path).met("node", "not there")
    lock = FolderLock(tmp_path)
    ObstacleFile(tmp_path)
    assert read_obstacles(tmp_path) == {}
    lock.release()


def test_on_a_full_disk_the_block_of_before_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, file = FolderLock(tmp_path), ObstacleFile(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(obstacles, "write_file", full)
    before = (tmp_path / OBSTACLES).stat()
    file.met(DISK, "x" * 10_000)
    after = (tmp_path / OBSTACLES).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, FILE_BYTES)
    assert read_obstacles(tmp_path)[DISK] == "x" * 300
    lock.release()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"{", json.dumps({"node": "x"}).encode() + b"{"])
def test_a_file_that_is_no_such_file_says_nothing(tmp_path: Path, content: bytes) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / OBSTACLES).write_bytes(content)
    assert read_obstacles(tmp_path) == {}
    lock.release()


def test_a_folder_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    ObstacleFile(tmp_path / "no").met("node", "not there")
    ObstacleFile(None).met("node", "not there")
    assert read_obstacles(tmp_path / "no") == {}
    assert list(tmp_path.iterdir()) == []
