"""The rows of jobs that are done, by job, in one file: what a run of some jobs does not measure stays in the table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.jobs.row import Row

__all__ = ["keep", "kept_rows"]

_FILE = "rows.json"


def kept_rows(folder: Path) -> dict[str, list[Row]]:
    """The newest rows of each job; none where nothing has run."""
    try:
        text = (folder / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {name: [Row(**row) for row in rows] for name, rows in json.loads(text).items()}


def keep(folder: Path, name: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Replace the rows of one job, and give them back."""
    kept = kept_rows(folder) | {name: list(rows)}
    new = folder / f"{_FILE}.new"
    new.write_text(json.dumps({job: [asdict(row) for row in own] for job, own in kept.items()}, indent=1) + "\n")
    new.replace(folder / _FILE)
    return rows
