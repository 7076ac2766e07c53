"""What the page shows, read from a state folder while its coordinator writes: in short reads, and only what is new."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from coordinator.monitoring.figures import participation_row, surveyed_metrics, version_figures
from coordinator.monitoring.presence import News, PresenceSeen, Seen, read_presence, releases_line
from coordinator.monitoring.refusals import refusal_lines
from coordinator.monitoring.run_progress import GrowingProgress, run_progress_row
from coordinator.monitoring.sites import site_lines, sites_row
from coordinator.monitoring.state_files import (
    helper_lines,
    known_s,
    knows_nodes,
    read_counters,
    read_helpers,
    read_incidents,
    read_sealed,
    read_stopping,
    read_waiting,
)
from coordinator.monitoring.why import explain
from coordinator.storage.database import DATABASE
from coordinator.storage.files import PRESENCE, STATUS
from coordinator.storage.history import GrowingHistory
from coordinator.storage.participation import GrowingParticipation
from coordinator.storage.places import NOTE
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import StorageError
from federation.storage.folder import file_mark, lock_holder
from fedmq.run_view.rows import Rows

__all__ = ["NODE_COLUMNS", "PAUSE_S", "FoundCertificates", "RunView", "Snapshot"]

PAUSE_S = 1.0
"""The folder is looked at this often at most, in seconds, however many look at the page."""

SHARE_MAX = 0.1
"""Of one processor's time: a read that took long is not repeated before this is its share."""

AGAIN = 50
"""So many of the newest versions are read again: an evaluation comes after its version."""

REPORTED_MAX = 1000
"""Senders of refused messages that are named."""

STATUSES = ("applied", "stale", "refused", "waiting")

