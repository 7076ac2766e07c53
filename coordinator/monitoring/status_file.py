"""Who writes ``status.json``: where the machine stands, for the commands that only read."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from coordinator.monitoring.state_files import FORMER, StoppingRule, known_at
from coordinator.storage.files import STATUS
from federation.runtime.clock import SteadyClock, stamp
from federation.storage.folder import lock_mark, write_file

__all__ = ["StatusFile"]

PAUSE_S: Final = 0.5
"""The file is written this often at most, in seconds."""

AGAIN_S: Final = 5.0
"""The same where it could not be written, in seconds."""

SAID_S: Final = 60.0
"""Who is woken after so many seconds says the same again: of one that is killed it is known until when it was there."""


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
        # Before the first connection nodes are as a former start has known them.
        self._known = known_at(folder)
        self._next_s, self._again_s = 0.0, 0.0
        self._pending = self._failed = False

    def look(self, now: float) -> None:
        """Write what has changed, or remember to; ``now`` is in monotonic seconds."""
        self._pending = now < self._next_s
        if not self._pending:
            if self.write(again=now >= self._again_s):
                self._again_s = now + SAID_S
            self._pending, self._next_s = self._failed, now + (AGAIN_S if self._failed else PAUSE_S)

    def due(self) -> float | None:
        """When to look again, in monotonic seconds; None when nothing happened since the last look that told it."""
        return self._next_s if self._pending else None

    def version(self) -> int:
        """The newest version."""
        return int(self._snapshot()["version"])

    def write(self, *, again: bool = False) -> bool:
        """Write at once, where something has changed, or could not be written before.

        Args:
            again: Write it also where nothing has changed: it is said now.

        Returns:
            Whether it was tried.
        """
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
        if told == before and not self._failed and not again:
            return False
        self._pass_time(fields, before.get("fields"))
        self._told = told
        moved = self._clock.moved_s()
        said = {"since": self._since + moved, "at": time.time(), "known": self._known and self._known + moved}
        content = {
            "waiting": {**said, "fields": fields, "of": lock_mark(self._folder)},
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
        return True

    def _pass_time(self, fields: Mapping[str, object], before: Mapping[str, object] | None) -> None:
        """Since when it waits for this, and until when it has known who is there."""
        now = self._clock.now()
        if before is None or any(fields[key] != before[key] for key in ("reason", "version")):
            self._since = now
        if fields["connected"] or (before is not None and before["connected"]):
            self._known = now


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
    told = {key: snapshot[key] for key in ("version", "live", "buffered", "online")}
    return told | {"connected": bool(snapshot.get("connected", True))} | waiting | heard
