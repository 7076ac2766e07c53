"""`make bench-commands`: what the commands cost that only look, on a run of 100,000 updates.

Beside them stands, from the same turns, what an interpreter needs that imports numpy and does nothing: a machine that
is busy with something else is slower. The least of all turns counts; the first also writes the compiled files.
"""

import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.page import large_run
from benchmarks.table import Figure, show
from coordinator.storage.compaction.blocks import BLOCK_UPDATES_MAX, Entry, Fate, pack
from coordinator.storage.compaction.moving import UPDATES_KEPT, compact
from coordinator.storage.database import open_database
from federation.storage.sql import Readable

NODES, VERSIONS, UPDATES_A_VERSION = 1000, 1000, 100
TURNS = 5

BARS: Final = {"coordinator status": 0.5, "coordinator status --json": 0.5}
"""Most processor time of a command, in seconds."""


def commands(state: Path) -> Mapping[str, Sequence[str]]:
    """The arguments of each interpreter, by what it is."""
    told = ("--state", str(state))
    return {
        "an interpreter": ("-c", "pass"),
        "one that imports numpy": ("-c", "import numpy"),
        "fedmq --version": ("-m", "fedmq", "--version"),
        "fedmq --help": ("-m", "fedmq", "--help"),
        "coordinator why": ("-m", "coordinator", "why", *told),
        "coordinator status": ("-m", "coordinator", "status", *told),
        "coordinator status --json": ("-m", "coordinator", "status", "--json", *told),
        "coordinator status --nodes --json": ("-m", "coordinator", "status", "--nodes", "--json", *told),
    }


def compacted(state: Path) -> list[Figure]:
    """Compact the run as its coordinator has done at each commit; the bytes that its store has before and after."""
    with contextlib.closing(open_database(state)) as database:
        before = _store_bytes(database)
        head, moved = database.execute("SELECT MAX(version) FROM versions").fetchone()[0], 1
        began_s, updates = time.process_time(), 0
        while moved:
            with database.transaction("compaction"):
                moved = compact(database, head, updates=UPDATES_KEPT, versions=1)
            updates += moved
        spent_s = time.process_time() - began_s
        database.execute("VACUUM")
        after = _store_bytes(database)
    return [
        Figure(what="store, a row for each update", measured=before / 1e6, bar=None, unit="MB"),
        Figure(what=f"store, rows for the newest {UPDATES_KEPT:,}", measured=after / 1e6, bar=None, unit="MB"),
        Figure(what="a compacted update, in its block", measured=_block_bytes(), bar=None, unit="B"),
        Figure(what="to compact an update", measured=1e6 * spent_s / updates, bar=None, unit="µs"),
    ]


def _block_bytes() -> float:
    """Bytes for each update of a block, of rounds with nodes drawn at random, of which some come late."""
    rng = random.Random(0)
    entries = [
        Entry(round_id, node, Fate("applied", "none", round_id + 1 + late, late, round_id + late, round_id))
        for round_id in range(BLOCK_UPDATES_MAX // UPDATES_A_VERSION)
        for node, late in ((node, rng.choice((0, 0, 0, 1, 2))) for node in rng.sample(range(NODES), UPDATES_A_VERSION))
    ]
    return sum(map(len, pack(entries).values())) / len(entries)


def _store_bytes(database: Readable) -> float:
    pages, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return float(pages * size)


def cpu_s(arguments: Sequence[str]) -> float:
    """Processor time of one interpreter, in seconds.

    Raises:
        CalledProcessError: It has failed.
    """
    # Compiled files are what a user has: without them each start compiles all that it imports.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures(state: Path, turns: int, names: Sequence[str] = ()) -> list[Figure]:
    """The least processor time of each command, or of those of these names, which have no bar."""
    told = {name: words for name, words in commands(state).items() if not names or name in names}
    spent = {name: min(times) for name, times in zip(told, zip(*_turns(told, turns), strict=True), strict=True)}
    numpy_s = spent["one that imports numpy"]
    return [
        Figure(
            what=f"{name}, a row for each update" if names else name,
            measured=least,
            bar=None if names else BARS.get(name),
            unit="s",
            note=f"{least / numpy_s:.1f} times numpy",
        )
        for name, least in spent.items()
    ]


def _turns(told: Mapping[str, Sequence[str]], turns: int) -> list[list[float]]:
    return [[cpu_s(arguments) for arguments in told.values()] for _ in range(turns)]


def main() -> None:
    """Print the figures; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large_run(Path(folder), NODES, VERSIONS, UPDATES_A_VERSION)
        state = Path(folder) / "coordinator"
        before = figures(state, 1, ["an interpreter", "one that imports numpy", "coordinator status --json"])
        found = [*before, *compacted(state), *figures(state, options.turns)]
    title = f"commands that only look: {NODES:,} nodes, {VERSIONS:,} versions, {VERSIONS * UPDATES_A_VERSION:,} updates"
    sys.exit(0 if show(title, found, as_json=options.as_json, skipped={}) else 1)


if __name__ == "__main__":
    main()
