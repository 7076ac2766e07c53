"""A claim is in one update at most, whoever comes first, and what became of it is that of the update."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.records import RoundRecord, UpdateRecord, Verdict
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.chunking import payload_digest
from federation.protocol.claims import claim_of, claims_in
from federation.protocol.cohort import cohort_of
from federation.protocol.messages import Reason, ReceiptStatus
from federation.storage.sqlite import Cursor, Database
from federation.types import ModelVersion, NodeId, RoundId, UpdateId, round_of
from tests.rigs.model_values import initialised

ANN, BOB, CID = (UpdateId(f"3-{name}") for name in ("ann", "bob", "cid"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path)
    initialised(made)
    yield made
    made.close()


def claiming(update: str, *members: UpdateId) -> UpdateRecord:
    return UpdateRecord(
        update=UpdateId(update),
        node=NodeId(update.partition("-")[2]),
        round=round_of(UpdateId(update)),
        base_version=ModelVersion(0),
        num_examples=1,
        codec="sum",
        payload_bytes=4,
        payload_digest=payload_digest(b"body"),
        members=b"".join(map(claim_of, members)),
    )


def test_second_sum_with_a_member_is_told_which(store: SqliteStore) -> None:
    """FED-272."""
    store.save_update(claiming("3-north", ANN, BOB), b"body")
    assert store.claims.counted(claiming("3-north", ANN, BOB)) == b""
    assert list(claims_in(store.claims.counted(claiming("4-south", BOB, CID)))) == [claim_of(BOB)]
    assert store.claims.counted(claiming("4-south", CID)) == b""


def test_node_is_in_one_update_of_the_next_version(store: SqliteStore) -> None:
    """FED-272: another update of a node that waits already; once that is in a version the node may go on."""
    store.save_update(claiming("3-north", ANN), b"body")
    later = UpdateId("5-ann")
    assert store.claims.counted(claiming("6-south", later)) == claim_of(later)
    verdict = Verdict(update=UpdateId("3-north"), node=NodeId("north"), status=ReceiptStatus.STALE)
    store.save_verdict(verdict, None)
    assert store.claims.counted(claiming("6-south", later)) == b""
    assert store.claims.counted(claiming("6-south", ANN)) == claim_of(ANN)


def test_fate_of_a_member_is_that_of_its_sum(store: SqliteStore) -> None:
    """FED-273."""
    assert store.verdict(ANN) is None
    store.save_update(claiming("3-north", ANN), b"body")
    known = store.verdict(ANN)
    assert known is not None
    assert known.status is ReceiptStatus.STORED
    verdict = Verdict(
        update=UpdateId("3-north"), node=NodeId("north"), status=ReceiptStatus.STALE, reason=Reason.TOO_STALE
    )
    store.save_verdict(verdict, None)
    known = store.verdict(ANN)
    assert known is not None
    assert (known.status, known.reason) == (ReceiptStatus.STALE, Reason.TOO_STALE)


def test_withdrawn_update_is_refused_and_claimed_by_nobody(store: SqliteStore, tmp_path: Path) -> None:
    """FED-273: also after a restart; a claim that was made before stays."""
    store.claims.withdraw(claim_of(ANN))
    store.save_update(claiming("3-north", BOB), b"body")
    store.claims.withdraw(claim_of(BOB))
    known = store.verdict(ANN)
    assert known is not None
    assert (known.status, known.reason) == (ReceiptStatus.REFUSED, Reason.NOT_ASSIGNED)
    assert store.claims.counted(claiming("4-south", ANN, CID)) == claim_of(ANN)
    kept = store.verdict(BOB)
    assert kept is not None
    assert kept.status is ReceiptStatus.STORED
    store.close()
    again = SqliteStore(tmp_path)
    assert again.claims.counted(claiming("4-south", ANN, CID)) == claim_of(ANN)
    again.close()


def test_refused_sum_keeps_its_claims(store: SqliteStore, tmp_path: Path) -> None:
    """FED-296: what its nodes take back is in no other sum, also after a restart."""
    verdict = Verdict(
        update=UpdateId("3-north"), node=NodeId("north"), status=ReceiptStatus.REFUSED, reason=Reason.NORM
    )
    store.save_verdict(verdict, claiming("3-north", ANN, BOB))
    store.close()
    again = SqliteStore(tmp_path)
    assert again.claims.counted(claiming("4-south", BOB, CID)) == claim_of(BOB)
    known = again.verdict(ANN)
    assert known is not None
    assert (known.status, known.reason) == (ReceiptStatus.REFUSED, Reason.NORM)
    again.close()


def test_claims_that_were_withdrawn_are_made_by_nobody(store: SqliteStore) -> None:
    """FED-295: a question that is asked again has the same answer."""
    store.save_update(claiming("3-north", ANN), b"body")
    both = claim_of(ANN) + claim_of(BOB)
    assert store.claims.taken(both) == claim_of(ANN)
    assert store.claims.taken(both, UpdateId("3-north")) == b""
    store.claims.withdraw(claim_of(BOB))
    assert store.claims.taken(claim_of(BOB)) == b""


def test_sum_of_sums_claims_what_these_have_claimed(store: SqliteStore) -> None:
    """FED-271: a gateway above gateways."""
    store.save_update(claiming("3-north", ANN, BOB), b"body")
    found = store.claims.of([UpdateId("3-north"), CID])
    assert list(claims_in(found)) == sorted(map(claim_of, (ANN, BOB, CID)))
    assert store.claims.claimed(claim_of(BOB) + claim_of(CID)) == {UpdateId("3-north")}


class Asked:
    """What a database was asked."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        plain = Database.execute

        def execute(database: Database, statement: str, *values: object) -> Cursor:
            self.statements.append(statement)
            return plain(database, statement, *values)

        monkeypatch.setattr(Database, "execute", execute)
        self._store = store

    def verdict(self, update: UpdateId) -> tuple[ReceiptStatus | None, bool]:
        """What is known of an update, and whether the tables were asked."""
        self.statements.clear()
        known = self._store.verdict(update)
        return (None if known is None else known.status), bool(self.statements)


