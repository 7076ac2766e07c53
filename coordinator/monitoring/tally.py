"""What a coordinator has counted since its start, told by a file beside its store: for ``coordinator status``."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from coordinator.storage.files import write_beside

__all__ = ["Tally", "read_tally"]

TALLY = "counters.json"
PAUSE_S = 0.5
"""The file is written this often at most, in seconds."""


class Tally:
    """Writes the file when a count has changed. It only explains: a full disk is no reason to stop.

    Args:
        folder: The state folder.
        counters: The counts; they change behind it.
    """

    def __init__(self, folder: Path, counters: Mapping[str, int]) -> None:
        self._folder, self._counters = folder, counters
        self._written: dict[str, int] | None = None
        self._next_s = 0.0

    def look(self, now: float) -> None:
        """Compare; ``now`` is in monotonic seconds."""
        if now >= self._next_s and self._counters != self._written:
            self.write()
            self._next_s = now + PAUSE_S

    def due(self) -> float | None:
        """When a change that was not written yet may be, in monotonic seconds."""
        return None if self._counters == self._written else self._next_s

    def write(self) -> None:
        """Write at once."""
        self._written = dict(self._counters)
        write_beside(self._folder, TALLY, {"at": time.time(), "counters": self._written})


def read_tally(folder: Path) -> dict[str, int]:
    """The counts of the last coordinator; empty where none has counted anything, or the file cannot be read."""
    try:
        content = json.loads((folder / TALLY).read_text(encoding="utf-8"))["counters"]
        return {str(name): int(count) for name, count in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
