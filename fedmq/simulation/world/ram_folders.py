"""Folders in memory for simulated disks: locked for the life of their process, and removed with it or by the next one.

A killed simulation cannot remove its folder. The kernel gives up its lock, so the next one knows that it is nobody's.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from federation.storage.folder import lock
from federation.storage.sqlite import SqliteError

__all__ = ["Closable", "put_away", "ram_folder"]

_RAM = Path("/dev/shm")  # noqa: S108 - each simulation has a folder of its own there
_RAM_BYTES_MIN: Final = 256 << 20
"""With less space than this in memory the folder is an ordinary temporary one, in bytes."""

_PREFIX: Final = "fedmq-simulation-"
_LOCKED: Final = ".locked"
"""In the name of each folder whose owner holds a lock on it; no other is ever taken for a leftover."""


class Closable(Protocol):
    """A store, or a disk with one."""

    def close(self) -> None:
        """Release its files."""


_held: dict[Path, int] = {}
"""The folders of this process, with the handles that lock them."""

_of_parents: list[Sequence[Closable]] = []
"""What a forked process has copies of. SQLite would put its log away as it closes one, under the parent's hands."""

_swept: set[Path] = set()


def ram_folder() -> Path:
    """A new folder in memory, or an ordinary temporary one where there is none or hardly any space.

    The first one of a process comes after what killed simulations have left.
    """
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_RAM).free >= _RAM_BYTES_MIN:
            return _folder_in(_RAM)
    return _folder_in(Path(tempfile.gettempdir()))


def put_away(folder: Path, stores: Sequence[Closable]) -> None:
    """Close stores, or disks, and remove the folder that they are in; only in the process that has made it.

    A forked one, such as a training worker, has copies of them: it closes none and removes nothing.
    """
    handle = _held.pop(folder, None)
    if handle is None:
        _of_parents.append(stores)
        return
    moved = folder.with_name(f"{folder.name}.gone")
    folder.rename(moved)  # so that nothing is written any more
    for store in stores:
        # The collector may run in another thread than the one that has opened it, which SQLite forbids.
        with contextlib.suppress(SqliteError):
            store.close()
    _remove(moved)
    os.close(handle)


def _folder_in(place: Path) -> Path:
    if place not in _swept:
        _swept.add(place)
        _sweep(place.glob(f"{_PREFIX}*{_LOCKED}*"))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_LOCKED, dir=place))
        handle = _locked(folder)
        if handle is not None:
            _held[folder] = handle
            return folder


def _sweep(found: Iterable[Path]) -> None:
    """Remove what nobody owns any more; what another user has left is that user's."""
    for folder in found:
        handle = _locked(folder)
        if handle is not None:
            with contextlib.suppress(OSError):
                if os.fstat(handle).st_uid == os.geteuid():
                    _remove(folder)
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """A handle that locks the folder; None where somebody else has the lock, or has just removed the folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    # Between making a folder and locking it another process may have taken it for a leftover.
    if lock(handle) and folder.exists():
        return handle
    os.close(handle)
    return None


def _let_go() -> None:
    """A forked process owns none of these folders: its copies of the handles would keep the locks alive."""
    for handle in _held.values():
        os.close(handle)
    _held.clear()


def _remove(folder: Path | str) -> None:
    """Remove a folder of ours: a simulation has many, and `shutil.rmtree` takes ten times as long."""
    with os.scandir(folder) as entries:
        for entry in entries:
            _remove(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)  # noqa: PTH108
    os.rmdir(folder)  # noqa: PTH106 - a path object for each takes as long as the kernel does


os.register_at_fork(after_in_child=_let_go)
