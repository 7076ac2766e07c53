"""The site's store: a coordinator's, whose versions come from above, with orders and frozen sums beside.

Whatever belongs together is one transaction: members and their sum; the verdict from above for all of them.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path

from coordinator.records import Member, NodeResult, RecoveredState, Restored, Verdict
from coordinator.storage import schema, statements
from coordinator.storage.claims import forget
from coordinator.storage.compaction.moving import UPDATES_KEPT
from coordinator.storage.evaluations import read_results
from coordinator.storage.files import payload_file, undamaged
from coordinator.storage.recovery import read_next_round
from coordinator.storage.seals import seal_identity
from coordinator.storage.sqlite_store import SqliteStore
from federation.documents import read_json, read_mapping
from federation.errors import DamagedStore, LocalProtocolError, RemoteProtocolError, StorageError
from federation.protocol.chunking import payload_digest
from federation.protocol.claims import claims_in
from federation.protocol.messages import ReceiptStatus, RoundAnnouncement
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.failpoint import failpoint
from federation.storage.columns import blob, real, whole
from federation.storage.sql import Database, Row
from federation.storage.sqlite import storing
from federation.types import Epoch, ModelVersion, NodeId, RoundId, RunId, UpdateId
from site_gateway.records import Order, RecoveredSite, SiteSum

__all__ = ["GATEWAY", "SiteStore"]

GATEWAY = "gateway"
"""Key in ``meta``: who the gateway is above."""

_MEMBER = ("update", "node", "num_examples", "staleness")


_LIFTS = "gateway_lifts"
"""In ``meta``: `RecoveredSite.lifts`."""

_KEY = "gateway_layout"
"""In ``meta``: the number of the step that was taken last."""

STEPS: Mapping[int, tuple[str, ...]] = {
    1: (
        "CREATE TABLE gateway_orders (round INTEGER PRIMARY KEY, announcement BLOB NOT NULL)",
        (
            "CREATE TABLE gateway_sums (update_id TEXT PRIMARY KEY, round INTEGER NOT NULL,"
            " base_version INTEGER NOT NULL, members TEXT NOT NULL, num_examples INTEGER NOT NULL,"
            " train_s REAL NOT NULL, metrics TEXT NOT NULL,"
            " reason TEXT NOT NULL, digest BLOB NOT NULL, frame BLOB NOT NULL)"
        ),
    ),
}
"""What makes each layout of the one before."""

LAYOUT = max(STEPS)

_NEWEST = """
SELECT MAX(COALESCE((SELECT MAX(version) FROM updates), 0), COALESCE((SELECT MAX(version) FROM compacted_nodes), 0))
"""
"""The newest version that a verdict has named."""


class SiteStore(SqliteStore):
    """Owns one site's state folder; see `SqliteStore`.

    Args:
        folder: The state folder; created when it is missing.
        gateway: Who the gateway is above.
        run: The run above that the site belongs to.
        audit_versions: How many versions keep the payloads that their sums were made of.
        updates_kept: How many of the newest updates keep their whole row.

    Raises:
        StoreLocked: Another process owns the folder.
        StorageError: The database is damaged, of another run or of a newer release, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gateway: NodeId,
        run: RunId,
        audit_versions: int = 1,
        updates_kept: int = UPDATES_KEPT,
    ) -> None:
        super().__init__(folder, audit_versions=audit_versions, updates_kept=updates_kept, run=run)
        self._gateway = gateway
        try:
            self._prepare(run)
        except BaseException:
            self.close()
            raise

    def _prepare(self, run: RunId) -> None:
        _upgrade(self._database)
        with self._database.transaction("gateway"):
            self._database.insert("meta", {"key": GATEWAY, "value": self._gateway}, conflict="REPLACE")
        if self.run != run:
            raise StorageError(f"{self.folder} is of run {self.run}, not of {run}: take another folder")

    def recovered_site(self, *, recent: int) -> RecoveredSite:
        """Where the last process left off.

        Raises:
            DamagedStore: A frozen sum is not what was written.
        """
        found = self.recovered(recent=recent)
        known = {field.name: getattr(found, field.name) for field in fields(RecoveredState)}
        with storing("versions"):
            told = self._database.execute(_NEWEST).fetchone()[0]
        known["newest"] = ModelVersion(max(found.newest or 0, whole(told)))
        with storing("lifts"):
            lifts = self._database.execute("SELECT value FROM meta WHERE key = ?", _LIFTS).fetchone()
        return RecoveredSite(
            **known,
            gateway=self._gateway,
            order=self.order(),
            frozen=self.frozen(),
            lifts=0 if lifts is None else whole(lifts["value"]),
        )

    def order(self) -> Order | None:
        """The newest order from above."""
        with storing("order"):
            query = "SELECT announcement FROM gateway_orders ORDER BY round DESC LIMIT 1"
            row = self._database.execute(query).fetchone()
        if row is None:
            return None
        try:
            announcement = decode_message(blob(row["announcement"]))
        except RemoteProtocolError as error:
            raise DamagedStore(f"the order from above is damaged: {error}") from error
        if not isinstance(announcement, RoundAnnouncement):
            raise DamagedStore("the order from above is damaged")
        return Order(announcement=announcement)

    def frozen(self) -> tuple[SiteSum, ...]:
        """Sums without a verdict, oldest first."""
        with storing("sums"):
            rows = self._database.execute("SELECT * FROM gateway_sums ORDER BY round").fetchall()
        with undamaged(self.folder):
            return tuple(map(_sum_of, rows))

    def results(self, version: ModelVersion) -> tuple[NodeResult, ...]:
        """What the site's nodes have found at a version."""
        with storing("results"):
            return read_results(self._database, version)

    def save_order(self, order: Order) -> None:
        """Keep the newest order; the same one again does nothing."""
        row = {"round": order.round, "announcement": encode_message(order.announcement)}
        with self._database.transaction("order"):
            self._database.execute("DELETE FROM gateway_orders WHERE round <> ?", order.round)
            self._database.insert("gateway_orders", row, conflict="REPLACE")

    def freeze_sum(self, made: SiteSum) -> None:
        """Save members and sum together; the same again does nothing.

        Raises:
            LocalProtocolError: A member is in another sum, or does not wait any more; or no order asks for this sum.
            StorageError: Nothing was saved.
        """
        failpoint("gateway_before_frozen")
        with self._database.transaction("sum of the site"):
            others = [one for one in self.frozen() if (one.update, one.updates) != (made.update, made.updates)]
            taken = frozenset[UpdateId]().union(*(one.updates for one in others))
            stored = self._database.execute("SELECT update_id FROM updates WHERE status = 'stored'")
            named = any(one.update == made.update for one in others)
            if named or taken & made.updates or not made.updates <= {row["update_id"] for row in stored}:
                raise LocalProtocolError(f"{made.update} is another sum already, has members of one, or with a verdict")
            order = self.order()
            if order is None or order.update(self._gateway) != made.update:
                raise LocalProtocolError(f"{made.update} answers no order that this site has")
            self._database.insert("gateway_sums", _row(made), conflict="REPLACE")
        failpoint("gateway_after_frozen")

    def bind_sum(self, former: UpdateId, made: SiteSum) -> None:
        """Save that a sum goes by another name above.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("sum of the site"):
            self._database.execute("DELETE FROM gateway_sums WHERE update_id = ?", former)
            self._database.insert("gateway_sums", _row(made), conflict="REPLACE")

    def thaw_sum(self, update: UpdateId, counted: bytes) -> tuple[UpdateId, ...]:
        """Undo a frozen sum; returns those of its members that claim any of these, which are forgotten.

        Where none does nothing is changed.

        Raises:
            StorageError: Nothing was saved.
        """
        elsewhere = frozenset(claims_in(counted))
        members = next((made.members for made in self.frozen() if made.update == update), ())
        named = {one.update: frozenset(claims_in(self.claims.of([one.update]))) for one in members}
        gone = tuple(one for one, claims in named.items() if claims & elsewhere)
        if gone:
            with self._database.transaction("sum of the site"):
                for one in gone:
                    forget(self._database, one)
                answered = (
                    "DELETE FROM gateway_orders WHERE round = (SELECT round FROM gateway_sums WHERE update_id = ?)"
                )
                self._database.execute(answered, update)
                self._database.execute("DELETE FROM gateway_sums WHERE update_id = ?", update)
            for one in gone:
                self._outdate(partial(self._blobs.delete, payload_file(one)))
        return gone

    def forget(self, update: UpdateId) -> None:
        """An update that is in no sum is as if it had never been stored.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("update"):
            forget(self._database, update)
        self._outdate(partial(self._blobs.delete, payload_file(update)))

    def lift(self, epoch: Epoch, next_round: RoundId, lifts: int, *, forgets_order: bool = False) -> None:
        """Have the next start take an epoch above this one, and give out rounds from this one on.

        With ``forgets_order`` nothing is asked for until the federation above asks.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("lift"):
            first_round, above = read_next_round(self._database), Epoch(max(epoch, self.epoch))
            lifted = Restored(
                epoch=above,
                version=self.head() or ModelVersion(0),
                first_round=first_round,
                next_round=max(first_round, next_round),
            )
            self._database.insert("meta", {"key": "epoch", "value": above}, conflict="REPLACE")
            self._database.insert("meta", {"key": _LIFTS, "value": lifts}, conflict="REPLACE")
            if forgets_order:
                self._database.execute("DELETE FROM gateway_orders")
            self._database.insert("restores", schema.RESTORED.row(lifted), conflict="REPLACE")
            seal_identity(self._database)

    def settle_sum(self, update: UpdateId, base_version: ModelVersion, verdicts: tuple[Verdict, ...]) -> None:
        """Save the verdict from above for all members, and forget the sum and the order that it has answered.

        Raises:
            StorageError: Nothing was saved.
        """
        failpoint("gateway_before_settled")
        with self._database.transaction("verdict from above"):
            self._judge(verdicts, base_version)
            self._end(update)
        failpoint("gateway_after_settled")

    def _end(self, update: UpdateId) -> None:
        """A sum is none any more, and the order that it has answered is no open one."""
        answered = "DELETE FROM gateway_orders WHERE round = (SELECT round FROM gateway_sums WHERE update_id = ?)"
        self._database.execute(answered, update)
        self._database.execute("DELETE FROM gateway_sums WHERE update_id = ?", update)

    def _judge(self, verdicts: tuple[Verdict, ...], base_version: ModelVersion) -> None:
        applied = dict[ModelVersion, list[Member]]()
        for verdict in verdicts:
            if verdict.status is not ReceiptStatus.APPLIED or verdict.version is None:
                statements.judge_update(self._database, verdict)
                self._outdate(partial(self._blobs.delete, payload_file(verdict.update)))
                continue
            staleness = max(0, verdict.version - 1 - base_version)
            member = Member(update=verdict.update, node=verdict.node, num_examples=1, staleness=staleness)
            applied.setdefault(verdict.version, []).append(member)
        for version, members in applied.items():
            statements.apply_members(self._database, members, version)


def _upgrade(database: Database) -> None:
    """Bring the tables to this release's layout, each step in one transaction.

    Raises:
        StorageError: A newer release has made them, or they cannot be written.
    """
    row = database.execute("SELECT value FROM meta WHERE key = ?", _KEY).fetchone()
    found = 0 if row is None else whole(row["value"])
    if found > LAYOUT:
        raise StorageError(
            f"a newer release has made this gateway's tables (layout {found}, not {LAYOUT}): take that one"
        )
    for number in range(found + 1, LAYOUT + 1):
        with database.transaction("layout"):
            for statement in STEPS[number]:
                database.execute(statement)
            database.insert("meta", {"key": _KEY, "value": number}, conflict="REPLACE")


def _row(made: SiteSum) -> dict[str, object]:
    return {
        "update_id": made.update,
        "round": made.round,
        "base_version": made.base_version,
        "members": json.dumps([[getattr(member, name) for name in _MEMBER] for member in made.members]),
        "num_examples": made.num_examples,
        "train_s": made.train_s,
        "metrics": json.dumps(dict(made.metrics)),
        "reason": made.reason,
        "digest": payload_digest(made.frame),
        "frame": made.frame,
    }


def _sum_of(row: Row) -> SiteSum:
    frame = blob(row["frame"])
    if payload_digest(frame) != row["digest"]:
        raise DamagedStore(f"the sum {row['update_id']} is damaged")
    members = tuple(
        Member(update=UpdateId(update), node=NodeId(node), num_examples=examples, staleness=staleness)
        for update, node, examples, staleness in read_json(row["members"])
    )
    return SiteSum(
        update=UpdateId(row["update_id"]),
        round=RoundId(whole(row["round"])),
        base_version=ModelVersion(whole(row["base_version"])),
        members=members,
        num_examples=whole(row["num_examples"]),
        train_s=real(row["train_s"]),
        metrics=read_mapping(row["metrics"]),
        reason=str(row["reason"]),
        frame=frame,
    )
