"""An error of the disk says what to do about it."""

import errno
import sqlite3
from pathlib import Path

import pytest

from federation.storage.sqlite import disk_remedy


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "writable"),
        (errno.EIO, "kernel's log"),
    ],
)
def test_an_error_of_the_system_has_its_remedy(number: int, remedy: str) -> None:
    assert remedy in disk_remedy(OSError(number, "?"))


def test_an_error_of_sqlite_has_its_remedy(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "small", isolation_level=None)
    database.execute("PRAGMA max_page_count = 2")
    database.execute("CREATE TABLE t (body)")
    with pytest.raises(sqlite3.Error) as full:
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    database.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.Error) as barred:
        database.execute("DROP TABLE t")
    database.close()
    assert "make room" in disk_remedy(full.value)
    assert "writable" in disk_remedy(barred.value)
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert "kernel's log" in disk_remedy(broken)


def test_another_error_has_none() -> None:
    assert disk_remedy(OSError(errno.ENOENT, "?")) == disk_remedy(sqlite3.IntegrityError("?")) == ""
