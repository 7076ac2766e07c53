"""The noised sums of a run in the coordinator's database: what each has cost its members; nothing is taken back."""

from collections.abc import Mapping

from coordinator.records import ReleaseLedger, ReleaseRecord
from federation.errors import LocalProtocolError
from federation.privacy.taking import Taking
from federation.storage.sql import Database, Readable
from federation.types import Digest, ModelVersion, NodeId

__all__ = ["charge_release", "raise_takings", "read_ledger", "read_releases"]

_OWN = "noised_here"
"""Key in `meta`: to so many sums the coordinator itself has added the noise."""

_TAKE = (
    "INSERT INTO takings VALUES (?, 1, ?, ?) ON CONFLICT (node) DO UPDATE"
    " SET releases = takings.releases + 1, last = excluded.last, spent = takings.spent + excluded.spent"
)
_RAISE = (
    "INSERT INTO takings VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE"
    " SET releases = MAX(takings.releases, excluded.releases), last = MAX(takings.last, excluded.last),"
    " spent = MAX(takings.spent, excluded.spent)"
)


def charge_release(database: Database, record: ReleaseRecord, *, by_coordinator: bool = False) -> None:
    """Charge a sum's members, in the transaction that freezes its batch; the same again does nothing.

    Args:
        database: The coordinator's, in a transaction.
        record: What it costs whom.
        by_coordinator: Whether the coordinator itself adds the noise: then it is the transaction of the version.

    Raises:
        LocalProtocolError: Its number was given to another batch.
    """
    known = database.execute("SELECT batch FROM releases WHERE number = ?", record.release).fetchone()
    if known is not None:
        if bytes(known["batch"]) != record.batch:
            raise LocalProtocolError(f"noised sum {record.release} is of another batch")
        return
    row = {
        "number": record.release,
        "batch": record.batch,
        "version": record.version,
        "noise": record.noise,
        "clip": record.clip,
        "epsilon": record.epsilon,
        "delta": record.delta,
    }
    database.insert("releases", row)
    prices = ({"number": record.release, "node": node, "price": price} for node, price in record.prices.items())
    database.insert("prices", *prices)
    for node, price in record.prices.items():
        database.execute(_TAKE, node, record.release, price)
    if by_coordinator:
        own = {"key": _OWN, "value": _read_own(database) + 1}
        database.insert("meta", own, conflict="REPLACE")


def raise_takings(database: Database, takings: Mapping[NodeId, Taking]) -> None:
    """Take over what a helper knows better of these nodes: this store may have been restored from a backup.

    Raises:
        StorageError: Nothing was saved.
    """
    with database.transaction("ledger"):
        for node, taking in takings.items():
            database.execute(_RAISE, node, taking.releases, taking.last, taking.spent)


def _read_own(database: Readable) -> int:
    """How many of the noised sums have the coordinator's own noise."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", _OWN).fetchone()
    return 0 if row is None else int(row["value"])


def read_ledger(database: Readable) -> ReleaseLedger:
    """What the next noised sum is decided by."""
    newest = database.execute("SELECT * FROM releases ORDER BY number DESC LIMIT 1").fetchone()
    takings = {
        NodeId(row["node"]): Taking(releases=row["releases"], last=row["last"], spent=row["spent"])
        for row in database.execute("SELECT * FROM takings ORDER BY node")
    }
    if newest is None:
        return ReleaseLedger(takings=takings)
    return ReleaseLedger(
        releases=newest["number"] + 1,
        own=_read_own(database),
        takings=takings,
        epsilon=newest["epsilon"],
        delta=newest["delta"],
    )


def read_releases(database: Readable) -> list[ReleaseRecord]:
    """All noised sums, in order."""
    prices: dict[int, dict[NodeId, float]] = {}
    for row in database.execute("SELECT * FROM prices ORDER BY number, node"):
        prices.setdefault(row["number"], {})[NodeId(row["node"])] = row["price"]
    return [
        ReleaseRecord(
            release=row["number"],
            batch=Digest(row["batch"]),
            version=ModelVersion(row["version"]),
            noise=row["noise"],
            clip=row["clip"],
            epsilon=row["epsilon"],
            delta=row["delta"],
            prices=prices.get(row["number"], {}),
        )
        for row in database.execute("SELECT * FROM releases ORDER BY number")
    ]
