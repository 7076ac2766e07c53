"""What each update took of the node's privacy budget: rows that are only ever added to (FED-180).

A row is written in the transaction that puts its update into the outbox, so an update that anybody can have seen is
charged, and one that was lost with a crash is not. Rows stay when their update is settled and when their run is
forgotten: what was told cannot be taken back. Rows without an update are what the coordinator knew better.
"""

from collections.abc import Callable, Iterable
from typing import Final

from federation.storage.sql import Readable
from federation.storage.sqlite import Connection, Row
from federation.types import RunId, SampledSteps, UpdateId

__all__ = ["SPENT_TABLE", "add_ledger", "charge", "read_charges", "read_ledgers"]

SPENT_TABLE: Final = """CREATE TABLE IF NOT EXISTS spent (run TEXT NOT NULL, update_id TEXT NOT NULL,
    sampling_rate REAL NOT NULL, noise REAL NOT NULL, steps INTEGER NOT NULL,
    PRIMARY KEY (run, update_id, sampling_rate, noise)) WITHOUT ROWID"""

_TOTALS = """SELECT run, sampling_rate, noise, SUM(steps) FROM spent
    GROUP BY run, sampling_rate, noise ORDER BY run, sampling_rate, noise"""

_ROWS = "SELECT * FROM spent WHERE run = ? ORDER BY update_id, sampling_rate, noise"

_ADD = """INSERT INTO spent VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run, update_id, sampling_rate, noise) DO UPDATE SET steps = steps + excluded.steps"""

Query = Callable[..., list[Row]]
Change = Callable[..., None]


def add_ledger(connection: Connection) -> None:
    """Layout 3: the table; nothing was charged before it."""
    connection.execute(SPENT_TABLE)


def read_ledgers(query: Query) -> dict[RunId, tuple[SampledSteps, ...]]:
    """The ledger of each run, those that were forgotten among them.

    Args:
        query: Gives all rows of a statement.
    """
    ledgers: dict[RunId, tuple[SampledSteps, ...]] = {}
    for run, rate, noise, steps in query(_TOTALS):
        ledgers[run] = (*ledgers.get(run, ()), SampledSteps(sampling_rate=rate, noise=noise, steps=steps))
    return ledgers


def read_charges(database: Readable, run: RunId) -> dict[UpdateId, tuple[SampledSteps, ...]]:
    """What each update of a run was charged with; what no update is known for stands by the empty name."""
    charges: dict[UpdateId, tuple[SampledSteps, ...]] = {}
    for row in database.execute(_ROWS, run):
        update = UpdateId(row["update_id"])
        steps = SampledSteps(sampling_rate=row["sampling_rate"], noise=row["noise"], steps=row["steps"])
        charges[update] = (*charges.get(update, ()), steps)
    return charges


def charge(query: Query, change: Change, place: tuple[RunId, UpdateId | None], spent: Iterable[SampledSteps]) -> None:
    """Charge what a run's ledger lacks of ``spent``, inside of a transaction; nothing is ever taken back.

    Args:
        query: Gives all rows of a statement.
        change: Runs a statement.
        place: The run, and the update that took it; None where nobody knows which.
        spent: All that was spent in the run.
    """
    if not (spent := tuple(spent)):
        return
    run, update = place
    known = {(each.sampling_rate, each.noise): each.steps for each in read_ledgers(query).get(run, ())}
    for each in spent:
        missing = each.steps - known.get((each.sampling_rate, each.noise), 0)
        if missing > 0:
            change(_ADD, run, update or "", each.sampling_rate, each.noise, missing)
