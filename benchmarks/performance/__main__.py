"""``make bench``: every figure that has a bar, the page ``docs/reference/performance.md``, and the README's table.

    python -m benchmarks.performance [--only main,codec] [--write docs/reference] [--readme README.md] [--draw]

Each part is a program of this folder, run alone with ``--json``. What it said is kept at once, with date, machine and
load, so that Ctrl-C loses only the part that ran, and the others stay on the page from earlier runs. Figures are right
on a quiet machine only: the load before each part is on the page.

Exit code 1: a figure of this run misses its bar, or a part failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.performance.parts import PARTS, Measured, Part
from benchmarks.performance.quoted import as_table
from benchmarks.performance.record import Record, as_page, machine, read, write
from benchmarks.table import put_between, show

RECORDS, PAGE = "performance.json", "performance.md"


def run(part: Part) -> Measured:
    """One program's figures; that it failed is one that is missing, with its last words."""
    command = [sys.executable, "-m", part.module, *part.options, "--json"]
    # An installed program is compiled. Where this variable is set, one that runs from its sources compiles all of them
    # at each start: 0.4 to 0.6 s of processor time, which nobody has who installed it.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = inherited | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=part.limit_s)
    except subprocess.TimeoutExpired:
        return Measured((), {"all of it": f"not done after {part.limit_s:.0f} s"})
    said = done.stdout.decode("utf-8", "replace").strip()
    try:
        return part.read(json.loads(said if said.startswith(("{\n", "[\n")) else said.splitlines()[-1]))
    except (ValueError, LookupError, TypeError) as error:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Measured((), {"all of it": words[-1] if words else f"exit code {done.returncode}, {error!r}"})


def measure(name: str, records: dict[str, Record], file: Path, where: str) -> Record:
    """Run a part and keep what it said."""
    began, load = time.monotonic(), os.getloadavg()[0]
    sys.stderr.write(f"bench: {PARTS[name].command} (load {load:.1f})\n")
    found = run(PARTS[name])
    took_s = time.monotonic() - began
    record = Record(
        day=datetime.now(UTC).date().isoformat(),
        took_s=round(took_s, 1),
        load=round(load, 2),
        machine=where,
        figures=tuple(found.figures),
        skipped=dict(found.skipped),
    )
    # A run that failed does not replace one that did not.
    if record.figures or name not in records:
        records[name] = record
        write(file, records)
    return record


def draw(records: Mapping[str, Record], folder: Path | None, readme: Path | None) -> None:
    """Put what is kept on the page and into the README, where there are such."""
    if folder is not None:
        put_between(folder / PAGE, "performance", as_page(records))
    if readme is not None:
        put_between(readme, "figures", as_table(records))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description="Every figure that has a bar, and their page.")
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated parts (default: all): %(default)s")
    parser.add_argument("--write", type=Path, help=f"folder of {PAGE} and {RECORDS}; without it nothing is written")
    parser.add_argument("--readme", type=Path, help="page whose table of figures is drawn from the same records")
    parser.add_argument("--draw", action="store_true", help="measure nothing: draw the page from what is kept")
    options = parser.parse_args(arguments)
    names = [] if options.draw else options.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    file = (options.write or Path("out/bench")) / RECORDS
    records, good, where = read(file), True, machine() if names else ""
    for name in names:
        record = measure(name, records, file, where)
        good &= show(PARTS[name].title, list(record.figures), as_json=False, skipped=dict(record.skipped))
        good &= bool(record.figures)
        draw(records, options.write, options.readme)
    if options.draw:
        draw(records, options.write, options.readme)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
