"""Follows one run: looks, tells, tries again what could not be delivered, and remembers it over a restart."""

import datetime as dt
import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from coordinator.config.alerts import AlertKind, AlertsSection
from federation.documents import read_json
from federation.errors import FederationError, StorageError
from federation.runtime.clock import SteadyClock, moved_s, stamp
from federation.storage.folder import write_file
from fedmq.alerts.rules import OF_RUN, Surroundings, conditions, of_surroundings
from fedmq.alerts.sinks import Sink
from fedmq.alerts.watch import Notice, Watch
from fedmq.run_view import Snapshot

__all__ = ["FILE", "Follower"]

FILE = "alerts.json"
"""What was told, in the state folder."""

LOOK_S = 5.0
"""Another process writes the folder, and it tells nobody: it is looked at again after so many seconds."""

PENDING_MAX = 1000
"""Alerts that wait for their way to be there again; the oldest are given up."""

SAVED_S = 60.0
"""How often what is watched is written down while nothing is told, in seconds: storage of devices wears out."""

AGAIN_S = 60.0
"""What could not be delivered is tried again after so many seconds."""


@dataclass(slots=True, kw_only=True)
class Follower:
    """One run's alerts.

    Attributes:
        folder: The state folder.
        federation: Its name.
        limits: From when on something is worth telling.
        lease_s: ``round.lease_s``, in seconds.
        interval_s: ``round.interval_min_s``, in seconds.
        sinks: Where alerts go, by name.
        look: Reads the run.
        certificates: Reads when certificates end, as ISO 8601.
    """

    folder: Path
    federation: str
    limits: AlertsSection
    lease_s: float
    sinks: Mapping[str, Sink]
    look: Callable[[], Snapshot]
    interval_s: float = 0.0
    certificates: Callable[[], Mapping[str, str]] = dict
    _watch: Watch = field(default_factory=Watch)
    _pending: deque[tuple[str, dict[str, object]]] = field(default_factory=lambda: deque(maxlen=PENDING_MAX))
    _again_s: float = 0.0
    _saved_s: float = 0.0
    _clock: SteadyClock = field(default_factory=SteadyClock)

    def __post_init__(self) -> None:
        kept = self._kept()
        self._watch = Watch.restored(kept.get("watched", []), moved_s(kept.get("clock")))
        self._pending.extend((str(name), dict(row)) for name, row in kept.get("pending", []) if name in self.sinks)

    def once(self) -> list[Notice]:
        """Look once, tell what is new, and try again what could not be delivered.

        Raises:
            StorageError: There is no store, or it cannot be read; what else is wrong was told.
        """
        now_s = self._clock.now()
        around, unreadable = self._around(time.time()), None
        unseen: frozenset[AlertKind] = frozenset({"certificate"} if around.certificates_unknown else ())
        try:
            found = conditions(self.look(), around, self.limits)
        except StorageError as error:
            # What is told of the disk and of certificates does not depend on it, and the disk may be the reason.
            found, unseen, unreadable = of_surroundings(around, self.limits), unseen | OF_RUN, error
        told = list(self._watch.step(found, now_s, unseen))
        told = [notice.moved(self._clock.moved_s()) for notice in told]
        # Saved, then told: an alert that a crash cuts off comes from here again.
        self._pending.extend((name, self._row(notice)) for notice in told for name in self.sinks)
        # What is only watched changes at every look; to know a minute less of it after a crash does no harm.
        if told or now_s >= self._saved_s + SAVED_S:
            self._save(now_s)
        if told or now_s >= self._again_s:
            self._deliver(now_s)
        if unreadable is not None:
            raise unreadable
        return told

    def run(self, stopped: threading.Event) -> None:
        """Look again and again until ``stopped`` is set; a folder that cannot be read is looked at again."""
        said = ""
        while not stopped.is_set():
            try:
                self.once()
                said = ""
            except StorageError as error:
                if str(error) != said:
                    structlog.get_logger().warning("alerts_cannot_look", reason=str(error))
                said = str(error)
            stopped.wait(LOOK_S)

    def test(self) -> Mapping[str, str]:
        """Send one alert everywhere; returns what each way has to say, empty where it was delivered."""
        now_s = time.time()
        notice = Notice(kind="test", subject="", over=False, text="this is a test", since_s=now_s, at_s=now_s)
        return {name: self._send(name, self._row(notice)) for name in self.sinks}

    def _row(self, notice: Notice) -> dict[str, object]:
        return {"federation": self.federation, **notice.row()}

    def _around(self, now_s: float) -> Surroundings:
        try:
            disk = shutil.disk_usage(self.folder)
            free, total = disk.free, disk.total
        except OSError:
            free = total = 0
        ends, unknown = dict[str, dt.datetime](), ""
        try:
            ends = {name: dt.datetime.fromisoformat(at) for name, at in self.certificates().items()}
        except (FederationError, OSError) as error:
            unknown = str(error)
        today = dt.datetime.fromtimestamp(now_s, dt.UTC)
        return Surroundings(
            today=today,
            lease_s=self.lease_s,
            interval_s=self.interval_s,
            disk_free=free,
            disk_total=total,
            certificates=ends,
            certificates_unknown=unknown,
        )

    def _deliver(self, now_s: float) -> None:
        """Once for each way that fails: the rest of it would only wait as long again."""
        failed: list[tuple[str, dict[str, object]]] = []
        away: set[str] = set()
        count = len(self._pending)
        while self._pending:
            name, row = self._pending.popleft()
            if name not in away and (problem := self._send(name, row)):
                structlog.get_logger().warning("alert_not_delivered", way=name, reason=problem, again_s=AGAIN_S)
                away.add(name)
            if name in away:
                failed.append((name, row))
        self._pending.extend(failed)
        self._again_s = now_s + AGAIN_S
        if count:
            self._save(now_s)

    def _send(self, name: str, row: Mapping[str, object]) -> str:
        try:
            self.sinks[name](row)
        except FederationError as error:
            return str(error)
        return ""

    def _save(self, now_s: float) -> None:
        self._saved_s = now_s
        content = {"clock": stamp(), "watched": self._watch.rows(self._clock.moved_s()), "pending": list(self._pending)}
        try:
            write_file(self.folder / FILE, json.dumps(content).encode(), mode=0o600)
        except OSError as error:
            # A full disk is what people are told of first of all: told twice, after a restart, does no harm.
            structlog.get_logger().warning("alerts_not_remembered", reason=str(error))

    def _kept(self) -> dict[str, Any]:
        try:
            content = read_json((self.folder / FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
