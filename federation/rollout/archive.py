"""The archive of a release: a zip file of a folder, of one file, or a wheel; read so that it cannot harm the disk.

A reader MUST refuse: a name with another character than ``A-Z a-z 0-9 _ . + -`` in a level, an empty level, one that
begins with a dot, more than 8 levels; links and devices; encryption; other methods than stored and deflated; two
entries of one name, upper and lower case apart, or a file that is a folder as well; more than 1,000 entries; more
than 32 MiB unpacked, or an entry of another size than it says.
"""

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from federation.errors import ConfigError
from federation.identity.task_release import ARCHIVE_BYTES_MAX
from federation.storage.folder import write_file

__all__ = ["check_archive", "pack", "unpack"]

ENTRIES_MAX: Final = 1_000
UNPACKED_BYTES_MAX: Final = 32 << 20
LEVELS_MAX: Final = 8

_SOURCE: Final = "task archive"
_LEVEL = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,127}", re.ASCII)
_LEFT_OUT: Final = frozenset({"__pycache__"})
_BEGIN: Final = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED: Final = 0x1
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)


def pack(path: Path) -> bytes:
    """The archive of a folder, of one Python file, or a wheel as it is; the same files always give the same bytes.

    What begins with a dot and ``__pycache__`` stays out.

    Raises:
        ConfigError: It cannot be read, or would be refused by whoever unpacks it.
    """
    try:
        body = _wheel(path) if path.suffix == ".whl" else _zipped(path)
    except OSError as error:
        raise ConfigError("BUNDLE", f"{path} cannot be read: {error.strerror}", source="command line") from error
    check_archive(body)
    return body


def check_archive(body: bytes) -> frozenset[str]:
    """The names of an archive's files.

    Raises:
        ConfigError: It breaks a rule of this module.
    """
    with _opened(body) as archive:
        return frozenset(entry.filename for entry in _entries(archive))


def unpack(body: bytes, into: Path) -> None:
    """Write an archive's files below a new folder.

    Raises:
        ConfigError: It breaks a rule of this module; nothing is left outside of ``into``.
        OSError: The disk.
    """
    with _opened(body) as archive:
        for entry in _entries(archive):
            content = _content(archive, entry)
            place = into / entry.filename
            place.parent.mkdir(parents=True, exist_ok=True)
            write_file(place, content)


def _opened(body: bytes) -> zipfile.ZipFile:
    if len(body) > ARCHIVE_BYTES_MAX:
        raise _refused(f"has {len(body):,} bytes, at most {ARCHIVE_BYTES_MAX:,} travel")
    try:
        return zipfile.ZipFile(io.BytesIO(body))
    except _DAMAGED as error:
        raise _refused(f"is no zip file: {error}") from error


def _entries(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The files, after all names and sizes were looked at."""
    listed = archive.infolist()
    if len(listed) > ENTRIES_MAX:
        raise _refused(f"has {len(listed):,} entries, at most {ENTRIES_MAX:,} are allowed")
    for entry in listed:
        _check_entry(entry)
    files = [entry for entry in listed if not entry.is_dir()]
    if sum(entry.file_size for entry in files) > UNPACKED_BYTES_MAX:
        raise _refused(f"is larger than {UNPACKED_BYTES_MAX:,} bytes when it is unpacked")
    _check_names([entry.filename for entry in files])
    return iter(files)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    shown = ascii(entry.filename[:80])
    levels = entry.filename.removesuffix("/").split("/")
    # The name as it stands in the file: the library cuts one at a NUL.
    if entry.orig_filename != entry.filename or not all(_LEVEL.fullmatch(level) for level in levels):
        raise _refused(f"has an entry {shown}: names are letters, digits and _ . + -, and lead nowhere else")
    if len(levels) > LEVELS_MAX:
        raise _refused(f"has an entry {shown} in more than {LEVELS_MAX - 1} folders")
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _refused(f"has an entry {shown} that is neither file nor folder")
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
        raise _refused(f"has an entry {shown} that is encrypted, or compressed in another way than deflate")


def _check_names(names: list[str]) -> None:
    folded = [name.casefold() for name in names]
    folders = {
        "/".join(parts[:depth]) for name in folded for parts in [name.split("/")] for depth in range(1, len(parts))
    }
    if len({*folded}) != len(folded) or folders & {*folded}:
        raise _refused("has two entries of one name, or a file that is a folder as well")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(entry) as file:
            content = file.read(entry.file_size + 1)
    except _DAMAGED as error:
        raise _refused(f"{entry.filename} cannot be read: {error}") from error
    if len(content) != entry.file_size:
        raise _refused(f"{entry.filename} is of another size than it says")
    return content


def _wheel(path: Path) -> bytes:
    if not path.name.endswith("-any.whl"):
        raise ConfigError("BUNDLE", f"{path.name} has code for one kind of machine: build a wheel -none-any")
    return path.read_bytes()


def _zipped(path: Path) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, file in sorted(_files(path)):
            entry = zipfile.ZipInfo(name, _BEGIN)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    return written.getvalue()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield path.name, path
        return
    found = False
    for place, folders, files in os.walk(path):
        folder = Path(place)
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith(".")]
        for name in files:
            if name.startswith(".") or name.endswith(".pyc"):
                continue
            found = True
            yield (folder / name).relative_to(path).as_posix(), folder / name
    if not found:
        raise ConfigError("BUNDLE", f"{path} has no files", source="command line")


def _refused(problem: str) -> ConfigError:
    return ConfigError(_SOURCE, problem, source="release")
