"""``coordinator why``: what the coordinator waits for, for whom and since when, told by a file beside its store."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.blobs import lock_holder
from federation.errors import StorageError

__all__ = ["Waiting", "explain", "read_waiting", "write_waiting"]

WAITING = "waiting.json"

MEANINGS: Mapping[str, str] = {
    "assignments": "updates of nodes that are training",
    "broker": "the broker, which cannot be reached",
    "committing": "the new version to be saved",
    "finished": "nothing: the run is over, late updates still get their receipts",
    "no_candidates": "nodes that are online, compatible and free",
    "nodes_min": "more nodes: round.nodes_min are not online yet",
    "settling": "the nodes' retained states, just after a connect",
    "stopped_early": "nothing: stopping.patience evaluations in a row brought no improvement, and that ended the run",
    "storage": "the disk: nothing can be saved, so nothing is acknowledged; the log has its error and the remedy",
    "transfers": "large updates that are arriving",
}
"""The machine's reasons in a person's words; a reason that is not here is shown as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The last thing that a coordinator said about its waiting.

    Attributes:
        fields: Reason, nodes and counts, as they are in the log.
        since_s: How long ago that was, in seconds of the wall clock, which is for people only.
        pid: The coordinator's process; None when none is running.
    """

    fields: Mapping[str, object]
    since_s: float
    pid: str | None


def write_waiting(folder: Path, fields: Mapping[str, object]) -> None:
    """Remember what is waited for. It only explains: a full disk is no reason to stop."""
    temporary = folder / f".{WAITING}.tmp"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({"at": time.time(), "fields": dict(fields)}, default=str), encoding="utf-8")
        temporary.replace(folder / WAITING)


def read_waiting(folder: Path) -> Waiting:
    """What the coordinator of this state folder waits for.

    Raises:
        StorageError: No coordinator has run there, or the file cannot be read.
    """
    try:
        content = json.loads((folder / WAITING).read_text(encoding="utf-8"))
        fields, at = dict(content["fields"]), float(content["at"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder} does not say; has a coordinator run with this store?") from error
    return Waiting(fields=fields, since_s=max(0.0, time.time() - at), pid=lock_holder(folder))


def explain(waiting: Waiting) -> str:
    """One sentence or two for a person."""
    fields = dict(waiting.fields)
    reason, nodes = str(fields.pop("reason", "unknown")), fields.pop("nodes", [])
    whom = f" (of {', '.join(map(str, nodes))})" if isinstance(nodes, list) and nodes else ""
    counts = ", ".join(f"{name} {value}" for name, value in fields.items())
    if waiting.pid is None:
        return f"no coordinator is running; the last one waited for {MEANINGS.get(reason, reason)}{whom}: {counts}"
    return f"waiting for {MEANINGS.get(reason, reason)}{whom} since {waiting.since_s:.0f} s: {counts}"
