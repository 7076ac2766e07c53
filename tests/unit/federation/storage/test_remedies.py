"""A folder that this user may not use is told with whose it is, and what is only barred is not taken for lost."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.backup.archive import Archive
from coordinator.monitoring.presence import read_presence
from coordinator.monitoring.state_files import read_waiting
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from edge_node.storage.model_file import read_held, read_model
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.command_line import errors_told
from federation.errors import StorageError
from federation.runtime.obstacles import read_obstacles
from federation.storage.folder import ReadableFolder
from federation.storage.remedies import access_remedy, is_gone, misplaced, remedy_for


def test_a_file_of_another_owner_is_named_also_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "model-1").touch()
    own = os.geteuid()
    real = Path.lstat

    def lstat(path: Path) -> object:
        there = real(path)
        return SimpleNamespace(st_uid=own + 1 if path.name == "model-1" else own, st_mode=there.st_mode)

    monkeypatch.setattr(Path, "lstat", lstat)
    said = access_remedy(tmp_path)
    assert said.startswith(f"; {tmp_path}/blobs/model-1 belongs to ")
    assert said.endswith(f"{tmp_path}")
    assert "sudo chown -R " in said


def test_a_file_that_is_read_only_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.sqlite-shm").touch()
    assert access_remedy(tmp_path) == f"; make {tmp_path} writable for this user"
    real: Callable[..., bool] = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: "shm" not in str(path) and real(path, mode, **more))
    said = access_remedy(tmp_path)
    assert said.startswith(f"; {tmp_path}/node.sqlite-shm cannot be read and written by ")
    assert said.endswith(f": chmod -R u+rwX {tmp_path}")


def test_a_disk_that_is_read_only_is_no_matter_of_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert "this disk is read-only" in access_remedy(tmp_path)


def test_whose_a_file_is_that_a_command_may_not_read_is_said_and_nobody_is_told_to_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be anybody's: `chown -R` on the folder that it is in would be a harm."""
    barred, real = tmp_path / "other's", Path.lstat

    def lstat(path: Path) -> object:
        if path == barred / "x":
            raise PermissionError
        there = real(path)
        return SimpleNamespace(st_uid=there.st_uid + (path == barred), st_mode=there.st_mode)

    barred.mkdir()
    monkeypatch.setattr(Path, "lstat", lstat)
    for said in (remedy_for(PermissionError(errno.EACCES, "?", str(barred / "x"))), access_remedy(barred / "x")):
        assert said.startswith(f"; {barred} belongs to ")
        assert said.endswith(": run it as that user, or let this one read and write there")
    assert access_remedy(tmp_path / "nothing") == f"; make {tmp_path}/nothing writable for this user"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP])
def test_a_command_that_is_told_a_place_that_cannot_be_ends_with_a_line(
    capsys: pytest.CaptureFixture[str], number: int
) -> None:
    with pytest.raises(SystemExit) as end, errors_told("coordinator"):
        raise OSError(number, os.strerror(number), "/x")
    assert (end.value.code, capsys.readouterr().err) == (
        3,
        f"coordinator: [Errno {number}] {os.strerror(number)}: '/x'\n",
    )


def test_a_command_that_may_not_read_something_ends_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, errors_told("fedmq helper"):
        raise PermissionError(errno.EACCES, "Permission denied", "/nowhere/helper.sqlite")
    said = capsys.readouterr().err
    assert end.value.code == 3
    assert said.startswith("fedmq helper: [Errno 13] Permission denied: '/nowhere/helper.sqlite'; ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "gone"), [(errno.ENOENT, True), (errno.EIO, True), (errno.EACCES, False), (errno.EMFILE, False)]
)
def test_only_what_nobody_can_read_is_gone(number: int, gone: bool) -> None:
    assert is_gone(OSError(number, "?")) is gone


def put_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def put_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def put_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


PUTS = [(put_pipe, "a pipe"), (put_folder, "a folder"), (put_link, "a link that leads nowhere")]


@pytest.mark.parametrize(("put", "kind"), PUTS)
@pytest.mark.parametrize("name", ["lock", "node.sqlite", "node.sqlite-wal", "node.sqlite-shm"])
def test_a_state_folder_with_something_else_in_a_files_place_says_what_it_is(
    tmp_path: Path, name: str, put: Callable[[Path], None], kind: str
) -> None:
    """A database takes it for a disk that fails, or for rights that are missing."""
    put(tmp_path / name)
    with pytest.raises(StorageError, match=f"{name} is {kind}, and no file: move it away"):
        SqliteNodeStore(tmp_path)


@pytest.mark.parametrize(("put", "kind"), [PUTS[0], PUTS[2]])
def test_a_state_folder_that_is_none_says_what_it_is(tmp_path: Path, put: Callable[[Path], None], kind: str) -> None:
    put(tmp_path / "state")
    for folder in (tmp_path / "state", tmp_path / "state" / "node"):
        with pytest.raises(StorageError, match=f"{tmp_path}/state is {kind}, and no folder: move it away"):
            SqliteNodeStore(folder)
    (tmp_path / "state").unlink()
    (tmp_path / "state").touch()
    with pytest.raises(StorageError, match="state is a file, and no folder"):
        SqliteNodeStore(tmp_path / "state")


def test_what_is_made_or_sent_again_keeps_no_role_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for name in ("status.json", "blobs/model-1.safetensors", "model.safetensors"):
        put_pipe(tmp_path / name)
    assert misplaced(tmp_path) == ""


@pytest.mark.timeout(20)
def test_a_model_that_is_a_pipe_is_as_good_as_none(tmp_path: Path) -> None:
    put_pipe(tmp_path / "model.safetensors")
    assert read_model(tmp_path / "model.safetensors") is None
    assert read_held(tmp_path / "model.safetensors") is None


@pytest.mark.timeout(20)
def test_a_backup_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    """What is in it is looked for here and there: it could not be read from one."""
    put_pipe(tmp_path / "backup.tar")
    with pytest.raises(OSError, match="it is no file"):
        Archive(tmp_path / "backup.tar", lambda *_: None)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["coordinator.sqlite3", "lock", "status.json", "nodes.json", "trouble.json"])
def test_what_reads_a_state_folder_waits_for_no_pipe_in_it(tmp_path: Path, name: str) -> None:
    """It waited until somebody writes into it, which is never."""
    SqliteStore(tmp_path).close()
    put_pipe(tmp_path / name)
    with contextlib.suppress(StorageError), ReadOnlyStore(tmp_path):
        pass
    with contextlib.suppress(StorageError):
        read_waiting(tmp_path)
    read_presence(tmp_path, "run")
    assert read_obstacles(tmp_path) == {}


@pytest.mark.timeout(20)
def test_a_body_that_is_a_pipe_is_as_good_as_gone(tmp_path: Path) -> None:
    put_pipe(tmp_path / "frame.body")
    with pytest.raises(OSError, match="it is no file") as refused:
        ReadableFolder(tmp_path).read("frame.body")
    assert is_gone(refused.value)