NODE_COLUMNS: Mapping[str, str] = {
    **{f"updates_{status}": "q" for status in STATUSES},
    **dict.fromkeys(("bytes_up", "bytes_down", "restarts", "asked"), "q"),
    "staleness_mean": "d",
}
VERSION_COLUMNS: Mapping[str, str] = {"version": "q", "bytes_up": "q", "bytes_down": "q"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment, as plain data.

    Attributes:
        number: One more each time that something has changed, be it only an age in a sentence.
        summary: Run, task, what it waits for, best version, counts and sums; ``rows`` is the number at which versions
            and nodes have changed last.
        versions: Each version's figures, in order.
        nodes: Each node's part, by name.
        names: Their names, in the same order.
        presence: When each node was last heard, and whether it is there; not of a coordinator of an earlier release.
        news: Who was lost, came back or started again, in order.
    """

    number: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)
    versions: Rows = field(default_factory=partial(Rows, VERSION_COLUMNS))
    nodes: Rows = field(default_factory=partial(Rows, NODE_COLUMNS))
    names: Sequence[str] = ()
    presence: Mapping[str, Seen] = field(default_factory=dict)
    news: Sequence[News] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCertificates:
    """The certificates of a federation.

    Attributes:
        ends: When each ends, ISO 8601, by name: as far as it is known.
        unknown: Why it is not known now; empty: it is.
    """

    ends: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""


class RunView:
    """One state folder; any thread may ask.

    Args:
        folder: The state folder.
        certificates: What is known of the federation's certificates.
    """

    def __init__(self, folder: Path, certificates: Callable[[], FoundCertificates] = FoundCertificates) -> None:
        self.folder = folder
        self._certificates = certificates
        self._lock = Lock()
        self._last = Snapshot()
        self._seen: tuple[object, ...] | None = None
        self._next_s = 0.0
        self._life: _Life | None = None
        self._presence = PresenceSeen()

    def now(self) -> Snapshot:
        """The run as it is, or as it was a moment ago.

        Raises:
            StorageError: There is no store, or it cannot be read.
        """
        found = self.recent()
        if found is not None:
            return found
        with self._lock:
            began_s = time.monotonic()
            if began_s >= self._next_s:
                self._last = self._read()
                took_s = time.monotonic() - began_s
                self._next_s = began_s + max(PAUSE_S, took_s / SHARE_MAX)
            return self._last

    def recent(self) -> Snapshot | None:
        """The run as it was a moment ago, where it was read then: at once."""
        return self._last if time.monotonic() < self._next_s else None

    def _read(self) -> Snapshot:
        """Where no file has changed, only the ages in the sentence do, and nothing is read of the store."""
        seen, last = self._marks(), self._last
        if seen == self._seen:
            waiting = self._waiting()
            if all(waiting[key] == last.summary["waiting"][key] for key in ("sentence", "sites")):
                return last
            newer = {"waiting": waiting, "sites": self._sites()}
            return replace(last, number=last.number + 1, summary={**last.summary, **newer})
        with ReadOnlyStore(self.folder) as store:
            start = (store.run, store.epoch())
            if self._life is None or self._life.start != start:
                self._life = _Life(start=start)
            life = self._life
            life.read(store)
            if self._seen is None or self._seen[0] != seen[0] or last.summary.get("run") != store.run:
                self._presence = read_presence(self.folder, store.run)
            summary = self._summary(store, life)
        found = self._presence
        self._seen, number = seen, last.number + 1
        return Snapshot(
            number=number,
            summary=summary | {"rows": number},
            versions=life.versions,
            nodes=life.nodes,
            names=life.names,
            presence=found.nodes,
            news=found.news,
        )

    def _marks(self) -> tuple[object, ...]:
        """What changes when the coordinator writes, or comes or goes."""
        files = (PRESENCE, DATABASE, f"{DATABASE}-wal", STATUS)
        # A database elsewhere tells of no change: it is looked at each time.
        elsewhere = [object()] if (self.folder / NOTE).exists() else []
        found = self._certificates()
        certificates = (*sorted(found.ends.items()), found.unknown)
        return (*(file_mark(self.folder / name) for name in files), lock_holder(self.folder), *certificates, *elsewhere)

    def _summary(self, store: ReadOnlyStore, life: "_Life") -> dict[str, Any]:
        manifest, rule = store.manifest(), read_stopping(self.folder)
        incidents = read_incidents(self.folder)
        updates = {status: sum(life.nodes.column(f"updates_{status}")) for status in STATUSES}
        versions = life.versions.column("version")
        return {
            "run": store.run,
            "epoch": store.epoch(),
            "began_ms": store.began_ms(),
            "task": store.task(),
            "head": versions[-1] if versions else None,
            "versions_max": 0 if rule is None else rule.versions,
            "parameters": manifest.parameter_count,
            "models": store.kept_models(),
            "waiting": self._waiting(),
            **run_progress_row(life.progress.read(store, rule)),
            "nodes": len(life.nodes),
            "updates": sum(updates.values()),
            "updates_by_status": updates,
            "participation": _participation(life.nodes),
            "bytes_up": sum(life.versions.column("bytes_up")),
            "bytes_down": sum(life.versions.column("bytes_down")),
            "bytes_fp32": sum(updates.values()) * manifest.fp32_bytes,
            "counters": read_counters(self.folder),
            "incidents": dict(sorted(incidents.items(), key=lambda one: -sum(one[1].values()))[:REPORTED_MAX]),
            "remedies": list(refusal_lines(incidents)),
            "notes": list(self._notes(store)),
            "sites": self._sites(),
            "certificates": dict(sorted(self._certificates().ends.items(), key=lambda one: one[1])[:REPORTED_MAX]),
        }

    def _notes(self, store: ReadOnlyStore) -> Iterator[str]:
        """What a person should know beside the numbers, in the words of ``coordinator status``."""
        if unknown := self._certificates().unknown:
            yield f"nobody can tell when certificates end: {unknown}"
        yield from _privacy(store)
        helpers = read_helpers(self.folder)
        if helpers:
            yield f"masked: the coordinator reads sums only; helpers {', '.join(sorted(helpers))}"
        yield from helper_lines(self.folder)
        match read_sealed(self.folder):
            case True:
                yield "sealed: the broker reads neither updates nor the model"
            case False:
                yield "not sealed: the broker reads updates and the model (privacy.sealed)"
        differ = releases_line(self._presence.nodes)
        if differ and knows_nodes(self.folder):
            yield differ
        restored = store.restored()
        if restored is not None:
            yield f"begun again from a backup at version {restored.version}: what was made after that backup is lost"

    def _sites(self) -> Mapping[str, Any]:
        return sites_row(self._presence.sites, self._presence.gateways_here, known_s(self.folder))

    def _waiting(self) -> Mapping[str, Any]:
        """The words of ``coordinator why``, and since when."""
        sites = list(site_lines(self._presence.sites, self._presence.gateways_here, known_s(self.folder)))
        try:
            waiting = read_waiting(self.folder)
        except StorageError as error:
            nothing = {"running": False, "connected": False, "over": False, "online": 0, "away": 0}
            return {"sentence": str(error), "sites": sites, **nothing, "reason": "", "since_s": 0.0}
        # Who was online when a coordinator had a broker last says nothing of now.
        here = waiting.fields if waiting.known_s is None else {}
        return {
            "sites": sites,
            "sentence": explain(waiting),
            "running": waiting.pid is not None,
            "connected": waiting.known_s is None,
            "over": waiting.over,
            "online": here.get("online", 0),
            "away": here.get("away", 0),
            "reason": "" if waiting.starting and not waiting.over else waiting.fields.get("reason", ""),
            "since_s": waiting.since_s,
        }


@dataclass(slots=True, kw_only=True)
class _Life:
    """What has been read since one start of a coordinator: a later one may undo a commit, and all is read again."""

    start: tuple[str, int]
    progress: GrowingProgress = field(default_factory=GrowingProgress)
    versions: Rows = field(default_factory=partial(Rows, VERSION_COLUMNS))
    nodes: Rows = field(default_factory=partial(Rows, NODE_COLUMNS))
    _history: GrowingHistory = field(default_factory=GrowingHistory)
    _participation: GrowingParticipation = field(default_factory=GrowingParticipation)
    names: list[str] = field(default_factory=list)

    def read(self, store: ReadOnlyStore) -> None:
        """Only what has changed is made again."""
        kept = max(0, len(self.versions) - AGAIN)
        on_nodes = surveyed_metrics(store.evaluated_on_nodes(kept - 1))
        rows = (
            version_figures(row, on_nodes.get(row.record.version))
            for row in store.newest_versions(self._history, kept - 1)
        )
        self.versions = self.versions.replaced(enumerate(rows, kept), kept)
        self._read_nodes(map(participation_row, store.changed_participation(self._participation)))

    def _read_nodes(self, rows: Iterator[Mapping[str, Any]]) -> None:
        if not self.names:
            found = list[str]()
            self.nodes = self.nodes.replaced(_noted(rows, found), 0)
            self.names = found
            return
        known, new = list[tuple[int, Mapping[str, Any]]](), dict[str, Mapping[str, Any]]()
        for row in rows:
            place = bisect_left(self.names, row["id"])
            if place < len(self.names) and self.names[place] == row["id"]:
                known.append((place, row))
            else:
                new[row["id"]] = row
        self.nodes = self.nodes.replaced(iter(known), len(self.names))
        if new:
            places = {name: place for place, name in enumerate(self.names)}
            self.names = sorted([*self.names, *new])
            order = [places.get(name) for name in self.names]
            self.nodes = self.nodes.sorted_by(order, lambda place: new[self.names[place]])


def _privacy(store: ReadOnlyStore) -> Iterator[str]:
    """What of the privacy budgets is spent; the accountants are loaded only where there are any."""
    if store.spent():
        from coordinator.monitoring.privacy import privacy_line, privacy_report  # noqa: PLC0415 - 10 MB

        yield privacy_line(privacy_report(store))
    if store.releases():
        from coordinator.monitoring.noised_sums import nodes_line, nodes_report  # noqa: PLC0415 - 10 MB

        yield nodes_line(nodes_report(store))


def _noted(rows: Iterator[Mapping[str, Any]], names: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for place, row in enumerate(rows):
        names.append(row["id"])
        yield place, row


def _participation(nodes: Rows) -> Mapping[str, Any]:
    """Who does the work, and how late: ``fairness`` is Jain's index of applied updates, (Σx)² / (n Σx²).

    R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination, DEC-TR-301, 1984.
    """
    applied, lags = nodes.column("updates_applied"), nodes.column("staleness_mean")
    total, squares = sum(applied), sum(count * count for count in applied)
    late = sum(count * lag for count, lag in zip(applied, lags, strict=True))
    return {
        "contributing": sum(count > 0 for count in applied),
        "fairness": total * total / (len(applied) * squares) if squares else None,
        "staleness_mean": late / total if total else 0.0,
    }
