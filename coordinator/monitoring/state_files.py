"""One file beside the store, ``status.json``: what a coordinator tells the commands that only read.

It says what the coordinator waits for, what it has counted since its start, whom it has refused, and when it stops. It
only explains: a full disk is no reason to stop, and a folder without it is read as well as it can be. Releases before
this one wrote each part into a file of its own; these are read where there is no newer one.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.round import WaitReason
from coordinator.storage.database import DATABASE
from coordinator.storage.files import NO_COORDINATOR, NO_RUN, STATUS
from coordinator.storage.parts import Leader
from federation.documents import read_json
from federation.errors import StorageError
from federation.runtime.clock import SteadyClock, moved_s, stamp
from federation.runtime.obstacles import read_obstacles
from federation.storage.folder import lock_holder, open_file, write_file
from federation.storage.remedies import access_remedy
from federation.units import counted

__all__ = [
    "Failing",
    "StatusFile",
    "StoppingRule",
    "Waiting",
    "helper_lines",
    "known_s",
    "read_behind",
    "read_claims",
    "read_counters",
    "read_enrolled",
    "read_failing",
    "read_helper_trouble",
    "read_helpers",
    "read_incidents",
    "read_sealed",
    "read_stopping",
    "read_waiting",
]

STATUS_BYTES_MAX = 16 << 20

FORMER: Mapping[str, str] = {
    "waiting": "waiting.json",
    "counters": "counters.json",
    "incidents": "incidents.json",
    "stopping": "stopping.json",
}
"""Each part's own file in the releases before, with the same content; the counts were one level deeper."""

PAUSE_S = 0.5
"""The file is written this often at most, in seconds."""

AGAIN_S = 5.0
"""The same where it could not be written, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """When a run ends: with so many versions (0 is never), or early."""

    settings: StoppingSettings
    versions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The last thing that a coordinator said about its waiting; the wall clock, which tells the ages, is for people.

    Attributes:
        fields: Reason, nodes and counts.
        since_s: For how long it has waited for this, in seconds.
        said_s: How long ago it said so, in seconds.
        pid: The coordinator's process; None when none is running.
    """

    fields: Mapping[str, object]
    since_s: float
    said_s: float
    pid: str | None

    @property
    def known_s(self) -> float | None:
        """How old all is that a coordinator has said of its run, in seconds; None while one runs."""
        return self.said_s if self.pid is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """Nodes that were there when a coordinator wrote last, and whose work came to nothing.

    Attributes:
        reasons: Why, by node; not all where there are many.
        count: How many there are.
        nobody_trains: They were all that were there, and nothing was under way.
    """

    reasons: Mapping[str, str]
    count: int
    nobody_trains: bool


class StatusFile:
    """The only writer.

    Args:
        folder: The state folder.
        snapshot: Where the machine stands.
        incidents: What was refused so far, by kind, by sender.
        stopping: When this run ends.
    """

    def __init__(
        self,
        folder: Path,
        snapshot: Callable[[], Mapping[str, Any]],
        incidents: Callable[[], Mapping[str, Mapping[str, int]]],
        stopping: StoppingRule,
    ) -> None:
        self._folder, self._snapshot, self._incidents = folder, snapshot, incidents
        self._stopping = {"versions": stopping.versions, "stopping": asdict(stopping.settings)}
        self._told: Mapping[str, Any] = {}
        self._clock = SteadyClock()
        self._since = self._clock.now()
        self._next_s = 0.0
        self._pending = self._failed = False

    def look(self, now: float) -> None:
        """Write what has changed, or remember to; ``now`` is in monotonic seconds."""
        self._pending = now < self._next_s
        if not self._pending:
            self.write()
            self._pending, self._next_s = self._failed, now + (AGAIN_S if self._failed else PAUSE_S)

    def due(self) -> float | None:
        """When to look again, in monotonic seconds; None when nothing happened since the last look that told it."""
        return self._next_s if self._pending else None

    def version(self) -> int:
        """The newest version."""
        return int(self._snapshot()["version"])

    def write(self) -> None:
        """Write at once, where something has changed, or could not be written before."""
        snapshot, before = self._snapshot(), self._told
        fields = _fields(snapshot)
        told = {
            "fields": fields,
            "counters": dict(snapshot["counters"]),
            "incidents": self._incidents(),
            "enrolled": snapshot.get("enrolled", ""),
            "sealed": bool(snapshot.get("sealed")),
            "helpers": {name: bool(row["online"]) for name, row in snapshot.get("helpers", {}).items()},
            "helper_trouble": _trouble(snapshot.get("helpers", {})),
        }
        if told == before and not self._failed:
            return
        if not before or any(fields[key] != before["fields"][key] for key in ("reason", "version")):
            self._since = self._clock.now()
        self._told = told
        content = {
            "waiting": {"since": self._since + self._clock.moved_s(), "at": time.time(), "fields": fields},
            "clock": stamp(),
            "counters": told["counters"],
            "incidents": told["incidents"],
            "stopping": self._stopping,
            "enrolled": told["enrolled"],
            "sealed": told["sealed"],
            "helpers": told["helpers"],
            "helper_trouble": told["helper_trouble"],
        }
        self._failed = not _written(self._folder / STATUS, json.dumps(content).encode())
        if not self._failed and not before:
            # Nobody writes them any more: left behind, they would only mislead.
            with contextlib.suppress(OSError):
                for name in FORMER.values():
                    (self._folder / name).unlink(missing_ok=True)


