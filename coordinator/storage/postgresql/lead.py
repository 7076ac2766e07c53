"""Who leads a run: one process at a time, by a lock, a lease and a term.

The lock is the server's advisory lock of a session: it goes with the process that holds it, at once where its machine
still runs. The lease is for a process that stands still, and for a machine that is gone without a word: who does not
renew it in time is disconnected by the next one. The term is what protects the data: each leader's is one higher, and
every transaction compares it with the one in `fence`, so that a leader that was overtaken writes nothing, whatever it
believes. Only the server's clock decides.
"""

import secrets
import threading
from collections.abc import Callable
from contextlib import closing

from coordinator.storage.parts import Leader
from federation.errors import LeadershipLost, StorageError
from federation.storage.dialect import translated
from federation.storage.postgresql import PostgresSession

__all__ = ["Lead", "leader_in", "read_leader", "take_lead"]

RENEWALS = 4
"""A leader renews its lease so often in the time that it lasts."""

POLL_S = 1.0
"""How often a standby looks whether the lease has run out, in seconds; the lock it gets at once when it is free."""

_COLUMNS = (
    "one INTEGER PRIMARY KEY CHECK (one = 1), session TEXT NOT NULL, holder TEXT NOT NULL, term INTEGER NOT NULL, "
    "lease_s REAL NOT NULL, since TIMESTAMPTZ NOT NULL, renewed TIMESTAMPTZ NOT NULL"
)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS fence (one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER NOT NULL)",
    "INSERT INTO fence VALUES (1, 0) ON CONFLICT DO NOTHING",
    f"CREATE TABLE IF NOT EXISTS lead ({_COLUMNS})",
)
_LOCK = "hashtextextended('fedmq ' || current_schema(), 0)"
_LEADER = """
SELECT session, holder, term, lease_s, EXTRACT(EPOCH FROM clock_timestamp() - since)::float8 AS since_s,
    EXTRACT(EPOCH FROM clock_timestamp() - renewed)::float8 AS renewed_s
FROM lead
"""
_END = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name = %s"
_TAKE = "UPDATE fence SET term = term + 1 RETURNING term"
_SAY = """
INSERT INTO lead VALUES (1, %s, %s, %s, %s, clock_timestamp(), clock_timestamp())
ON CONFLICT (one) DO UPDATE SET session = excluded.session, holder = excluded.holder, term = excluded.term,
    lease_s = excluded.lease_s, since = excluded.since, renewed = excluded.renewed
"""
_RENEW = "UPDATE lead SET renewed = clock_timestamp() WHERE term = %s RETURNING term"


class Lead:
    """The lead of a run, renewed by a thread of its own until it is released or lost.

    Args:
        session: The connection that holds the lock.
        name: The name of this leader's connections.
        term: Its number.
        lease_s: How long it lasts without a renewal, in seconds.

    Attributes:
        name: The name of this leader's connections.
        term: Its number.
    """

    def __init__(self, session: PostgresSession, name: str, term: int, lease_s: float) -> None:
        self.name, self.term = name, term
        self._session, self._lease_s = session, lease_s
        self._released = threading.Event()
        self._lost: Callable[[str], object] = lambda _why: None
        self._thread = threading.Thread(target=self._renew, name="lead", daemon=True)
        self._thread.start()

    def watch(self, lost: Callable[[str], object]) -> None:
        """Have somebody told, by the thread, why the lead was lost; whoever writes hears of it by himself."""
        self._lost = lost

    def release(self) -> None:
        """Give the lead up: a standby gets it at once."""
        self._released.set()
        self._thread.join()
        self._session.close()

    def _renew(self) -> None:
        while not self._released.wait(self._lease_s / RENEWALS):
            try:
                held = bool(self._session.own(_RENEW, self.term))
                why = "another coordinator leads this run"
            except StorageError as error:
                held, why = False, str(error)
            if not held:
                self._lost(why)
                return


def take_lead(
    url: str,
    holder: str,
    *,
    lease_s: float,
    waits: Callable[[Leader | None], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Lead | None:
    """Wait until nobody else leads, and lead.

    Args:
        url: The database.
        holder: Who wants it, for people.
        lease_s: How long the lead lasts without a renewal, in seconds.
        waits: Hears whom it waits for, again and again.
        stopped: Whether to give up.

    Returns:
        The lead; None where it was given up.

    Raises:
        StorageError: The database cannot be used.
    """
    name = f"fedmq-{secrets.token_hex(8)}"
    session = PostgresSession(url, name, patience_s=lease_s)
    try:
        if not _wait(session, waits, stopped):
            session.close()
            return None
        term = _begin_term(session, name, holder, lease_s)
    except BaseException:
        session.close()
        raise
    return Lead(session, name, term, lease_s)


def read_leader(session: PostgresSession) -> Leader | None:
    """Who leads, or has led last; None before the first one."""
    rows = session.own(_LEADER)
    return Leader(**{key: rows[0][key] for key in rows[0].keys()}) if rows else None  # noqa: SIM118 - no mapping


def leader_in(url: str) -> Leader | None:
    """Who leads the run of a database, or has led it last; None where nobody ever has.

    Raises:
        StorageError: It cannot be read.
    """
    with closing(PostgresSession(url, "fedmq-reader")) as session:
        there = session.own("SELECT to_regclass('lead')::text AS found")[0]["found"]
        return None if there is None else read_leader(session)


def _wait(session: PostgresSession, waits: Callable[[Leader | None], None], stopped: Callable[[], bool]) -> bool:
    session.script("BEGIN", f"SELECT pg_advisory_xact_lock({_LOCK} + 1)", *map(translated, _TABLES), "COMMIT")
    session.script(f"SET lock_timeout = '{POLL_S}s'")
    while not stopped():
        row = session.script(f"SELECT pg_try_advisory_lock({_LOCK})")
        if row is not None and row[0]:
            return True
        leader = read_leader(session)
        waits(leader)
        if leader is not None and leader.overdue:
            # It stands still, or its machine is gone: its lock goes with its connection.
            session.own(_END, leader.session)
        try:
            session.script(f"SELECT pg_advisory_lock({_LOCK})")
        except StorageError:
            if session.lost:
                raise
        else:
            return True
    return False


def _begin_term(session: PostgresSession, name: str, holder: str, lease_s: float) -> int:
    before = read_leader(session)
    if before is not None:
        # What it has begun holds the fence.
        session.own(_END, before.session)
    session.script("SET synchronous_commit = on", "BEGIN")
    term = int(session.own(_TAKE)[0]["term"])
    session.own(_SAY, name, holder, term, lease_s)
    session.script("COMMIT")
    session.script("SET synchronous_commit = off")
    if session.lost:
        raise LeadershipLost("the lead was lost while it was taken: start again")
    return term
