"""What a site's store says while a gateway may be writing it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from coordinator.storage.database import DATABASE, open_read_only
from federation.storage.folder import lock_holder
from federation.types import ModelVersion, RoundId, RunId, UpdateId

_COUNTED = """
SELECT node, status, reason, COUNT(*) AS number FROM updates GROUP BY node, status, reason UNION ALL
SELECT node, status, reason, updates FROM compacted_sums
"""

__all__ = ["Owed", "SiteState", "newest_run", "read_site"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A sum that has no verdict from above.

    Attributes:
        update: What it is called there.
        base_version: The version that its members were trained from.
        num_examples: Their examples.
        frame_bytes: Bytes of the exact sum.
    """

    update: UpdateId
    base_version: ModelVersion
    num_examples: int
    frame_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteState:
    """Where one run stands at a site.

    Attributes:
        run: Which run above.
        pid: The process that works on it, or None.
        version: The site's newest version.
        order: The newest round above that the site was asked in, or None.
        nodes: Nodes that have sent an update.
        updates: How many of them have which status.
        refused: Why those are refused that are: how many, by reason.
        owed: Sums without a verdict.
    """

    run: RunId
    pid: str | None
    version: ModelVersion | None
    order: RoundId | None
    nodes: int
    updates: dict[str, int]
    refused: dict[str, int]
    owed: tuple[Owed, ...]


def newest_run(folder: Path) -> Path | None:
    """The state folder of the run that was worked on last, among those of one gateway; None where there is none."""
    files = list(folder.glob(f"*/{DATABASE}")) if folder.is_dir() else []
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None


def read_site(folder: Path) -> SiteState:
    """Read one run's state folder.

    Raises:
        StorageError: It cannot be read.
    """
    database = open_read_only(folder)
    try:
        counted = database.execute(_COUNTED).fetchall()
        updates, refused = Counter[str](), Counter[str]()
        for row in counted:
            updates[str(row["status"])] += int(row["number"])
            refused[str(row["reason"])] += int(row["number"]) if row["status"] == "refused" else 0
        order = database.execute("SELECT MAX(round) FROM gateway_orders").fetchone()[0]
        sums = database.execute("SELECT * FROM gateway_sums ORDER BY round").fetchall()
        return SiteState(
            run=RunId(folder.name),
            pid=lock_holder(folder),
            version=database.execute("SELECT MAX(version) FROM versions").fetchone()[0],
            order=order,
            nodes=len({row["node"] for row in counted}),
            updates=dict(updates),
            refused=dict(+refused),
            owed=tuple(
                Owed(
                    update=UpdateId(row["update_id"]),
                    base_version=ModelVersion(row["base_version"]),
                    num_examples=int(row["num_examples"]),
                    frame_bytes=len(row["frame"]),
                )
                for row in sums
            ),
        )
    finally:
        database.close()
