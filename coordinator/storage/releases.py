"""The noised sums of a run in the coordinator's database: what each has cost its members; nothing is taken back."""

from collections.abc import Mapping
from dataclasses import astuple

from coordinator.records import ReleaseLedger, ReleaseRecord
from federation.errors import LocalProtocolError
from federation.privacy.taking import NOBODY_YET, Drawn, Participation, Plan, Taking
from federation.storage.sql import Database, Readable
from federation.types import Digest, ModelVersion, NodeId

__all__ = [
    "begin_noise",
    "charge_lost",
    "charge_release",
    "noised_here",
    "raise_takings",
    "read_ledger",
    "read_releases",
    "take_over",
]

_OWN = "noised_here"
"""Key in `meta`: to so many sums the coordinator itself has added the noise."""

_NOISE = "noise_here"
"""Key in `meta`: the coordinator adds noise, of this deviation in units of the clip: the least that it ever was."""

_FLOOR = "noised_floor"
"""Key in `meta`: in how many sums each node may have been of which this store has lost the accounts, and their mu^2."""

_PLAN = "noise_plan"
"""Key in `meta`: how the noise is correlated, as bandwidth, sums, separation and a node's sums; missing: it is not."""

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
    floor = _read_floor(database)
    if floor.releases:
        rows = (_account(node, floor) for node in record.prices)
        database.insert("takings", *rows, conflict="IGNORE")
    for node, price in record.prices.items():
        database.execute(_TAKE, node, record.release, price)
    if record.plan is not None:
        planned = f"{record.plan.bandwidth} " + " ".join(map(str, astuple(record.plan.participation)))
        database.insert("meta", {"key": _PLAN, "value": planned}, conflict="REPLACE")
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


def begin_noise(database: Database, noise: float) -> None:
    """From now on the coordinator itself adds noise of this deviation, in units of the clip; in a transaction."""
    known = _read_noise(database)
    least = noise if known is None else min(noise, known)
    database.insert("meta", {"key": _NOISE, "value": least.hex()}, conflict="REPLACE")


def noised_here(database: Readable) -> bool:
    """Whether the coordinator of this run adds noise, or has added some."""
    return _read_noise(database) is not None


def _read_noise(database: Readable) -> float | None:
    row = database.execute("SELECT value FROM meta WHERE key = ?", _NOISE).fetchone()
    return None if row is None else float.fromhex(str(row["value"]))


def charge_lost(database: Database, sums: int) -> None:
    """Charge every node for so many sums of which the accounts are lost, in a transaction: it may have been in each.

    Nodes that this store does not know of may have been, too.
    """
    noise = _read_noise(database)
    if noise is None or sums <= 0:
        return
    price, floor = sums * noise**-2, _read_floor(database)
    database.execute("UPDATE takings SET releases = releases + ?, spent = spent + ?", sums, price)
    raised = Taking(releases=floor.releases + sums, last=-1, spent=floor.spent + price)
    _write_floor(database, raised)


def take_over(database: Database, ledger: ReleaseLedger) -> None:
    """Begin with what another run over the same data has spent, in a transaction; this one has no account yet."""
    database.insert("takings", *(_account(node, taking) for node, taking in ledger.takings.items()))
    if ledger.drawn.here is not None:
        begin_noise(database, ledger.drawn.here)
    if ledger.floor.releases:
        _write_floor(database, ledger.floor)


def _account(node: NodeId, taking: Taking) -> dict[str, object]:
    return {"node": node, "releases": taking.releases, "last": -1, "spent": taking.spent}


def _read_floor(database: Readable) -> Taking:
    row = database.execute("SELECT value FROM meta WHERE key = ?", _FLOOR).fetchone()
    if row is None:
        return NOBODY_YET
    releases, spent = str(row["value"]).split()
    return Taking(releases=int(releases), last=-1, spent=float.fromhex(spent))


def _write_floor(database: Database, floor: Taking) -> None:
    said = f"{floor.releases} {floor.spent.hex()}"
    database.insert("meta", {"key": _FLOOR, "value": said}, conflict="REPLACE")


def _read_plan(database: Readable) -> Plan | None:
    row = database.execute("SELECT value FROM meta WHERE key = ?", _PLAN).fetchone()
    if row is None:
        return None
    bandwidth, releases, separation, participations = map(int, str(row["value"]).split())
    kept = Participation(releases=releases, separation=separation, participations=participations)
    return Plan(bandwidth=bandwidth, participation=kept)


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
    floor = _read_floor(database)
    bounds = database.execute("SELECT MIN(noise) AS noise, MAX(clip) AS clip FROM releases").fetchone()
    drawn = Drawn(noise=bounds["noise"], clip=bounds["clip"], here=_read_noise(database), plan=_read_plan(database))
    if newest is None:
        return ReleaseLedger(takings=takings, floor=floor, drawn=drawn)
    return ReleaseLedger(
        releases=newest["number"] + 1,
        own=_read_own(database),
        takings=takings,
        floor=floor,
        epsilon=newest["epsilon"],
        delta=newest["delta"],
        drawn=drawn,
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
