"""Where a machine may stand, and the file that tells it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coordinator.engine.early_stopping import StoppingSettings
from coordinator.monitoring.state_files import StoppingRule
from coordinator.monitoring.status_file import StatusFile

NEVER = StoppingRule(settings=StoppingSettings(), versions=0)


def snapshot(reason: str = "assignments", *nodes: str, **more: object) -> dict[str, Any]:
    """Where a machine may stand, as far as it matters here."""
    waiting = {"reason": reason, "since": 3.0, "nodes": list(nodes), "gone": [], "buffer": 2, "nodes_min": 2}
    plain = {"version": 3, "live": len(nodes), "buffered": 1, "online": 2, "waiting_for": waiting, "counters": {}}
    return plain | more


def status_file(
    folder: Path,
    found: Callable[[], Mapping[str, Any]],
    incidents: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
    stopping: StoppingRule = NEVER,
) -> StatusFile:
    """The file of a coordinator that stands there."""
    return StatusFile(folder, found, incidents, stopping)
