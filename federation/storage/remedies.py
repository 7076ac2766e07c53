"""What the disk refuses, and what a person can do about it: room, rights, locks, a broken disk."""

import contextlib
import errno
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Final

__all__ = ["ROOM_BYTES", "access_remedy", "is_full", "is_gone", "misplaced", "remedy_for"]

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
_OF_DISKS: Final = {
    errno.EROFS: _READ_ONLY,
    errno.EIO: "; the disk is failing or at a limit: see the kernel's log, and move the state folder to a sound one",
}
_SEEN_MAX: Final = 10_000
"""So many files of a folder are looked at, for one that is somebody else's."""
_ODD: Final = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO})
"""What the system says where a file should be, or a folder, and something else is."""
_NOWHERE: Final = frozenset({errno.ENOENT, errno.ELOOP})
_FILE: Final = "a file"
_FOLDER: Final = "a folder"
_KINDS: Final = (
    (stat.S_ISREG, _FILE),
    (stat.S_ISDIR, _FOLDER),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
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
        case number if number in _ODD and folder is not None:
            return misplaced(folder)
        case number if number in _FULL:
            return "; make room on this disk"
        case number if number in _BARRED:
            named = isinstance(error.filename, (str, Path)) and folder is None
            return _whose(Path(error.filename)) if named else access_remedy(folder)
        case number if number in _LOCKLESS:
            return "; this file system has no locks, as a network one without its lock service: choose a local disk"
        case number:
            return _OF_DISKS.get(number or 0, "")


def access_remedy(folder: Path | None) -> str:
    """What to do about a folder that this user may not use, with its own semicolon; it names a foreign owner."""
    if folder is None:
        return "; make the state folder writable for this user"
    with contextlib.suppress(OSError):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return _READ_ONLY
    return misplaced(folder) or _barred(folder)


def _barred(folder: Path) -> str:
    own, found = os.geteuid(), _with_entries(folder)
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


def misplaced(folder: Path) -> str:
    """What stands where a state folder or one of its files should, with its own semicolon; empty where nothing does.

    A pipe would be waited for until somebody writes into it, and what a database finds in such a place it takes for a
    disk that fails, or for rights that are missing.
    """
    for path in (*reversed(folder.absolute().parents), folder.absolute()):
        if (kind := _kind(path)) not in {"", _FOLDER}:
            return f"; {path} is {kind}, and no folder: move it away, or choose another store.folder"
    for path in _own_files(folder):
        if (kind := _kind(path)) not in {"", _FILE}:
            return f"; {path} is {kind}, and no file: move it away"
    return ""


def _own_files(folder: Path) -> list[Path]:
    """What a role cannot begin without: whatever else is in a state folder is made, or sent, again."""
    with contextlib.suppress(OSError):
        return sorted(one for one in folder.iterdir() if one.name == "lock" or ".sqlite" in one.name)
    return []


def _kind(path: Path) -> str:
    """What stands there; empty where nothing does, or nobody of ours may look."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        with contextlib.suppress(OSError):
            if error.errno in _NOWHERE and stat.S_ISLNK(path.lstat().st_mode):
                return "a link that leads nowhere"
        return ""
    return next((kind for tells, kind in _KINDS if tells(mode)), "")


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
