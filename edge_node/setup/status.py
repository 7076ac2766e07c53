"""``edge-node status``: the device's readings and its work, from the state folder, while the node runs or not."""

import errno
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_node.storage.read_only import read_node
from edge_node.storage.reading_store import READINGS, read_memo, read_newest, read_stored
from federation.doctor import Finding, passed, warned
from federation.errors import StorageError
from federation.runtime.obstacles import DISK, read_obstacles
from federation.storage.folder import lock_holder
from federation.storage.remedies import is_full, remedy_for
from federation.units import counted, human_bytes

__all__ = ["check_readings", "read_status", "show_status"]

COLUMNS_SHOWN = 24
"""Columns in the table; ``--json`` has all."""

DRIFTED = 0.25
"""A population stability index above it says that a column has moved."""

AHEAD_S = 60.0
"""A reading that is ahead of the clock by more says that one of two clocks is wrong, in seconds."""

STALE_S = 3_600.0
"""Without a reading for so long a doctor asks what is the matter, in seconds."""


def read_status(folder: Path, now: float) -> dict[str, Any]:
    """All of it as plain data.

    Args:
        folder: The node's state folder.
        now: Seconds since 1970.

    Raises:
        StorageError: There is no state, or it cannot be read.
    """
    node = read_node(folder)
    return {
        "pid": lock_holder(folder),
        "run": node.run,
        "heard_version": None if node.seen is None else node.seen.version,
        "held_version": node.held_version,
        "last_round": node.last_round,
        "outbox": len(node.outbox),
        "trouble": trouble_of(folder),
        "readings": _readings(folder, now) if (folder / READINGS).exists() else None,
    }


def trouble_of(folder: Path) -> dict[str, str]:
    """What is in the way of the node that runs there: its ``broker``, or its ``disk``, whoever asks."""
    said = {("broker" if name == "node" else name): why for name, why in read_obstacles(folder).items()}
    return ({DISK: f"it is full{remedy_for(OSError(errno.ENOSPC, ''), folder)}"} if is_full(folder) else {}) | said


def show_status(folder: Path, now: float, *, as_json: bool) -> None:
    """Print it.

    Raises:
        StorageError: There is no state, or it cannot be read.
    """
    found = read_status(folder, now)
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201 - the command's output
        return
    Console(highlight=False).print(Group(*_told(found)))


def check_readings(folder: Path, now: float) -> Finding:
    """Whether readings arrive, and what became of those that are gone.

    Args:
        folder: The node's state folder.
        now: Seconds since 1970.
    """
    if not (folder / READINGS).exists():
        return passed("readings", "none yet: the node takes them in from its first start on")
    try:
        found = _readings(folder, now)
    except StorageError as error:
        return warned("readings", str(error), "start the node: it begins to take readings in")
    away = {name: why for name, why in found["sources"].items() if why}
    age_s = found["newest_age_s"]
    said = f"{found['rows']:,} kept in {counted(len(found['columns']), 'column')}, {human_bytes(found['bytes'])}"
    if found["ahead_s"] > AHEAD_S:
        remedy = "see this device's clock (NTP), and that of whoever sends the times"
        return warned("readings", f"{said}; the newest is {_ago(found['ahead_s'])} ahead of this clock", remedy)
    if away:
        name, why = next(iter(away.items()))
        return warned("readings", f"{said}; {name}: {why}", "see [data] in the settings, and the source itself")
    if age_s is None or age_s > STALE_S:
        ago = "none has arrived" if age_s is None else f"the newest is {_ago(age_s)} old"
        refused = ", ".join(f"{count} {reason}" for reason, count in list(found["refused"].items())[:3])
        return warned("readings", f"{said}; {ago}", f"see topics and columns; refused so far: {refused or 'nothing'}")
    return passed("readings", f"{said}, the newest {_ago(age_s)} old")


