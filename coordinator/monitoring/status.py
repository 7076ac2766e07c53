"""``coordinator status``: what a run waits for, its nodes and its versions, read while the coordinator may write."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from coordinator.monitoring.curves import curve_row, read_curves
from coordinator.monitoring.figures import ask_store, participation_row, version_figures
from coordinator.monitoring.noised_sums import nodes_report, nodes_row
from coordinator.monitoring.presence import Seen, presence_of, read_presence
from coordinator.monitoring.privacy import privacy_row, read_privacy
from coordinator.monitoring.run_progress import read_run_progress, run_progress_row
from coordinator.monitoring.sites import sites_row
from coordinator.monitoring.state_files import (
    known_s,
    knows_nodes,
    read_behind,
    read_claims,
    read_counters,
    read_failing,
    read_helper_trouble,
    read_helpers,
    read_incidents,
    read_sealed,
)
from coordinator.storage.places import leader_of
from coordinator.storage.read_only import ReadOnlyStore

__all__ = [
    "read_nodes",
    "read_status",
    "show_nodes",
    "show_status",
    "watch_status",
]

REFRESH_S = 1.0
"""Another process writes the database, and it tells nobody: `watch_status` looks again after this many seconds."""


def read_status(folder: Path) -> dict[str, object]:
    """The whole status as plain data.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        versions, nodes = store.history(), store.participation()
        run, restored, noised = store.run, store.restored(), nodes_report(store)
    seen = read_presence(folder, run)
    return {
        "versions": [version_figures(row) for row in versions],
        **run_progress_row(read_run_progress(folder)),
        "nodes": [participation_row(node) for node in nodes],
        "sites": sites_row(seen.sites, seen.gateways_here, known_s(folder)),
        "releases": {node: one.release for node, one in seen.nodes.items() if one.release},
        "nobody_trains": read_failing(folder).nobody_trains,
        "failing": dict(read_failing(folder).reasons),
        "incidents": read_incidents(folder),
        "counters": read_counters(folder),
        "behind": read_behind(folder),
        "claims": read_claims(folder),
        "privacy": privacy_row(read_privacy(folder)),
        "nodes_privacy": nodes_row(noised),
        "sealed": read_sealed(folder),
        "helpers": dict(read_helpers(folder)),
        "helper_trouble": dict(read_helper_trouble(folder)),
        "leader": _leader(folder),
        "restored": None if restored is None else asdict(restored),
    }


def show_status(folder: Path, *, as_json: bool = False, more: Mapping[str, object] | None = None) -> None:
    """Print the status once.

    Args:
        folder: The state folder.
        as_json: Instead of tables.
        more: Members that the JSON has, too.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    if as_json:
        sys.stdout.write(json.dumps(read_status(folder) | dict(more or {})) + "\n")
    else:
        from coordinator.monitoring import screen  # noqa: PLC0415 - what draws it, a script does not need

        console = screen.make_console()
        shown = screen.full_screen(folder, console.width)
        console.print(shown)
        if console.is_terminal and len(console.render_lines(shown, pad=False)) >= console.height:
            # What a person should read first has left the screen by now.
            console.print()
            console.print(screen.first_line(folder), no_wrap=True, overflow="ellipsis")


def read_nodes(folder: Path) -> dict[str, object]:
    """What every node did and reported, as plain data: ``nodes``, and ``curves`` with one point per report.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    here = _here(folder)
    return {
        "nodes": [
            {**participation_row(node), **_state(here.get(node.node))}
            for node in ask_store(folder, ReadOnlyStore.participation)
        ],
        "curves": [curve_row(point) for point in read_curves(folder)],
    }


def show_nodes(folder: Path, *, as_json: bool = False) -> None:
    """Print what every node reported last.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    if as_json:
        sys.stdout.write(json.dumps(read_nodes(folder)) + "\n")
    else:
        from coordinator.monitoring import screen  # noqa: PLC0415 - as above

        nodes = screen.node_table(ask_store(folder, ReadOnlyStore.participation), here=_here(folder))
        screen.make_console().print(nodes, screen.curve_table(read_curves(folder)))


def watch_status(folder: Path) -> None:
    """Print the status in place until Ctrl-C, no larger than the screen is.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    from rich.live import Live  # noqa: PLC0415 - only for this

    from coordinator.monitoring import screen  # noqa: PLC0415 - as above

    console = screen.make_console()
    with Live(screen.fitted_screen(folder, console), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(REFRESH_S)
                live.update(screen.fitted_screen(folder, console), refresh=True)
        except KeyboardInterrupt:
            return


def _leader(folder: Path) -> dict[str, object] | None:
    leader = leader_of(folder)
    return None if leader is None else asdict(leader) | {"since_s": leader.led_s, "overdue": leader.overdue}


def _here(folder: Path) -> Mapping[str, Seen]:
    """Which nodes are there, as their coordinator knows it; nothing while none runs, or it has no broker."""
    return presence_of(folder).nodes if knows_nodes(folder) else {}


def _state(seen: Seen | None) -> dict[str, object]:
    return {"state": seen and seen.state(), "back_ms": seen and seen.back_ms()}