def reserve(store: SqliteStore, number: int) -> None:
    nodes = (NodeId("ann"), NodeId("bob"), NodeId("north"))
    cohort = cohort_of(store.run, RoundId(number), nodes)
    store.save_round(RoundRecord(round=RoundId(number), version=ModelVersion(0), nodes=nodes, cohort=cohort))


def test_update_of_a_round_of_this_process_is_new_without_a_look(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve(store, 3)
    asked = Asked(store, monkeypatch)
    assert asked.verdict(ANN) == (None, False)
    assert asked.verdict(UpdateId("2-ann")) == (None, True)
    store.save_update(claiming("3-ann"), b"body")
    assert asked.verdict(ANN) == (ReceiptStatus.STORED, True)
    refused = Verdict(update=BOB, node=NodeId("bob"), status=ReceiptStatus.REFUSED, reason=Reason.QUOTA)
    store.save_verdict(refused, claiming("3-bob"))
    assert asked.verdict(BOB) == (ReceiptStatus.REFUSED, True)


@pytest.mark.parametrize("withdrawn", [False, True], ids=["claimed", "withdrawn"])
def test_with_a_claim_every_update_is_looked_up(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, *, withdrawn: bool
) -> None:
    """A sum of a round of this process may have a member of it."""
    reserve(store, 3)
    if withdrawn:
        store.claims.withdraw(claim_of(ANN))
    else:
        store.save_update(claiming("3-north", ANN), b"body")
    status = ReceiptStatus.REFUSED if withdrawn else ReceiptStatus.STORED
    asked = Asked(store, monkeypatch)
    assert asked.verdict(ANN) == (status, True)
    assert asked.verdict(BOB) == (None, True)


def test_next_process_finds_updates_and_claims_of_the_one_before(tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path)) as before:
        initialised(before)
        reserve(before, 3)
        before.save_update(claiming("3-north", BOB), b"body")
    with contextlib.closing(SqliteStore(tmp_path)) as store:
        reserve(store, 3)  # it is known, and stays so
        reserve(store, 4)
        for update in (UpdateId("3-north"), BOB):
            known = store.verdict(update)
            assert known is not None
            assert known.status is ReceiptStatus.STORED


def test_rounds_that_were_forgotten_are_looked_up(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.storage.claims.KNOWN_MAX", 4)
    reserve(store, 3)
    store.save_update(claiming("3-ann"), b"body")
    for number in (4, 5):
        reserve(store, number)
    asked = Asked(store, monkeypatch)
    assert asked.verdict(UpdateId("5-bob")) == (None, False)
    reserve(store, 6)
    assert asked.verdict(ANN) == (ReceiptStatus.STORED, True)
    assert asked.verdict(BOB) == (None, True)
    assert asked.verdict(UpdateId("5-bob")) == (None, False)
