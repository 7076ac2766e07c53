"""One file beside the store, ``status.json``: what a coordinator tells the commands that only read.

It says what the coordinator waits for, what it has counted since its start, whom it has refused, and when it stops. It
only explains: a full disk is no reason to stop, and a folder without it is read as well as it can be. Releases before
this one wrote each part into a file of its own; these are read where there is no newer one.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.round import ENDINGS, WaitReason
from coordinator.storage.database import DATABASE
from coordinator.storage.files import NO_COORDINATOR, NO_RUN, STATUS
from coordinator.storage.parts import Leader
from federation.documents import read_json
from federation.errors import StorageError
from federation.runtime.clock import moved_s
from federation.runtime.obstacles import read_obstacles
from federation.storage.folder import lock_holder, lock_mark, open_file
from federation.storage.remedies import access_remedy
from federation.units import counted

__all__ = [
    "Failing",
    "StoppingRule",
    "Waiting",
    "helper_lines",
    "known_at",
    "known_s",
    "knows_nodes",
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
        since_s: For how long it has waited for this, in seconds; one that has ended waits no longer.
        said_s: How long ago it said so, in seconds.
        pid: The coordinator's process; None when none is running.
        known_s: How old all is that is told of nodes, in seconds; None while a coordinator with a broker tells it.
        starting: The process has said nothing yet: this is of the one before.
    """

    fields: Mapping[str, object]
    since_s: float
    said_s: float
    pid: str | None
    known_s: float | None = None
    starting: bool = False

    @property
    def over(self) -> bool:
        """Whether the run has ended: that stays so without a coordinator."""
        return self.fields.get("reason") in ENDINGS


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
    moved, pid = moved_s(_clock(folder)), lock_holder(folder)
    starting = pid is not None and content.get("of", lock_mark(folder)) != lock_mark(folder)
    if starting and leader is not None and leader.holder != f"{socket.gethostname()}:{pid}":
        raise StorageError(_ask_elsewhere(folder, leader))
    lives = pid is not None and not starting
    current = lives and fields.setdefault("connected", fields.get("reason") != WaitReason.BROKER)
    now = time.time() - moved
    known = None if current else max(0.0, now - float(content.get("known") or at))
    since_s = max(0.0, (now if lives else at) - since)
    return Waiting(fields=fields, since_s=since_s, said_s=max(0.0, now - at), pid=pid, known_s=known, starting=starting)


def known_at(folder: Path) -> float:
    """Until when a coordinator has known who is there, in seconds since 1970; 0 where no file says it."""
    content = _part(folder, "waiting")
    try:
        return float(content.get("known", content["at"])) + moved_s(_clock(folder))
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0.0


def known_s(folder: Path) -> float | None:
    """`Waiting.known_s` of a state folder; None where it does not say."""
    try:
        return read_waiting(folder).known_s
    except StorageError:
        return None


def knows_nodes(folder: Path) -> bool:
    """Whether a coordinator runs that has its broker: otherwise nobody knows who is there."""
    try:
        return read_waiting(folder).known_s is None
    except StorageError:
        return lock_holder(folder) is not None


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
        are = "are" if knows_nodes(folder) else "were"
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
