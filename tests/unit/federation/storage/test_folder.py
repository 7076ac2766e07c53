"""One process owns a folder, and a file in it is the old one or the new one."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from federation.errors import StorageError, StoreLocked
from federation.storage.folder import FolderLock, lock_holder, sync_bytes, write_file
from federation.storage.remedies import access_remedy


def failing(error: OSError) -> object:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_the_holder_of_a_folder_is_known_until_it_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert lock_holder(folder) is None
    held = FolderLock(folder)
    assert lock_holder(folder) == str(os.getpid())
    with pytest.raises(StoreLocked, match=rf"{folder} is in use by the process with pid {os.getpid()}: stop it"):
        FolderLock(folder)
    held.release()
    held.release()
    assert lock_holder(folder) is None
    FolderLock(folder).release()


def test_a_private_folder_is_its_owners(tmp_path: Path) -> None:
    FolderLock(tmp_path / "state").release()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("found", "left"), [(0o755, 0o700), (0o750, 0o700), (0o700, 0o700), (0o1777, 0o1777)])
def test_a_folder_of_an_earlier_release_is_closed_to_others(tmp_path: Path, found: int, left: int) -> None:
    """Not one that everybody uses: there others would lose what is theirs."""
    folder = tmp_path / "state"
    FolderLock(folder).release()
    folder.chmod(found)
    FolderLock(folder).release()
    assert folder.stat().st_mode & 0o7777 == left


def test_a_folder_that_was_not_ours_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    FolderLock(tmp_path / "shared").release()
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755


def test_a_folder_whose_rights_cannot_be_changed_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderLock(tmp_path / "state").release()
    (tmp_path / "state").chmod(0o755)
    monkeypatch.setattr(Path, "chmod", failing(PermissionError(1, "Operation not permitted")))
    FolderLock(tmp_path / "state").release()


def test_a_folder_that_cannot_be_locked_says_why_and_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be used: .*Not a directory"):
        FolderLock(tmp_path / "file" / "state")
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", failing(OSError(37, "No locks available")))
        with pytest.raises(
            StorageError, match=r"No locks available; this file system has no locks.*a local disk"
        ) as told:
            FolderLock(tmp_path / "state")
        assert not isinstance(told.value, StoreLocked)
        assert lock_holder(tmp_path / "state") is None
    FolderLock(tmp_path / "state").release()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_folder_of_another_user_names_both_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    FolderLock(folder).release()
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    os.seteuid(65_534)
    try:
        with pytest.raises(StorageError, match=rf"{folder} belongs to root, .* nobody: sudo chown -R nobody: {folder}"):
            FolderLock(folder)
    finally:
        os.seteuid(0)


def test_a_file_of_another_user_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.sqlite").write_bytes(b"")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid)
    assert access_remedy(tmp_path) == f"; make {tmp_path} writable for this user"
    monkeypatch.setattr(os, "geteuid", lambda: 4_294_967)
    assert "sudo chown -R 4294967:" in access_remedy(tmp_path)
    assert access_remedy(tmp_path / "nothing") == f"; make {tmp_path / 'nothing'} writable for this user"


def test_the_length_and_bytes_of_a_file_are_waited_for_also_where_only_all_of_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: waits.append(("all", handle)))
    monkeypatch.setattr(os, "fdatasync", lambda handle: waits.append(("bytes", handle)))
    sync_bytes(3)
    monkeypatch.delattr(os, "fdatasync")  # as on macOS
    sync_bytes(3)
    assert waits == [("bytes", 3), ("all", 3)]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_that_need_not_be_durable_waits_for_no_disk(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    write_file(tmp_path / "x", b"body", durable=durable)
    assert (len(waits), (tmp_path / "x").read_bytes()) == (2 if durable else 0, b"body")


@pytest.mark.parametrize("broken", ["os.fsync", "os.open", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "x", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(broken, failing(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            write_file(tmp_path / "x", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


def test_the_mask_decides_about_the_rights_of_an_ordinary_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "x", b"")
        write_file(tmp_path / "y", b"", mode=0o644)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("x", "y")] == [0o640, 0o644]


def test_two_threads_that_write_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    bodies = [bytes([number]) * 4096 for number in range(4)]

    def write(body: bytes) -> None:
        for _ in range(50):
            write_file(tmp_path / "x", body, durable=False)

    threads = [threading.Thread(target=write, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() in bodies


FORKS = """
import os, sys
from pathlib import Path
from federation.storage.folder import FolderLock, lock_holder
folder, (until, end), (there, begun) = Path(sys.argv[1]), os.pipe(), os.pipe()
held = FolderLock(folder)
if os.fork() == 0:
    os.close(end)
    os.write(begun, b"1")
    os.read(until, 1)
    os._exit(0)
os.read(there, 1)
assert lock_holder(folder) == str(os.getpid())
held.release()
FolderLock(folder).release()
"""


def test_a_process_that_a_task_forks_does_not_keep_the_folder(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FORKS, tmp_path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
