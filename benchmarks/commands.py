"""`make bench-commands`: what the commands cost that only look, on a run of 100,000 updates.

Beside them stands, from the same turns, what an interpreter needs that imports numpy and does nothing: a machine that
is busy with something else is slower. The least of all turns counts; the first also writes the compiled files.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.page import large_run
from benchmarks.table import Figure, show

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


def figures(state: Path, turns: int) -> list[Figure]:
    """The least processor time of each command."""
    told = commands(state)
    spent = {name: min(times) for name, times in zip(told, zip(*_turns(told, turns), strict=True), strict=True)}
    numpy_s = spent["one that imports numpy"]
    return [
        Figure(what=name, measured=least, bar=BARS.get(name), unit="s", note=f"{least / numpy_s:.1f} times numpy")
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
        found = figures(Path(folder) / "coordinator", options.turns)
    title = f"commands that only look: {NODES:,} nodes, {VERSIONS:,} versions, {VERSIONS * UPDATES_A_VERSION:,} updates"
    sys.exit(0 if show(title, found, as_json=options.as_json, skipped={}) else 1)


if __name__ == "__main__":
    main()
