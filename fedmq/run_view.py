"""What the page shows, read from a state folder while its coordinator writes: in short reads, and only what is new."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from coordinator.monitoring.report import participation_row, version_figures
from coordinator.monitoring.run_progress import read_run_progress, run_progress_row
from coordinator.monitoring.state_files import read_counters, read_incidents, read_waiting
from coordinator.monitoring.why import explain
from coordinator.storage.database import DATABASE
from coordinator.storage.files import STATUS
from coordinator.storage.participation import GrowingParticipation
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import StorageError
from federation.storage.folder import lock_holder

__all__ = ["RunView", "Snapshot", "encoded"]

PAUSE_S = 1.0
"""The folder is looked at this often at most, in seconds, however many look at the page."""

SHARE_MAX = 0.1
"""Of one processor's time: a read that took long is not repeated before this is its share."""

AGAIN = 50
"""So many of the newest versions are read again: an evaluation comes after its version."""

REPORTED_MAX = 1000
"""Senders of refused messages that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment, as plain data.

    Attributes:
        number: One more each time that something has changed, be it only an age in a sentence.
        summary: Run, task, what it waits for, best version, counts and sums; ``rows`` is the number at which versions
            and nodes have changed last.
        versions: Each version's figures, in order.
        nodes: Each node's part, by name.
    """

    number: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)
    versions: Sequence[Mapping[str, Any]] = ()
    nodes: Sequence[Mapping[str, Any]] = ()


class RunView:
    """One state folder; any thread may ask.

    Args:
        folder: The state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self._last = Snapshot()
        self._seen: tuple[object, ...] | None = None
        self._next_s = 0.0
        self._life: tuple[object, ...] | None = None
        self._participation = GrowingParticipation()
        self._rows: dict[str, Mapping[str, Any]] = {}

    def now(self) -> Snapshot:
        """The run as it is, or as it was a moment ago.

        Raises:
            StorageError: There is no store, or it cannot be read.
        """
        with self._lock:
            began_s = time.monotonic()
            if began_s >= self._next_s:
                self._last = self._read()
                took_s = time.monotonic() - began_s
                self._next_s = began_s + max(PAUSE_S, took_s / SHARE_MAX)
            return self._last

    def _read(self) -> Snapshot:
        """Where no file has changed, only the ages in the sentence do, and nothing is read of the store."""
        seen = self._marks()
        if seen == self._seen:
            waiting = self._waiting()
            same = waiting["sentence"] == self._last.summary["waiting"]["sentence"]
            summary = {**self._last.summary, "waiting": waiting}
            return self._last if same else replace(self._last, number=self._last.number + 1, summary=summary)
        with ReadOnlyStore(self.folder) as store:
            known = self._last.versions if self._last.summary.get("run") == store.run else ()
            kept = list(known[: max(0, len(known) - AGAIN)])
            versions = kept + [version_figures(row) for row in store.history(after=len(kept) - 1)]
            nodes = self._nodes(store)
            summary = self._summary(store, versions, nodes)
        self._seen = seen
        number = self._last.number + 1
        return Snapshot(number=number, summary=summary | {"rows": number}, versions=versions, nodes=nodes)

    def _nodes(self, store: ReadOnlyStore) -> list[Mapping[str, Any]]:
        """Only of what has changed a row is made again; a start of the coordinator may have undone something."""
        life = (store.run, store.epoch())
        if life != self._life:
            self._life, self._participation, self._rows = life, GrowingParticipation(), {}
        known = len(self._rows)
        self._rows |= {node.node: participation_row(node) for node in store.changed_participation(self._participation)}
        if len(self._rows) != known:
            self._rows = dict(sorted(self._rows.items()))
        return list(self._rows.values())

    def _marks(self) -> tuple[object, ...]:
        """What changes when the coordinator writes, or comes or goes."""
        marks: list[object] = [lock_holder(self.folder)]
        for name in (DATABASE, f"{DATABASE}-wal", STATUS):
            try:
                found = (self.folder / name).stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((found.st_mtime_ns, found.st_size))
        return tuple(marks)

    def _summary(
        self, store: ReadOnlyStore, versions: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        manifest = store.manifest()
        updates = sum(node[f"updates_{kind}"] for node in nodes for kind in ("applied", "stale", "refused", "waiting"))
        incidents = read_incidents(self.folder)
        return {
            "run": store.run,
            "epoch": store.epoch(),
            "began_ms": store.began_ms(),
            "task": store.task(),
            "head": versions[-1]["version"] if versions else None,
            "parameters": manifest.parameter_count,
            "models": store.kept_models(),
            "waiting": self._waiting(),
            **run_progress_row(read_run_progress(self.folder)),
            "nodes": len(nodes),
            "updates": updates,
            "bytes_up": sum(version["bytes_up"] for version in versions),
            "bytes_down": sum(version["bytes_down"] for version in versions),
            "bytes_fp32": updates * manifest.fp32_bytes,
            "counters": read_counters(self.folder),
            "incidents": dict(sorted(incidents.items(), key=lambda one: -sum(one[1].values()))[:REPORTED_MAX]),
        }

    def _waiting(self) -> Mapping[str, Any]:
        """The words of ``coordinator why``, and since when."""
        try:
            waiting = read_waiting(self.folder)
        except StorageError as error:
            return {"sentence": str(error), "running": False, "online": 0, "reason": "", "since_s": 0.0}
        return {
            "sentence": explain(waiting),
            "running": waiting.pid is not None,
            "online": waiting.fields.get("online", 0),
            "reason": waiting.fields.get("reason", ""),
            "since_s": waiting.since_s,
        }


def encoded(value: object) -> bytes:
    """JSON that every reader takes: what a node has said may be infinite or no number, and becomes null."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).encode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value