def _written(path: Path, body: bytes) -> bool:
    """Whether the file says this now: replaced, or where the disk is full written over.

    A full disk is what people ask about, and the file's own blocks are on it. Blanks at the end mean nothing in JSON:
    so no reader finds the end of what stood there before.
    """
    with contextlib.suppress(OSError):
        write_file(path, body, durable=False)
        return True
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
        there = os.fstat(file.fileno())
        return len(body) <= there.st_blocks * 512 and file.write(body.ljust(there.st_size)) >= len(body)
    return False


def _trouble(helpers: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, object]]:
    """The helpers of whom people should know more than whether they are there."""
    rows = {
        name: {"refuses": bool(row["refuses"]), "doubted": int(row["doubted"])}
        for name, row in helpers.items()
        if "refuses" in row
    }
    return {name: row for name, row in rows.items() if any(row.values())}


def _fields(snapshot: Mapping[str, Any]) -> Mapping[str, object]:
    waiting = {key: value for key, value in snapshot["waiting_for"].items() if key != "since"}
    heard = {key: snapshot[key] for key in ("behind", "claims") if snapshot.get(key)}
    return {key: snapshot[key] for key in ("version", "live", "buffered", "online")} | waiting | heard


# --- for the commands that only read --------------------------------------------------------------------------------


def read_waiting(folder: Path, leader: Leader | None = None) -> Waiting:
    """What the coordinator of this state folder waits for.

    Args:
        folder: The state folder.
        leader: Who leads the run, where several coordinators share its database: that one says it, in its own folder.

    Raises:
        StorageError: No coordinator has run there, or the file cannot be read; it says whom to ask where that is known.
    """
    content = _part(folder, "waiting")
    try:
        fields, at = dict(content["fields"]), float(content["at"])
        since = float(content.get("since", at))
    except (ValueError, KeyError, TypeError) as error:
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            raise StorageError(f"{folder} cannot be read{access_remedy(folder)}") from error
        if leader is not None:
            raise StorageError(_ask_elsewhere(folder, leader)) from error
        if (folder / DATABASE).exists():
            raise StorageError(NO_COORDINATOR) from error
        raise StorageError(f"{folder} does not say; {NO_RUN}") from error
    if obstacles := read_obstacles(folder):
        fields["trouble"] = dict(obstacles)
    if fields.get("reason") == WaitReason.FINISHED and (rule := read_stopping(folder)) and not rule.versions:
        fields["follows"] = True  # a site's versions come from above: none of its settings ends its run
    now = time.time() - moved_s(_clock(folder))
    return Waiting(fields=fields, since_s=max(0.0, now - since), said_s=max(0.0, now - at), pid=lock_holder(folder))


def known_s(folder: Path) -> float | None:
    """`Waiting.known_s` of a state folder; None where it does not say."""
    try:
        return read_waiting(folder).known_s
    except StorageError:
        return None


def _ask_elsewhere(folder: Path, leader: Leader) -> str:
    """A standby decides nothing, so its folder has no answer."""
    who = f"{leader.holder} (machine:process, term {leader.term})"
    if leader.overdue:
        return f"nobody leads this run now: {who} led it last, and its lease has run out; the next leader will say it"
    return (
        f"{folder} is of a standby, which waits for the lead alone; what the run waits for is said by its leader,"
        f" {who}: ask `coordinator why` on that machine, with the state folder of its configuration"
    )


def read_behind(folder: Path) -> Mapping[str, Any]:
    """What the last coordinator has heard of a later one of its run; nothing where it has not, or did not say."""
    return _heard(folder, "behind")


