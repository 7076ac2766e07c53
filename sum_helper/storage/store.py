"""The helper's SQLite store. Everything that could let one update be revealed twice is in this one file, keys included.

A copy that is put back forgets what was used since: never restore one. A new store has a new state id and new keys, so
that seeds that were sealed before open nowhere any more.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.errors import StorageError
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.releases import NOBODY_YET, Taking
from federation.privacy.seeds import HeldSeeds
from federation.protocol.sum_messages import SumRequest
from federation.storage.columns import UNSIGNED, Columns, DamagedRow, Kind, blob, real, whole
from federation.storage.folder import FolderLock
from federation.storage.sql import Readable
from federation.storage.sqlite import Connection, Database, Layout
from federation.storage.sqlite_reading import ReadOnlyDatabase
from federation.types import Digest, Incarnation, ModelVersion, NodeId, RunId, StateId, UpdateId
from sum_helper.records import AnsweredBatch, Charge, HeldUpdate, Identity, Member, Released
from sum_helper.storage.noised import NOISED_TABLES, add_noised_tables, pay, read_released, read_taking

__all__ = ["DATABASE", "HelperStore", "Totals", "open_read_only", "read_ledger", "read_totals"]

DATABASE: Final = "helper.sqlite"
"""File name of the database in the state folder."""

ANSWERS_KEPT: Final = 64
"""Batches of which the answers are kept, to be given again byte by byte; of more, the oldest are refused as gone."""

_REMEDY: Final = "stop, move the folder away, and begin with a new store: never put back a copy of this one"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    number: int
    kem: int
    private: bytes
    made_s: float


_UPDATE = Columns(HeldUpdate, names={"update": "update_id"})
_KEY = Columns(_Key)
_IDENTITY = Columns(Identity, kinds={"state_id": UNSIGNED, "incarnation": Kind("INTEGER")})
_UPDATES: Final = f"{_UPDATE.definitions(ticket='BLOB PRIMARY KEY')}, held_s REAL NOT NULL, batch BLOB"
_BATCHES: Final = "run TEXT NOT NULL, version INTEGER NOT NULL, members BLOB NOT NULL, revealed_s REAL NOT NULL"
_TABLES: Final = (
    "CREATE TABLE layout (number INTEGER NOT NULL)",
    f"CREATE TABLE identity ({_IDENTITY.definitions()}, secret BLOB NOT NULL)",
    f"CREATE TABLE keys ({_KEY.definitions(number='INTEGER PRIMARY KEY AUTOINCREMENT')})",
    f"CREATE TABLE updates ({_UPDATES}, UNIQUE (run, update_id))",
    "CREATE TABLE seeds (ticket BLOB NOT NULL, class INTEGER NOT NULL, seed BLOB NOT NULL, UNIQUE (ticket, class))",
    "CREATE TABLE bases (run TEXT NOT NULL, version INTEGER NOT NULL, digest BLOB NOT NULL, UNIQUE (run, version))",
    f"CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, batch BLOB UNIQUE NOT NULL, {_BATCHES})",
    "CREATE TABLE answers (batch BLOB NOT NULL, class INTEGER NOT NULL, payload BLOB, PRIMARY KEY (batch, class))",
    "CREATE TABLE ledger (node TEXT PRIMARY KEY, releases INTEGER NOT NULL, spent REAL NOT NULL)",
    *NOISED_TABLES,
    "CREATE INDEX updates_by_base ON updates (run, base_version)",
    "CREATE INDEX updates_unused ON updates (held_s) WHERE batch IS NULL",
)


_FORGET: Final = (
    "DELETE FROM updates WHERE run = ? AND base_version < ?",
    "DELETE FROM bases WHERE run = ? AND version < ?",
    "DELETE FROM batches WHERE run = ? AND version < ?",
)
_FORGET_SEEDS: Final = (
    "DELETE FROM seeds WHERE ticket NOT IN (SELECT ticket FROM updates) "
    "OR ticket IN (SELECT ticket FROM updates WHERE batch IS NOT NULL AND held_s < ?)"
)
_FORGET_KEYS: Final = "DELETE FROM keys WHERE number < (SELECT MAX(number) FROM keys WHERE made_s < ?)"
"""A key goes once the one that replaced it is so old: what was sealed to it has then come, or never will."""
_OLD_BATCHES: Final = "SELECT batch FROM batches ORDER BY number DESC LIMIT -1 OFFSET ?"
_FORGET_ANSWERS: Final = f"UPDATE answers SET payload = NULL WHERE batch IN ({_OLD_BATCHES})"  # noqa: S608 - our own


def _read_number(connection: Connection) -> int:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'layout'").fetchone() is None:
        return 0
    row = connection.execute("SELECT number FROM layout").fetchone()
    return 0 if row is None else whole(row[0])


def _write_number(connection: Connection, number: int) -> None:
    connection.execute("DELETE FROM layout")
    connection.execute("INSERT INTO layout (number) VALUES (?)", (number,))


LAYOUT: Final = Layout(tables=_TABLES, read=_read_number, write=_write_number, steps={2: add_noised_tables})


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a store holds, for people.

    Attributes:
        identity: Which store.
        held: Updates whose seeds are held.
        used: Updates that were part of a revealed sum, as far as they are remembered.
        batches: Sums that were revealed.
        newest: Run, version, members and seconds since 1970 of the newest one; None where there is none.
        key_s: When the newest key was made, in seconds since 1970; None where there is none.
    """

    identity: Identity
    held: int
    used: int
    batches: int
    newest: tuple[RunId, ModelVersion, int, float] | None
    key_s: float | None


