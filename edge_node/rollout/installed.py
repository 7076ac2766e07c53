"""Which release of the task runs on this device, which one ran before, and what must survive of that."""

import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import StorageError
from federation.identity.task_release import TaskRelease
from federation.protocol.limits import REASON_BYTES_MAX, fit_text
from federation.protocol.task_messages import TaskState
from federation.rollout.archive import unpack
from federation.storage.folder import open_file, write_file

__all__ = ["BY_HAND", "Installed", "Kept", "Rollouts", "task_of"]

BY_HAND: Final = 0
"""The number of the task that the device's owner has installed."""

STARTS_MAX: Final = 3
"""A release on trial that has ended the process so often before its first training is given up."""

STOPPED_MAX: Final = 3
"""A release whose first trainings are stopped so often is given up: they take longer than anybody waits."""

FAILED_MAX: Final = 32
"""Releases whose failure is remembered."""

_FILE: Final = "rollout.json"
_FOLDER: Final = "tasks"
_BYTES_MAX: Final = 65_536


class Kept(BaseModel):
    """One release on the disk."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    folder: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}-[0-9a-f]{16}\z")]
    task: Annotated[str, Field(max_length=256)]


class Ended(BaseModel):
    """Why a release does not run here."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    state: Literal["failed", "refused"]
    reason: str


class Rollouts(BaseModel):
    """What is kept: a document of its own in the state folder, replaced as a whole.

    Attributes:
        heard: Number and step of the newest statement; an older one is a replay.
        running: Which release runs; `BY_HAND` is the owner's own task.
        previous: Which one ran before it.
        starts: Starts since the trial of the running one began; None: it has trained.
        stopped: Trainings of it that were stopped meanwhile.
        releases: What is on the disk, by number.
        ended: Releases that have failed or were refused, by number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedmq-rollout"] = "fedmq-rollout"
    version: Literal[1] = 1
    heard: tuple[int, int] = (0, 0)
    running: int = BY_HAND
    previous: int = BY_HAND
    starts: int | None = None
    stopped: int = 0
    releases: dict[int, Kept] = Field(default_factory=dict)
    ended: dict[int, Ended] = Field(default_factory=dict)


class Installed:
    """The releases in a state folder; whoever has the folder's lock may change them.

    Args:
        folder: The node's state folder.

    Raises:
        StorageError: What is kept is damaged: without it an older release could be taken for a newer one.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._folder = folder / _FILE, folder / _FOLDER
        self.state = self._read()

    @property
    def on_trial(self) -> bool:
        """Whether the running release has yet to train."""
        return self.state.starts is not None

    def place(self, number: int) -> Path:
        """The folder of a release that is on the disk."""
        return self._folder / self.state.releases[number].folder

    def told(self, reason: str) -> str:
        """A reason without the place of the device's folders, which says nothing elsewhere and uses up the limit."""
        return re.sub(rf"{re.escape(str(self._folder))}/[^/\s]+/", "", reason)

    def name(self, own: str) -> str:
        """What the device trains: the running release, told what the owner's ``own`` task is told."""
        kept = self.state.releases.get(self.state.running)
        if kept is None:
            return own
        _, question, arguments = own.partition("?")
        return f"{task_of(self._folder / kept.folder, kept.task)}{question}{arguments}"

    def hear(self, order: tuple[int, int]) -> bool:
        """A statement was heard; whether it is not older than the newest one."""
        if order > self.state.heard:
            self._change(heard=order)
        return order >= self.state.heard

    def began(self) -> None:
        """The process has started: one that ends again and again gives its release up."""
        if self.state.starts is None:
            return
        if self.state.starts >= STARTS_MAX:
            self.go_back(f"it ended the process {STARTS_MAX} times before its first training")
        else:
            self._change(starts=self.state.starts + 1)

    def place_archive(self, release: TaskRelease, body: bytes) -> Path:
        """Unpack an archive to where it would run from; a half of one counts for nothing until `begin`.

        Raises:
            ConfigError: The archive breaks a rule.
            StorageError: The disk.
        """
        place = self._folder / release.name
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            unpack(body, place)
        except OSError as error:
            raise StorageError(f"{place} cannot be written: {error.strerror}") from error
        return place

    def begin(self, release: TaskRelease) -> None:
        """From the next start on this release runs, on trial."""
        kept = Kept(folder=release.name, task=release.task)
        self._change(
            running=release.number,
            # One that is on trial itself is nothing to go back to.
            previous=self.state.previous if self.on_trial else self.state.running,
            starts=0,
            stopped=0,
            releases={**self.state.releases, release.number: kept},
        )

    def trained(self) -> bool:
        """A training has ended well; whether that has ended a trial."""
        if self.state.starts is None:
            return False
        self._change(starts=None, stopped=0)
        self._tidy()
        return True

    def training_stopped(self) -> bool:
        """A training was stopped; whether the trial is lost by that."""
        if self.state.starts is None:
            return False
        self._change(stopped=self.state.stopped + 1)
        return self.state.stopped >= STOPPED_MAX

    def go_back(self, reason: str | None) -> None:
        """The release before runs from the next start on; ``reason``: why this one has failed, None: it has not."""
        if reason is not None:
            self.end(self.state.running, TaskState.FAILED, reason)
        self._change(running=self.state.previous, previous=BY_HAND, starts=None, stopped=0)

    def end(self, number: int, state: TaskState, reason: str) -> None:
        """A release is not tried again."""
        why = fit_text(self.told(reason), REASON_BYTES_MAX)
        kept = {
            **self.state.ended,
            number: Ended(state="failed" if state is TaskState.FAILED else "refused", reason=why),
        }
        newest = sorted(kept)[-FAILED_MAX:]
        self._change(ended={one: kept[one] for one in newest})

    def _tidy(self) -> None:
        """Remove what neither runs nor is gone back to."""
        wanted = {self.state.running, self.state.previous}
        kept = {number: one for number, one in self.state.releases.items() if number in wanted}
        self._change(releases=kept)
        names = {one.folder for one in kept.values()}
        with suppress(OSError):
            for entry in self._folder.iterdir():
                if entry.name not in names:
                    shutil.rmtree(entry, ignore_errors=True)

    def _change(self, **fields: object) -> None:
        changed = self.state.model_copy(update=fields)
        try:
            write_file(self._file, changed.model_dump_json(indent=1).encode())
        except OSError as error:
            raise StorageError(f"{self._file} cannot be written: {error.strerror}") from error
        self.state = changed

    def _read(self) -> Rollouts:
        try:
            with open_file(self._file) as file:
                body = file.read(_BYTES_MAX)
            return Rollouts.model_validate_json(body)
        except FileNotFoundError:
            return Rollouts()
        except (OSError, ValidationError) as error:
            said = f"{self._file} cannot be read: bring a copy back, or set task.updates to manual"
            raise StorageError(said) from error


def task_of(place: Path, task: str) -> str:
    """The name by which a release's task is loaded; its folder can be imported from, before what is installed."""
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    return str(place / task) if task.partition(":")[0].endswith(".py") else task
