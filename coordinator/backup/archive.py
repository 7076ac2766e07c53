"""The file of a backup: a plain tar whose last member lists every other one with its size and digest.

Members, format 1: `coordinator.sqlite3`; `blobs/NAME` for each large file that a row of it names; and `manifest.json`,
a JSON object with `format` (1), `about` (what the run was, for people), `files` (objects with `name`, `bytes` and
`digest`: BLAKE2b with 16 bytes, in hexadecimal), and `digest`: the same of this object's canonical JSON without it (its
keys sorted, no spaces, ASCII). A reader MUST refuse a file that ends before its manifest, a manifest of another format
or with another digest, and any member that is not listed exactly so; it MUST do so before it uses a member.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from federation.documents import read_json
from federation.errors import DamagedStore
from federation.storage.folder import open_file, replacing

__all__ = ["MANIFEST", "Archive", "Entry", "Progress", "write_archive"]

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 256 << 20
PIECE_BYTES = 1 << 20

Progress = Callable[[int], None]
"""Hears how many bytes more have been read."""

_NAME = re.compile(r"coordinator\.sqlite3|blobs/[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_MALFORMED = (tarfile.TarError, ValueError, KeyError, TypeError, EOFError, OverflowError)
"""What the library and we raise on bytes that are no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a run.

    Attributes:
        name: Its path below the state folder.
        bytes: Its size.
        digest: BLAKE2b with 16 bytes of its content, in hexadecimal.
    """

    name: str
    bytes: int
    digest: str


class _Summed:
    """A file that is read once, from its begin; its digest is known at the end."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file, self._progress, self._sum = file, progress, blake2b(digest_size=16)

    def read(self, size: int) -> bytes:
        """The next bytes."""
        piece = self._file.read(size)
        self._sum.update(piece)
        self._progress(len(piece))
        return piece

    def pieces(self) -> Iterator[bytes]:
        """All bytes."""
        while piece := self.read(PIECE_BYTES):
            yield piece

    @property
    def digest(self) -> str:
        """Of what was read, in hexadecimal."""
        return self._sum.hexdigest()


def write_archive(
    out: IO[bytes], files: Mapping[str, IO[bytes]], about: Mapping[str, object], progress: Progress
) -> dict[str, Entry]:
    """Write a backup; returns what is in it, by name.

    Args:
        out: Where.
        files: Open files, by their paths below the state folder.
        about: What the run was.
        progress: Hears what was read.

    Raises:
        OSError: The disk is full or broken.
    """
    entries = dict[str, Entry]()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, file in files.items():
            info, source = _info(name, file.seek(0, io.SEEK_END)), _Summed(file, progress)
            file.seek(0)
            tar.addfile(info, source)  # type: ignore[arg-type]  # it only reads
            entries[name] = Entry(name=name, bytes=info.size, digest=source.digest)
        content = {"format": FORMAT, "about": dict(about), "files": [asdict(entry) for entry in entries.values()]}
        body = json.dumps(content | {"digest": _digest(content)}, indent=1).encode("ascii")
        tar.addfile(_info(MANIFEST, len(body)), io.BytesIO(body))
    return entries


class Archive:
    """A backup that was read to its end and is whole.

    Args:
        path: The file.
        progress: Hears what was read.

    Attributes:
        about: What the run was.
        entries: What is in it, by name.

    Raises:
        DamagedStore: It is no backup, or not a whole one.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._file = path, open_file(path)
        try:
            with self._told():
                self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 - closed with the archive
                self._places = dict[str, tarfile.TarInfo]()
                content = self._read(progress)
                self.about: Mapping[str, Any] = dict(content["about"])
                self.entries = {entry["name"]: Entry(**entry) for entry in content["files"]}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    @property
    def total_bytes(self) -> int:
        """Size of all files in it."""
        return sum(entry.bytes for entry in self.entries.values())

    def unpack(self, folder: Path, progress: Progress) -> None:
        """Write the files to a folder, whole and durable.

        Raises:
            DamagedStore: The file has changed since it was opened.
            OSError: The disk is full or broken.
        """
        for name, entry in self.entries.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = _Summed(self._member(self._places[name]), progress)
            with replacing(target, mode=0o600) as file:
                for piece in source.pieces():
                    file.write(piece)
                if source.digest != entry.digest:
                    raise DamagedStore(f"{self._path} has changed while it was read")

    def _read(self, progress: Progress) -> Mapping[str, Any]:
        """Read every member; returns the manifest, with which they agree."""
        found = dict[str, Entry]()
        for place in self._tar:
            if not place.isreg() or place.issparse() or place.name in found:
                raise ValueError(f"{place.name[:80]!r} is no file of a run")
            if place.name == MANIFEST:
                return self._manifest(place, found)
            if not _NAME.fullmatch(place.name):
                raise ValueError(f"{place.name[:80]!r} is no file of a run")
            source = _Summed(self._member(place), progress)
            size = sum(len(piece) for piece in source.pieces())
            found[place.name] = Entry(name=place.name, bytes=size, digest=source.digest)
            self._places[place.name] = place
        raise ValueError("it ends before its manifest: it was cut short")

    def _manifest(self, place: tarfile.TarInfo, found: Mapping[str, Entry]) -> Mapping[str, Any]:
        if place.size > MANIFEST_BYTES_MAX:
            raise ValueError(f"its manifest has more than {MANIFEST_BYTES_MAX} bytes")
        content = read_json(self._member(place).read())
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError("its format is not one that this release knows")
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise ValueError("its manifest is damaged")
        listed = {entry["name"]: Entry(**entry) for entry in content["files"]}
        wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
        if wrong:
            raise ValueError(f"{wrong[0]!r} is missing or damaged")
        return content

    def _member(self, place: tarfile.TarInfo) -> IO[bytes]:
        file = self._tar.extractfile(place)
        if file is None:
            raise ValueError(f"{place.name[:80]!r} is no file")
        return file

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except _MALFORMED as error:
            raise DamagedStore(f"{self._path} is no whole backup of a coordinator: {error}") from error


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _digest(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
    return blake2b(canonical, digest_size=16).hexdigest()
