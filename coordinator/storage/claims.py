"""Which update counts where, and which can be known at all: claims that gateways make for their sites.

Each is in one update at most. A row is written with the update that makes the claim, in one transaction, and stays when
that update has ended; where the update is compacted, the claim is kept in fewer bytes. One without an update was
withdrawn: its node has moved, and asked before any sum had it.
"""

from collections.abc import Iterable
from itertools import islice

from coordinator.records import UpdateRecord
from federation.protocol.claims import claim_of, claims_in, node_of, number_of
from federation.protocol.limits import COUNTED_MAX
from federation.storage.columns import blob
from federation.storage.sql import Database, Readable, Row
from federation.storage.sqlite import storing
from federation.types import RoundId, UpdateId, round_of

__all__ = ["Claims", "forget", "insert_claims", "read_claims"]


_WAITS = """
SELECT 1 FROM claims JOIN updates USING (update_id)
WHERE claims.node = ? AND status = 'stored' AND update_id <> ? AND updates.node <> ?
"""
"""Whether a node is in an update of somebody else that waits for the next version.

How many updates of one sender wait together is its quota's; a site that is cut off gathers several of each node.
"""


_COMPACTED = "SELECT 1 FROM compacted_claims WHERE claim = ?"


KNOWN_MAX = 65_536
"""Rounds and updates that are remembered; of more, the oldest rounds are forgotten, and the tables are asked again."""


class Claims:
    """A store's claims, read and written between its other transactions, and the updates that it may know.

    Nearly every offer is of an update that nobody has heard of. This process is the only one that writes, so it can say
    so of the rounds that it has reserved, and no statement is needed.

    Args:
        database: The store's.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._remembered = database, 0
        self._rounds: dict[RoundId, set[UpdateId]] = {}
        self._any = any(self._row(f"SELECT 1 FROM {table} LIMIT 1") for table in ("claims", "compacted_claims"))  # noqa: S608 - our own names

    def is_new(self, update: UpdateId) -> bool:
        """Whether nothing can be known of it; False where the tables must be asked."""
        try:
            known = None if self._any else self._rounds.get(round_of(update))
        except ValueError:  # no id that an update ever has
            return False
        return known is not None and update not in known

    def begins(self, round_id: RoundId) -> None:
        """This process reserves a round, inside of its transaction: what is known of it comes here from now on."""
        rows = self._database.execute("SELECT update_id FROM updates WHERE round = ?", round_id)
        known = self._rounds.setdefault(round_id, set())
        known |= {UpdateId(row["update_id"]) for row in rows}
        self._remembered += 1 + len(known)
        while self._remembered > KNOWN_MAX:
            self._remembered -= 1 + len(self._rounds.pop(next(iter(self._rounds))))

    def comes(self, record: UpdateRecord) -> None:
        """An update is about to be saved: whatever comes of that, it may be known from now on."""
        self._any = self._any or bool(record.members)
        known = self._rounds.get(record.round)
        if known is not None and record.update not in known:
            known.add(record.update)
            self._remembered += 1

    def counted(self, record: UpdateRecord) -> bytes:
        """Those of an update's claims that others have made, as many as a receipt can name; b"" where none is.

        A node that is in an update which waits for the next version is in nobody else's.

        Raises:
            StorageError: They cannot be read.
        """
        taken = (one for one in claims_in(record.members) if self._is_taken(one, record))
        with storing("claims"):
            return b"".join(islice(taken, COUNTED_MAX))

    def _is_taken(self, claim: bytes, record: UpdateRecord) -> bool:
        known = self._row("SELECT update_id FROM claims WHERE claim = ?", claim)
        elsewhere = known is not None and known["update_id"] != record.update
        compacted = known is None and self._row(_COMPACTED, number_of(claim)) is not None
        return elsewhere or compacted or self._row(_WAITS, node_of(claim), record.update, record.node) is not None

    def taken(self, claims: bytes, update: UpdateId | None = None) -> bytes:
        """Those that other updates than this one have made, as many as a receipt can name; withdrawn ones are nobody's.

        Raises:
            StorageError: They cannot be read.
        """
        with storing("claims"):
            return b"".join(islice((one for one in claims_in(claims) if self._is_made(one, update)), COUNTED_MAX))

    def _is_made(self, claim: bytes, update: UpdateId | None) -> bool:
        known = self._row("SELECT update_id FROM claims WHERE claim = ?", claim)
        if known is None:
            return self._row(_COMPACTED, number_of(claim)) is not None
        return known["update_id"] not in (None, update)

    def withdraw(self, claims: bytes) -> None:
        """Nobody may make these claims any more; one that was made stays.

        Raises:
            StorageError: Nothing was saved.
        """
        self._any = True
        with self._database.transaction("claim"):
            self._database.insert("claims", *(_row_of(one, None) for one in claims_in(claims)), conflict="IGNORE")

    def claimed(self, claims: bytes) -> set[UpdateId]:
        """The updates that make these claims, or are named by them and were stored without any.

        Raises:
            StorageError: They cannot be read.
        """
        query = "SELECT update_id FROM claims WHERE claim = ? AND update_id IS NOT NULL"
        with storing("claims"):
            rows = (self._row(query, one) for one in claims_in(claims))
            return {UpdateId(row["update_id"]) for row in rows if row is not None}

    def of(self, updates: Iterable[UpdateId]) -> bytes:
        """What a sum of these updates claims: what each of them claims, or itself; ascending.

        Raises:
            StorageError: They cannot be read.
        """
        found = set[bytes]()
        with storing("claims"):
            for update in updates:
                rows = self._database.execute("SELECT claim FROM claims WHERE update_id = ?", update).fetchall()
                found |= {blob(row["claim"]) for row in rows} or {claim_of(update)}
        return b"".join(sorted(found))

    def _row(self, query: str, *values: object) -> Row | None:
        row: Row | None = self._database.execute(query, *values).fetchone()
        return row


def read_claims(database: Readable) -> dict[UpdateId, set[bytes]]:
    """All that was claimed, by the update that does; one that claims only itself may have no entry."""
    found = dict[UpdateId, set[bytes]]()
    for row in database.execute("SELECT claim, update_id FROM claims WHERE update_id IS NOT NULL"):
        found.setdefault(UpdateId(row["update_id"]), set()).add(blob(row["claim"]))
    return found


def insert_claims(database: Database, record: UpdateRecord) -> None:
    """An update makes its claims."""
    rows = (_row_of(one, record.update) for one in claims_in(record.members))
    database.insert("claims", *rows, conflict="IGNORE")


def forget(database: Database, update: UpdateId) -> None:
    """An update is as if it had never been stored: it is counted elsewhere, or what it was made of is."""
    for table in ("claims", "updates", "payloads"):
        database.execute(f"DELETE FROM {table} WHERE update_id = ?", update)  # noqa: S608 - our own names


def _row_of(claim: bytes, update: UpdateId | None) -> dict[str, object]:
    return {"claim": claim, "node": node_of(claim), "update_id": update}
