"""The versions of the model that this device was given, each whole, one of them the present one.

::

    FOLDER/current -> versions/000012     what programs open: FOLDER/current/model.onnx, model.json
    FOLDER/versions/000012/               never changed once it is there
    FOLDER/held.json                      no further version is taken, since somebody went back
    FOLDER/told.json                      whom the device has told of the present version, and what came of it

A version is written beside the others, waits for the disk, and only then becomes the present one by one rename. A kill,
a power cut or a full disk leaves the former one, with its notes.
"""

import contextlib
import datetime as dt
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from federation.documents import read_json
from federation.errors import ConfigError, StorageError, TaskError
from federation.model_notes import ModelNotes
from federation.runtime.failpoint import failpoint
from federation.storage.folder import TEMPORARY, lock, point_link, sync_folder, write_file
from federation.storage.remedies import remedy_for

__all__ = ["NOTE", "PARAMETERS", "Figure", "Versions", "Written", "read_note"]

CURRENT, VERSIONS, NOTE = "current", "versions", "model.json"

BACK = "edge-node model rollback --no-hold takes the version before"
"""What to do about a damaged one."""
PARAMETERS = "parameters.safetensors"
"""What the task needs to look at a version again: its parameters, and what the node kept for the task then."""

FORMAT = 1
NOTE_BYTES_MAX = 1 << 20
LOCK_TRIES, LOCK_WAIT_S = 100, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """How good a version was on this device's own data when it was taken.

    Attributes:
        name: Which of the task's numbers.
        value: What it was.
        present: What that of the version was that it replaced, on the same data; None: there was none.
        examples: How many examples it is over.
    """

    name: str
    value: float
    present: float | None = None
    examples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One version on this device: what ``model.json`` says.

    Attributes:
        notes: What the model is.
        run: The run that made it.
        digest: Of its shared parameters, in hexadecimal.
        file: Name of the model's file beside the note.
        figure: How good it was here; None where this device has nothing to see that by.
        signature: Inputs and outputs of a program: name, type and shape of each; -1 is any number.
        sha256: Of the file.
        size_bytes: Of the file.
        written_at: When, ISO 8601 in UTC.
        number: Its place on this device, from 1; 0 is not written yet.
    """

    notes: ModelNotes
    run: str
    digest: str
    file: str
    figure: Figure | None = None
    signature: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    size_bytes: int = 0
    written_at: str = ""
    number: int = 0

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        figure = self.figure
        return {
            "format": FORMAT,
            **self.notes.to_dict(),
            "number": self.number,
            "run": self.run,
            "digest": self.digest,
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "written_at": self.written_at,
            "signature": dict(self.signature),
            "figure": None if figure is None else {name: getattr(figure, name) for name in Figure.__slots__},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` made.

        Raises:
            TaskError: It is something else, or of a newer format.
        """
        try:
            if values["format"] != FORMAT:
                raise TaskError(f"the note has format {values['format']}, and this release knows {FORMAT}")
            figure = values["figure"]
            return cls(
                notes=ModelNotes.from_dict(values),
                run=str(values["run"]),
                digest=str(values["digest"]),
                file=Path(str(values["file"])).name,
                figure=None if figure is None else Figure(**{name: figure[name] for name in Figure.__slots__}),
                signature=dict(values["signature"]),
                sha256=str(values["sha256"]),
                size_bytes=int(values["bytes"]),
                written_at=str(values["written_at"]),
                number=int(values["number"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TaskError(f"a model's note cannot be read: {type(error).__name__}: {error}") from error


def read_note(path: Path) -> Written:
    """Read a ``model.json``.

    Raises:
        StorageError: It is not there, or damaged.
    """
    try:
        if path.stat().st_size > NOTE_BYTES_MAX:
            raise StorageError(f"{path} is larger than {NOTE_BYTES_MAX} bytes")
        return Written.from_dict(read_json(path.read_text("utf-8")))
    except (OSError, ValueError, TaskError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


class Versions:
    """The folder of a device's model; another process may look at it, and go back, at any time.

    Args:
        folder: Where.
        keep: How many versions stay, the present one among them.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self._keep = folder, keep

    # --- looking ----------------------------------------------------------------------------------------------------

    def present(self) -> Written | None:
        """The present version; None where there is none.

        Raises:
            StorageError: Its note is damaged, or missing.
        """
        path = self.folder / CURRENT / NOTE
        if not self.here and not path.exists():  # a copy of the folder may have no link
            return None
        try:
            return read_note(path)
        except StorageError as error:
            raise StorageError(f"{error}; {BACK}") from error

    @property
    def here(self) -> int:
        """The number of the present version, whatever its state is; 0 where there is none."""
        try:
            name = (self.folder / CURRENT).readlink().name
        except OSError:
            return 0
        return int(name) if name.isdigit() else 0

    def whole(self) -> Written | None:
        """The present version, whose file is what was written; None where there is none.

        Raises:
            StorageError: It is damaged: what a damaged model answers would look like an answer.
        """
        present = self.present()
        if present is not None and not self.is_intact(present):
            raise StorageError(f"{self.path_of(present)} is not what was written (damaged, or replaced); {BACK}")
        return present

    def all(self) -> list[Written]:
        """All that are whole, oldest first; what is damaged is left out."""
        found = []
        for note in sorted((self.folder / VERSIONS).glob(f"*/{NOTE}")):
            with contextlib.suppress(StorageError):
                found.append(read_note(note))
        return found

    def path_of(self, written: Written, name: str | None = None) -> Path:
        """Where a file of a version is; None is the model itself."""
        return self.folder / VERSIONS / _name(written.number) / (name or written.file)

    @property
    def file(self) -> Path | None:
        """The present model's path, which stays the same as long as its form does; None where there is none."""
        present = self.present()
        return None if present is None else self.folder / CURRENT / present.file

    def is_intact(self, written: Written) -> bool:
        """Whether the file is what was written."""
        try:
            return hashlib.sha256(self.path_of(written).read_bytes()).hexdigest() == written.sha256
        except OSError:
            return False

    @property
    def held(self) -> str | None:
        """Since when no further version is taken; None where they are."""
        path = self.folder / "held.json"
        try:
            return str(read_json(path.read_text("utf-8"))["since"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"  # somebody wanted it held: a damaged file must not undo that

    # --- changing ---------------------------------------------------------------------------------------------------

    def write(self, written: Written, files: Mapping[str, bytes]) -> Written | None:
        """Make a version the present one.

        Args:
            written: What it is; number, hash and time are filled in.
            files: Content by name; the model's own is among them.

        Returns:
            What was written; None where somebody has gone back meanwhile and holds that.

        Raises:
            StorageError: The disk is full or broken: the present version stays.
        """
        with self._changing():
            if self.held is not None:
                return None
            self._sweep()
            number = 1 + max((int(path.name) for path in self._folders()), default=0)
            body = files[written.file]
            whole = {name: getattr(written, name) for name in Written.__slots__} | {
                "number": number,
                "sha256": hashlib.sha256(body).hexdigest(),
                "size_bytes": len(body),
                "written_at": _now(),
            }
            written = Written(**whole)
            self._put(written, files)
            self._prune()
            return written

    def go_back(self, version: int | None = None, *, hold: bool = True) -> Written:
        """Make an earlier version the present one.

        Args:
            version: Its model version; None is the one before the present.
            hold: Take no further version until `resume`.

        Raises:
            ConfigError: There is no such version.
            StorageError: It is damaged, or the disk is.
        """
        with self._changing():
            known, here = self.all(), self.here
            wanted = [one for one in known if one.number < here] if version is None else known
            wanted = [one for one in wanted if version is None or one.notes.version == version]
            if not wanted:
                what = "before the present one" if version is None else f"{version} here"
                there = ", ".join(str(one.notes.version) for one in known) or "none"
                raise ConfigError("--to", f"there is no version {what}; kept are: {there}", source="command line")
            chosen = wanted[-1]
            if not self.is_intact(chosen):
                raise StorageError(f"{self.path_of(chosen)} is damaged: choose another version with --to")
            if hold:
                note = {"since": _now(), "version": chosen.notes.version}
                write_file(self.folder / "held.json", json.dumps(note).encode())
            point_link(self.folder / CURRENT, f"{VERSIONS}/{_name(chosen.number)}")
            return chosen

    def resume(self) -> bool:
        """Take further versions again; says whether they were held."""
        with self._changing():
            was = self.held is not None
            (self.folder / "held.json").unlink(missing_ok=True)
            return was

    # --- inside -----------------------------------------------------------------------------------------------------

    def _put(self, written: Written, files: Mapping[str, bytes]) -> None:
        place = self.folder / VERSIONS / _name(written.number)
        place.mkdir(parents=True)
        try:
            for name, body in files.items():
                write_file(place / name, body)
                failpoint("model_writing")
            # Last: a folder without it is what a crash has left.
            write_file(place / NOTE, json.dumps(written.to_dict(), indent=2).encode() + b"\n")
            sync_folder(place.parent)
            failpoint("model_written")
            point_link(self.folder / CURRENT, f"{VERSIONS}/{place.name}")
        except OSError:
            if (self.folder / CURRENT).resolve() != place.resolve():
                shutil.rmtree(place, ignore_errors=True)
            raise
        failpoint("model_current")

    def _folders(self) -> list[Path]:
        return [path for path in (self.folder / VERSIONS).glob("*") if path.name.isdigit()]

    def _sweep(self) -> None:
        """Delete what a crash has left."""
        for path in self._folders():
            if not (path / NOTE).exists():
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)

    def _prune(self) -> None:
        present = (self.folder / CURRENT).resolve()
        for path in sorted(self._folders())[: -self._keep]:
            if path.resolve() != present:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time changes the folder; errors of the disk say what to do.

        Raises:
            StorageError: The disk is full or broken, or another process does not end.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                for _ in range(LOCK_TRIES):
                    if lock(handle):
                        break
                    time.sleep(LOCK_WAIT_S)
                else:
                    raise StorageError(f"{self.folder} is being changed by another process for too long")
                yield
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(f"the model's folder {self.folder}: {error}{remedy_for(error, self.folder)}") from error


def _name(number: int) -> str:
    return f"{number:06d}"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
