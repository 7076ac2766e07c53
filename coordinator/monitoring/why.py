"""``coordinator why``: what the coordinator waits for, for whom and since when, told by a file beside its store."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.engine.round import WaitReason
from coordinator.storage.files import write_beside
from federation.errors import StorageError
from federation.storage.folder import lock_holder

__all__ = ["Waiting", "WaitingFile", "explain", "read_waiting"]

WAITING = "waiting.json"

PAUSE_S = 0.5
"""The file is written this often at most, in seconds."""

MEANINGS: Mapping[WaitReason, str] = {
    WaitReason.ASSIGNMENTS: "updates of nodes that are training",
    WaitReason.BROKER: "the broker, which cannot be reached",
    WaitReason.COMMITTING: "the new version to be saved",
    WaitReason.FINISHED: "nothing: the run is over, late updates still get their receipts",
    WaitReason.NO_CANDIDATES: (
        "nodes that are online, compatible and free (coordinator status has who declined, and why)"
    ),
    WaitReason.NODES_MIN: "more nodes to come online",
    WaitReason.SETTLING: "the nodes' retained states, just after a connect",
    WaitReason.STOPPED_EARLY: (
        "nothing: stopping.patience evaluations in a row brought no improvement, and that ended the run"
    ),
    WaitReason.STORAGE: (
        "the disk: nothing can be saved, so nothing is acknowledged; the log has its error and the remedy"
    ),
    WaitReason.TRANSFERS: "large updates that are arriving",
}
"""Every reason of the machine in a person's words; a reason of another release is shown as it is."""

OVER = frozenset({WaitReason.FINISHED, WaitReason.STOPPED_EARLY})


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


class WaitingFile:
    """Tells in a file what a coordinator waits for. It only explains: a full disk is no reason to stop.

    Args:
        folder: The state folder.
        snapshot: Where the machine stands.
    """

    def __init__(self, folder: Path, snapshot: Callable[[], Mapping[str, object]]) -> None:
        self._folder, self._snapshot = folder, snapshot
        self._written: Mapping[str, object] = {}
        self._since = time.time()
        self._next_s = 0.0
        self._pending = False

    def look(self, now: float) -> None:
        """Write what has changed, or remember to; ``now`` is in monotonic seconds."""
        self._pending = now < self._next_s
        if not self._pending:
            self._next_s = now + PAUSE_S
            self.write()

    def due(self) -> float | None:
        """When to look again, in monotonic seconds; None when nothing happened since the last look."""
        return self._next_s if self._pending else None

    def write(self) -> None:
        """Write at once, where something has changed."""
        fields = _fields(self._snapshot())
        if fields == self._written:
            return
        if any(fields[key] != self._written.get(key) for key in ("reason", "version")):
            self._since = time.time()
        self._written = fields
        write_beside(self._folder, WAITING, {"since": self._since, "at": time.time(), "fields": fields})


def _fields(snapshot: Mapping[str, Any]) -> Mapping[str, object]:
    waiting = {key: value for key, value in snapshot["waiting_for"].items() if key != "since"}
    return {key: snapshot[key] for key in ("version", "live", "buffered", "online")} | waiting


def read_waiting(folder: Path) -> Waiting:
    """What the coordinator of this state folder waits for.

    Raises:
        StorageError: No coordinator has run there, or the file cannot be read.
    """
    try:
        content = json.loads((folder / WAITING).read_text(encoding="utf-8"))
        fields, at = dict(content["fields"]), float(content["at"])
        since = float(content.get("since", at))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder} does not say; has a coordinator run with this store?") from error
    now = time.time()
    return Waiting(fields=fields, since_s=max(0.0, now - since), said_s=max(0.0, now - at), pid=lock_holder(folder))


def explain(waiting: Waiting) -> str:
    """One sentence or two for a person."""
    reason = str(waiting.fields.get("reason", "unknown"))
    what = f"{_meaning(reason)}{_whom(waiting.fields)}"
    counts = _counts(waiting.fields)
    if waiting.pid is not None:
        return f"waiting for {what}; since {_span(waiting.since_s)}{counts}"
    last = f"no coordinator is running; {_span(waiting.said_s)} ago the last one waited for {what}{counts}"
    return last if reason in OVER else f"{last}; start it again: it goes on where it was"


def _meaning(reason: str) -> str:
    return MEANINGS[WaitReason(reason)] if reason in set(WaitReason) else reason


def _whom(fields: Mapping[str, Any]) -> str:
    nodes, live = fields.get("nodes") or [], fields.get("live", 0)
    more = f" and {live - len(nodes)} more" if live > len(nodes) > 0 else ""
    return f": {', '.join(map(str, nodes))}{more}" if nodes else ""


def _counts(fields: Mapping[str, Any]) -> str:
    """What there is, each after a comma; a file of an older release has less."""
    reason, online = fields.get("reason"), fields.get("online", 0)
    said = []
    if reason == WaitReason.NODES_MIN and "nodes_min" in fields:
        said.append(f"{online} of {fields['nodes_min']} online (round.nodes_min)")
    else:
        said.append(f"{online} online")
    if fields.get("gone"):
        said.append(f"gone: {', '.join(map(str, fields['gone']))}")
    if "version" in fields:
        said.append(f"version {fields['version']}")
    if fields.get("buffer") and reason not in OVER:
        said.append(f"{fields.get('buffered', 0)} of {fields['buffer']} updates for the next one")
    return "".join(f", {one}" for one in said)


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