def read_claims(folder: Path) -> Mapping[str, Any]:
    """What nodes have claimed of a later one without a proof; nothing where none does."""
    return _heard(folder, "claims")


def _heard(folder: Path, kind: str) -> Mapping[str, Any]:
    content = _part(folder, "waiting")
    try:
        return dict(content["fields"][kind])
    except (ValueError, KeyError, TypeError):
        return {}


def read_failing(folder: Path) -> Failing:
    """Whose work came to nothing; nobody's where that cannot be read, as of an older release."""
    try:
        fields = _part(folder, "waiting")["fields"]
        reasons = {str(node): str(reason) for node, reason in fields["failing"].items()}
        return Failing(reasons=reasons, count=int(fields["failed"]), nobody_trains=bool(fields["nobody_trains"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Failing(reasons={}, count=0, nobody_trains=False)


def read_counters(folder: Path) -> Mapping[str, int]:
    """What the last coordinator has counted since its start; nothing where that cannot be read."""
    content = _part(folder, "counters")
    try:
        return {str(name): int(count) for name, count in content.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def read_incidents(folder: Path) -> Mapping[str, Mapping[str, int]]:
    """What was refused by kind, by sender, over all starts; nothing where that cannot be read."""
    content = _part(folder, "incidents")
    try:
        return {
            str(sender): {str(kind): int(count) for kind, count in kinds.items()} for sender, kinds in content.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def read_stopping(folder: Path) -> StoppingRule | None:
    """When the run of the last coordinator ends; None where that cannot be read."""
    content = _part(folder, "stopping")
    try:
        given = content["stopping"]
        goal = None if given["goal"] is None else Goal(given["goal"])
        settings = StoppingSettings(**{**given, "source": Source(given["source"]), "goal": goal})
        return StoppingRule(settings=settings, versions=int(content["versions"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_enrolled(folder: Path) -> str:
    """The digest of the list of enrolled nodes that the last coordinator has acted on; empty: of none."""
    content = _json(folder / STATUS)
    return str(content.get("enrolled", "")) if isinstance(content, dict) else ""


def read_sealed(folder: Path) -> bool | None:
    """Whether the broker can read nothing of updates and model; None: no coordinator of this release has said it."""
    content = _json(folder / STATUS)
    said = content.get("sealed") if isinstance(content, dict) else None
    return said if isinstance(said, bool) else None


def read_helpers(folder: Path) -> Mapping[str, bool]:
    """The helpers of masked sums, and whether each is online, as the last coordinator has said; empty: no masks."""
    content = _json(folder / STATUS)
    said = content.get("helpers") if isinstance(content, dict) else None
    return {str(name): bool(online) for name, online in said.items()} if isinstance(said, dict) else {}


def read_helper_trouble(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """Helpers that refuse what others do (``refuses``), or claim of so many nodes what cannot be (``doubted``).

    As the last coordinator has said; empty where nothing is wrong, and of an earlier release.
    """
    content = _json(folder / STATUS)
    said = content.get("helper_trouble") if isinstance(content, dict) else None
    return {str(name): row for name, row in said.items() if isinstance(row, dict)} if isinstance(said, dict) else {}


def helper_lines(folder: Path) -> Iterator[str]:
    """What is wrong with helpers of masked sums, in words; nothing where all is well."""
    away = [name for name, online in read_helpers(folder).items() if not online]
    if away:
        are = "were" if lock_holder(folder) is None else "are"
        yield f"helpers that {are} not online: {', '.join(away)}"
    for name, row in read_helper_trouble(folder).items():
        if row.get("refuses"):
            yield f"helper {name} refuses seeds or sums, and is left out where the others suffice: ask its people"
        if doubted := int(row.get("doubted") or 0):
            nodes = counted(doubted, "node")
            yield f"helper {name} claims that {nodes} spent more than can be, and is not believed: ask its people"


def _clock(folder: Path) -> Any:
    content = _json(folder / STATUS)
    return content.get("clock") if isinstance(content, dict) else None


def _part(folder: Path, name: str) -> Any:
    """One part, as JSON has it; None where nothing can be read."""
    content = _json(folder / STATUS)
    if isinstance(content, dict) and name in content:
        return content[name]
    former = _json(folder / FORMER[name])
    return former.get("counters") if name == "counters" and isinstance(former, dict) else former


def _json(path: Path) -> Any:
    try:
        with open_file(path) as file:
            return read_json(file.read(STATUS_BYTES_MAX))
    except (OSError, ValueError):
        return None