def _readings(folder: Path, now: float) -> dict[str, Any]:
    stored, newest = read_stored(folder), read_newest(folder)
    drift, sources = read_memo(folder, "drift"), read_memo(folder, "sources")
    drifts = drift if isinstance(drift, dict) else {}
    return {
        **asdict(stored),
        "newest_age_s": None if stored.newest is None else max(0.0, now - stored.newest),
        "ahead_s": 0.0 if stored.newest is None else max(0.0, stored.newest - now),
        "sources": sources if isinstance(sources, dict) else {},
        "trained_to": read_memo(folder, "trained_to"),
        "new_examples": read_memo(folder, "new_examples"),
        "columns": {
            name: {
                "readings": newest[name][0] if name in newest else 0,
                "newest": newest[name][1] if name in newest else None,
                "value": newest[name][2] if name in newest else None,
                "drift": _pair(drifts.get(name))[0],
                "shift": _pair(drifts.get(name))[1],
            }
            for name in stored.columns
        },
    }


def _pair(value: object) -> tuple[float | None, float | None]:
    match value:
        case [float() | int() as drift, float() | int() as shift] if math.isfinite(drift) and math.isfinite(shift):
            return float(drift), float(shift)
    return None, None


def _told(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    pid = found["pid"]
    yield Text("no node is running here; edge-node run goes on where it was" if pid is None else f"running, pid {pid}")
    if found["run"] is None:
        yield Text("no coordinator was heard yet: edge-node doctor says what is in the way")
    else:
        round_ = "none" if found["last_round"] is None else found["last_round"]
        yield Text(f"run {found['run']}: version {found['heard_version']} was heard of, last round {round_}")
    # A small model is not kept on disk: to pull it again is cheaper than to write it.
    held = (
        "no model on disk (a small one is pulled again)"
        if found["held_version"] is None
        else f"version {found['held_version']} on disk"
    )
    waiting = f"{counted(found['outbox'], 'update')} without a final receipt: offered again until it comes"
    yield Text(f"{held}; {waiting if found['outbox'] else 'every update has its receipt'}")
    for name, why in found["trouble"].items():
        yield Text(f"{name}: {why}", style="bold red")
    readings = found["readings"]
    if readings is None:
        yield Text("no readings: the node has no [data]")
        return
    if readings["ahead_s"] > AHEAD_S:
        yield Text(f"the newest reading is {_ago(readings['ahead_s'])} ahead of this clock", style="bold red")
    yield Text(f"readings: {readings['rows']:,} kept ({human_bytes(readings['bytes'])}), {_counts(readings)}")
    for name, why in readings["sources"].items():
        yield Text(f"  {name}: {why or 'read'}")
    if readings["trained_to"] is not None:
        yield Text(f"trained last on {readings['new_examples']} new examples")
    yield _table(readings)


def _counts(readings: Mapping[str, Any]) -> str:
    parts = [f"{readings['received']:,} received"]
    parts += [f"{count:,} dropped over the bound of {reason}" for reason, count in readings["dropped"].items()]
    parts += [f"{count:,} refused: {reason}" for reason, count in readings["refused"].items()]
    return ", ".join(parts)


def _table(readings: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("column", overflow="fold")
    for head in ("readings", "value", "age", "drift", "shift"):
        table.add_column(head, justify="right", no_wrap=True)
    reference = (readings["newest"] or 0.0) + (readings["newest_age_s"] or 0.0)
    for name, one in list(readings["columns"].items())[:COLUMNS_SHOWN]:
        drift = "-" if one["drift"] is None else f"{one['drift']:.2f}{' moved' if one['drift'] > DRIFTED else ''}"
        table.add_row(
            name,
            f"{one['readings']:,}",
            "-" if one["value"] is None else f"{one['value']:.5g}",
            "-" if one["newest"] is None else _ago(max(0.0, reference - one["newest"])),
            drift,
            "-" if one["shift"] is None else f"{one['shift']:+.2f} sd",
        )
    more = len(readings["columns"]) - COLUMNS_SHOWN
    if more > 0:
        table.add_row(f"and {more} more: --json", *[""] * 5)
    return table


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
