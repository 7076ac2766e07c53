"""``make jobs``: run the reference jobs and write their table.

    python -m benchmarks.jobs [--only J2,J5] [--data DIR] [--out out/jobs] [--write docs/reference/jobs.md] [--json]

Every job's rows are kept, with their date, as ``rows.json`` in the folder of ``--out`` as soon as it is done: the table
is made of the newest rows of all jobs, those of this run or of earlier ones. It is only written to a page when there
are rows of every job.

Exit code 1: a figure of this run misses its bar. A job whose data is absent is skipped, and the reason is printed.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.jobs.row import Row, as_markdown, keep, kept_rows
from benchmarks.table import put_between
from federation.errors import TaskError

ORDER = ("J0", "J1", "J2", "J3", "J3r", "J4", "J5", "J6", "simulator", "SKAB", "FD001")


def main() -> int:
    """Run from the command line."""
    options = _options()
    from benchmarks.jobs.real import REAL  # noqa: PLC0415 - torch, once the options are known to be right
    from benchmarks.jobs.simulated import SIMULATED  # noqa: PLC0415 - as above
    from benchmarks.jobs.skab import skab  # noqa: PLC0415 - as above
    from benchmarks.jobs.turbofan import fd001  # noqa: PLC0415 - as above

    jobs, rows, skipped = REAL | SIMULATED | {"SKAB": skab, "FD001": fd001}, list[Row](), dict[str, str]()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        try:
            found = list(jobs[name](options.data, options.out))
        except TaskError as error:
            skipped[name] = str(error)
            continue
        today = datetime.now(UTC).date().isoformat()
        rows += keep(options.out, name, [row.measured_on(today) for row in found])
        for row in found:
            print(" | ".join(row.cells()), file=sys.stderr, flush=True)
    _tell(rows, skipped, as_json=options.json)
    if options.write is not None:
        _write_page(options.write, kept_rows(options.out))
    return 0 if all(row.reached for row in rows) else 1


def _write_page(page: Path, kept: dict[str, list[Row]]) -> None:
    if missing := [name for name in ORDER if not kept.get(name)]:
        print(f"{page} stays as it is: not measured yet: {', '.join(missing)}", file=sys.stderr)
        return
    put_between(page, "jobs", as_markdown(row for name in ORDER for row in kept[name]))


def _tell(rows: list[Row], skipped: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"jobs": [asdict(row) | {"reached": row.reached} for row in rows], "skipped": skipped}))
        return
    print(as_markdown(rows))
    for name, why in skipped.items():
        print(f"not run: {name}: {why}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the reference jobs.")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ORDER))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDMQ_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("out/jobs"))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.only) - set(ORDER):
        parser.error(f"no such job: {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
