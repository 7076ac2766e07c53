"""What a person can do about a disk that refuses to write."""

import errno
import sqlite3
from typing import Final

__all__ = ["disk_remedy"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BARRED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_PRIMARY: Final = 0xFF
"""SQLite's extended codes have the plain one in their lowest byte."""


def disk_remedy(error: sqlite3.Error | OSError) -> str:
    """A remedy to follow the error's text, with its own semicolon; empty where the error needs none of these."""
    if isinstance(error, OSError):
        number, full, barred, broken = error.errno, _FULL, _BARRED, frozenset({errno.EIO})
    else:
        number = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
        full, broken = frozenset({sqlite3.SQLITE_FULL}), frozenset({sqlite3.SQLITE_IOERR})
        barred = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
    if number in full:
        return "; make room on this disk"
    if number in barred:
        return "; make the state folder writable for this user"
    if number in broken:
        return "; the disk is failing or at a limit: see the kernel's log, and move the state folder to a sound one"
    return ""