class HelperStore:
    """What one helper must not forget; used by one thread.

    Args:
        folder: Made when it is missing; one process at a time.
        draw: Gives so many bytes of the system's randomness, for its identity, its secret and its keys.

    Attributes:
        identity: Which helper, and which start.
        secret: 32 bytes from which noise is drawn; nobody else has them.

    Raises:
        StorageError: It is in use, damaged, or of a newer release.
    """

    def __init__(self, folder: Path, *, draw: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._draw = draw
        self._lock = FolderLock(folder)
        try:
            self._database = Database(folder / DATABASE, LAYOUT, remedy=_REMEDY, role="helper")
            # What was deleted must not be found on the disk: pages are overwritten, and the log is emptied.
            self._database.execute("PRAGMA secure_delete = ON")
            self.identity, self.secret = self._begin()
            self._database.wait_later()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Close, and give the folder up."""
        with contextlib.suppress(StorageError):
            self.sync()
        self._database.close()
        self._lock.release()

    def sync(self) -> None:
        """Wait until all that was written is on the disk: nothing may be said of it before.

        Raises:
            StorageError: The disk has failed.
        """
        self._database.sync()

    def keys(self) -> tuple[KeyPair, ...]:
        """The keys that boxes can be sealed to, the newest first."""
        return tuple(pair for pair, _ in _keys(self._database))

    def new_key(self, kem: Kem) -> None:
        """Make a key; the ones before it go on opening until `sweep` deletes them."""
        with self._database.transaction("key"):
            row = {"kem": int(kem), "private": KeyPair.make(kem, self._draw).private, "made_s": time.time()}
            self._database.insert("keys", row)

    def key_age_s(self) -> float | None:
        """Seconds since the newest key was made; None where there is none."""
        found = _keys(self._database)
        return time.time() - found[0][1] if found else None

    def known_ticket(self, run: RunId, update: UpdateId) -> Digest | None:
        """The ticket that is held, or was used, under this name."""
        row = self._database.execute(
            "SELECT ticket FROM updates WHERE run = ? AND update_id = ?", run, update
        ).fetchone()
        return None if row is None else Digest(blob(row[0]))

    def base_digest(self, run: RunId, version: ModelVersion) -> Digest | None:
        """The digest under which a base version was first heard of."""
        row = self._database.execute("SELECT digest FROM bases WHERE run = ? AND version = ?", run, version).fetchone()
        return None if row is None else Digest(blob(row[0]))

    def newest_version(self, run: RunId) -> int:
        """The newest version for which a sum was revealed; 0 where there is none."""
        row = self._database.execute("SELECT MAX(version) FROM batches WHERE run = ?", run).fetchone()
        return whole(row[0] or 0)

    def held_count(self) -> int:
        """Updates whose seeds are held."""
        return _count(self._database, "SELECT COUNT(*) FROM updates WHERE batch IS NULL")

    def hold(self, update: HeldUpdate, seeds: HeldSeeds) -> None:
        """Keep an update and its seeds.

        Raises:
            StorageError: Nothing of it is in the store.
        """
        row = _UPDATE.row(update) | {"held_s": time.time(), "batch": None}
        base = {"run": update.run, "version": update.base_version, "digest": update.base_digest}
        rows = [{"ticket": update.ticket, "class": number, "seed": seed} for number, seed in seeds.by_class().items()]
        with self._database.transaction("held"):
            self._database.insert("updates", row)
            self._database.insert("bases", base, conflict="IGNORE")
            self._database.insert("seeds", *rows)

    def members(self, tickets: Iterable[Digest]) -> dict[Digest, Member]:
        """What is known of these updates."""
        found: dict[Digest, Member] = {}
        for ticket in tickets:
            row = self._database.execute("SELECT * FROM updates WHERE ticket = ?", ticket).fetchone()
            if row is None:
                continue
            update = _UPDATE.record(row)
            there = self._database.execute("SELECT class FROM seeds WHERE ticket = ?", ticket).fetchall()
            taking = self.taking(update.run, update.node)
            paid = self._database.execute("SELECT spent FROM ledger WHERE node = ?", update.node).fetchone()
            found[ticket] = Member(
                held=update,
                batch=None if row["batch"] is None else Digest(blob(row["batch"])),
                classes=frozenset(whole(one[0]) for one in there),
                spent=0.0 if paid is None else real(paid[0]),
                taking=NOBODY_YET if taking is None else taking,
            )
        return found

    def taking(self, run: RunId, node: NodeId) -> Taking | None:
        """A node's part in the noised sums of a run; None where it was in none."""
        return read_taking(self._database, run, node)

    def released(self, run: RunId) -> Released:
        """The noised sums of a run."""
        return read_released(self._database, run)

    def batch(self, batch: Digest) -> AnsweredBatch | None:
        """A batch that was answered."""
        row = self._database.execute("SELECT members FROM batches WHERE batch = ?", batch).fetchone()
        if row is None:
            return None
        answers = self._database.execute("SELECT class, payload IS NULL FROM answers WHERE batch = ?", batch).fetchall()
        there = frozenset(whole(number) for number, lost in answers if not lost)
        gone = frozenset(whole(number) for number, lost in answers if lost)
        return AnsweredBatch(batch=batch, members=blob(row[0]), classes=there, gone=gone)

    def answer(self, batch: Digest, number: int) -> bytes | None:
        """The sum of one class, as it was given first."""
        row = self._database.execute(
            "SELECT payload FROM answers WHERE batch = ? AND class = ?", batch, number
        ).fetchone()
        return None if row is None or row[0] is None else blob(row[0])

    def seeds(self, tickets: Sequence[Digest], number: int) -> tuple[tuple[UpdateId, bytes], ...]:
        """Each member's name and its seed of one class."""
        found = []
        for ticket in tickets:
            statement = (
                "SELECT update_id, seed FROM seeds JOIN updates USING (ticket) WHERE seeds.ticket = ? AND class = ?"
            )
            row = self._database.execute(statement, ticket, number).fetchone()
            if row is None:
                raise DamagedRow(f"the seed of class {number} of an update that is held is gone")
            found.append((UpdateId(row[0]), blob(row[1])))
        return tuple(found)

    def save_sums(self, request: SumRequest, sums: Mapping[int, bytes], charge: Charge) -> None:
        """Mark the members as used, charge the ledger, delete the seeds that were added, and keep the answers.

        Args:
            request: Whose members.
            sums: By class.
            charge: What its members pay now.

        Raises:
            StorageError: Nothing of it is in the store, or a member is used in another batch, or the number of a noised
                sum was given away: our own bug.
        """
        batch, tickets = request.batch, request.tickets
        with self._database.transaction("used"):
            for ticket in tickets:
                done = self._database.execute(
                    "UPDATE updates SET batch = ? WHERE ticket = ? AND (batch IS NULL OR batch = ?)",
                    batch,
                    ticket,
                    batch,
                )
                if done.rowcount != 1:
                    raise StorageError("a member of the batch is used in another one: nothing is revealed")
                for number in sums:
                    self._database.execute("DELETE FROM seeds WHERE ticket = ? AND class = ?", ticket, number)
            row = {"batch": batch, "run": request.run, "version": request.version, "members": request.members}
            self._database.insert("batches", row | {"revealed_s": time.time()}, conflict="IGNORE")
            answers = [{"batch": batch, "class": number, "payload": payload} for number, payload in sums.items()]
            self._database.insert("answers", *answers)
            pay(self._database, request.run, charge)
            self._database.execute(_FORGET_ANSWERS, ANSWERS_KEPT)
        self._empty_log()

    def sweep(self, *, keep_s: float, versions_back: int) -> int:
        """Delete seeds that nobody has asked for in time, keys that only such ones were sealed to, and old names.

        Args:
            keep_s: How long unused seeds are kept, in seconds of the wall clock.
            versions_back: Used updates of bases so many versions older than the newest batch are forgotten: their
                tickets are refused by their base version.

        Returns:
            How many updates were given up unused.
        """
        before = time.time() - keep_s
        runs = self._database.execute("SELECT run, MAX(version) FROM batches GROUP BY run").fetchall()
        with self._database.transaction("sweep"):
            given_up = self._database.execute("DELETE FROM updates WHERE batch IS NULL AND held_s < ?", before).rowcount
            for run, newest in runs:
                for statement in _FORGET:
                    self._database.execute(statement, run, whole(newest) - versions_back)
            self._database.execute(_FORGET_SEEDS, before)
            self._database.execute("DELETE FROM answers WHERE batch NOT IN (SELECT batch FROM batches)")
            self._database.execute(_FORGET_KEYS, before)
        self._empty_log()
        return int(given_up)

    def _empty_log(self) -> None:
        """The log still has the pages of before: take it back into the file, and cut it."""
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _begin(self) -> tuple[Identity, bytes]:
        with self._database.transaction("start"):
            row = self._database.execute("SELECT * FROM identity").fetchone()
            if row is None:
                number = int.from_bytes(self._draw(8), "big") or 1
                made, secret = Identity(state_id=StateId(number), incarnation=Incarnation(1)), self._draw(32)
                self._database.insert("identity", _IDENTITY.row(made) | {"secret": secret})
                return made, secret
            self._database.execute("UPDATE identity SET incarnation = incarnation + 1")
            found, secret = _IDENTITY.record(row), blob(row["secret"])
        return Identity(state_id=found.state_id, incarnation=Incarnation(found.incarnation + 1)), secret


def open_read_only(folder: Path) -> ReadOnlyDatabase:
    """Open a helper's database to read, also while its process runs.

    Raises:
        StorageError: There is none, it is of a newer release, or it cannot be read.
    """
    return ReadOnlyDatabase(folder / DATABASE, LAYOUT, missing="has a helper run with this state folder?")


def read_totals(database: Readable) -> Totals:
    """What a store holds."""
    row = database.execute("SELECT run, version, LENGTH(members) / 16, revealed_s FROM batches ORDER BY number DESC")
    newest, keys = row.fetchone(), _keys(database)
    return Totals(
        identity=_IDENTITY.record(database.execute("SELECT * FROM identity").fetchone()),
        held=_count(database, "SELECT COUNT(*) FROM updates WHERE batch IS NULL"),
        used=_count(database, "SELECT COUNT(*) FROM updates WHERE batch IS NOT NULL"),
        batches=_count(database, "SELECT COUNT(*) FROM batches"),
        newest=None if newest is None else (newest[0], newest[1], newest[2], newest[3]),
        key_s=keys[0][1] if keys else None,
    )


def read_ledger(database: Readable) -> dict[NodeId, tuple[int, float]]:
    """By node: in how many revealed sums it was, and the sum of 1 / z^2 over those with noise."""
    rows = database.execute("SELECT node, releases, spent FROM ledger ORDER BY node").fetchall()
    return {NodeId(node): (whole(releases), real(spent)) for node, releases, spent in rows}


def _keys(database: Readable) -> list[tuple[KeyPair, float]]:
    rows = database.execute("SELECT kem, private, made_s FROM keys ORDER BY number DESC").fetchall()
    return [(_pair(kem, private), real(made_s)) for kem, private, made_s in rows]


def _pair(kem: object, private: object) -> KeyPair:
    try:
        return KeyPair(kem=Kem(whole(kem)), private=blob(private))
    except ValueError as error:
        raise DamagedRow(f"a key is damaged: {error}") from error


def _count(database: Readable, statement: str) -> int:
    return int(database.execute(statement).fetchone()[0])
