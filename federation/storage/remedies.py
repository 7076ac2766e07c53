"""What the disk refuses, and what a person can do about it: room, rights, locks, a broken disk."""

import contextlib
import errno
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Final

__all__ = ["access_remedy", "is_full", "is_gone", "remedy_for"]

ROOM_BYTES: Final = 1 << 16
"""With less a disk is full: a page of a database, its journal and what its readers share need more."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BARRED: Final = frozenset({errno.EACCES, errno.EPERM})
_GONE: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EIO,
        errno.EBADMSG,
        errno.ENXIO,
        getattr(errno, "EUCLEAN", errno.EIO),
    }
)
_READ_ONLY: Final = "; this disk is read-only: see the kernel's log, and make it writable again"
_SEEN_MAX: Final = 10_000
"""So many files of a folder are looked at, for one that is somebody else's."""
_LOCKLESS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


def is_full(folder: Path | None) -> bool:
    """Whether a disk has hardly a page left for this user; no where it is not known.

    SQLite calls that an I/O error where it cannot enlarge the file that its readers share.
    """
    if folder is not None:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free < ROOM_BYTES
    return False


def remedy_for(error: OSError, folder: Path | None = None) -> str:
    """A remedy to follow the error's text, with its own semicolon; empty where the error needs none of these.

    Args:
        error: What the system said.
        folder: The state folder, where the error is about what is in it.
    """
    match error.errno:
        case number if number in _FULL:
            return "; make room on this disk"
        case number if number in _BARRED:
            named = isinstance(error.filename, (str, Path)) and folder is None
            return _whose(Path(error.filename)) if named else access_remedy(folder)
        case number if number in _LOCKLESS:
            return "; this file system has no locks, as a network one without its lock service: choose a local disk"
        case errno.EROFS:
            return _READ_ONLY
        case errno.EIO:
            return "; the disk is failing or at a limit: see the kernel's log, and move the state folder to a sound one"
        case _:
            return ""


def access_remedy(folder: Path | None) -> str:
    """What to do about a folder that this user may not use, with its own semicolon; it names a foreign owner."""
    if folder is None:
        return "; make the state folder writable for this user"
    own = os.geteuid()
    with contextlib.suppress(OSError):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return _READ_ONLY
    found = _with_entries(folder)
    if not found:  # a folder above it lets nobody of ours through
        return _whose(folder)
    for path, owner in found:
        if owner != own:
            said = f"; {path} belongs to {_user(owner)}, and this process is {_user(own)}"
            return f"{said}: sudo chown -R {_user(own)}: {folder.absolute()}"
    for path, _ in found:
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            return f"; {path} cannot be read and written by {_user(own)}: chmod -R u+rwX {folder.absolute()}"
    return f"; make {folder.absolute()} writable for this user"


def _whose(path: Path) -> str:
    """Whose a file is that is barred, or the folder above it that bars it; nobody is told to take it over."""
    for one in (path.absolute(), *path.absolute().parents):
        try:
            owner = one.lstat().st_uid
        except PermissionError:
            continue
        except OSError:
            break
        said = f"; {one} belongs to {_user(owner)}, and this process is {_user(os.geteuid())}"
        return f"{said}: run it as that user, or let this one read and write there"
    return f"; make {path.absolute()} writable for this user"


def is_gone(error: OSError) -> bool:
    """Whether nobody can read what a file held: it is not there, or its disk is broken. Else it may be read again."""
    return error.errno in _GONE


def _with_entries(folder: Path) -> list[tuple[Path, int]]:
    """The folder and what can be seen in it, also a level below, each with its owner; nothing where there is none."""
    found: list[tuple[Path, int]] = []
    waiting = [folder]
    while waiting and len(found) < _SEEN_MAX:
        path = waiting.pop(0)
        with contextlib.suppress(OSError):
            there = path.lstat()
            found.append((path, there.st_uid))
            if stat.S_ISDIR(there.st_mode) and folder in {path, path.parent}:
                waiting += sorted(path.iterdir())
    return found


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
