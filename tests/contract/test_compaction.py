"""What a store knows of updates whose rows it has compacted, whichever engine keeps it: all that is asked again."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.records import RoundRecord, Verdict
from coordinator.storage.claims import Claims
from coordinator.storage.compaction.blocks import Entry, Fate, compacted_until, pack, unpack
from coordinator.storage.database import DATABASE
from coordinator.storage.history import GrowingHistory
from coordinator.storage.participation import GrowingParticipation
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.seals import sealed_updates, sealed_versions
from coordinator.storage.sqlite_store import SqliteStore, SqlStore
from coordinator.storage.store import Figures
from federation.errors import DamagedStore, LocalProtocolError
from federation.protocol.claims import claim_of
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import ModelVersion, NodeId, RoundId, UpdateId
from tests.rigs.model_values import Arrived, arrived, committer, initialised, update
from tests.rigs.postgres import store_at

KEPT = 6
VERSIONS = 10


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str, int], SqlStore]]:
    """Opens stores by name, the same one each time, that keep so many rows."""
    stores: dict[str, SqlStore] = {}
    urls: dict[str, str | None] = {}

    def store(name: str, kept: int) -> SqlStore:
        if name in stores:
            stores[name].close()
        elif request.param == "postgresql":
            urls[name] = request.getfixturevalue("postgres").new_database()
        stores[name] = store_at(tmp_path / name, urls.get(name))
        stores[name].wait_later()
        stores[name]._updates_kept = kept
        return stores[name]

    yield store
    for one in stores.values():
        one.close()


def sent(node: str, number: int, *, members: bytes = b"") -> Arrived:
    made = arrived(node, update(1.0), round_id=number)
    said = {"loss": 1.0 / (number + 1)}
    record = replace(made.record, metrics=said, fetched_bytes=2**33 + number, train_s=0.5, members=members)
    return replace(made, record=record)


def run_on(store: SqlStore, versions: range) -> None:
    """Each version has updates of two nodes; one more is found stale, or refused unseen."""
    for number in versions:
        members = [sent("a", number), sent(f"b{number % 3}", number)]
        for one in members:
            store.save_update(one.record, one.payload)
        late = sent("late", number)
        if number % 2:
            store.save_update(late.record, late.payload)
            store.save_verdict(verdict_of(late, ReceiptStatus.STALE, Reason.TOO_STALE), None)
        else:
            store.save_verdict(verdict_of(late, ReceiptStatus.REFUSED, Reason.NORM), late.record)
        staleness = [replace(one.member, staleness=number % 4) for one in members]
        committer(store).commit(staleness, "buffer_full", Figures(wall_s=1.5, bytes_up=7))


def verdict_of(one: Arrived, status: ReceiptStatus, reason: Reason) -> Verdict:
    return Verdict(update=one.record.update, node=one.record.node, status=status, reason=reason)


def facts(store: SqlStore) -> dict[str, Any]:
    """What people and commands read of a store."""
    rows = list(store.updates())
    return {
        "updates": [(row.record.update, row.record.node, row.record.base_version, row.staleness) for row in rows],
        "verdicts": [row.verdict for row in rows],
        "asked again": [store.verdict(row.record.update) for row in rows],
        "participation": store.participation(),
        "history": [(row.record.version, row.stale, row.refused) for row in store.history()],
        "newest": {point.node: point for point in store.curves()},
        "whole": [row.whole for row in (*sealed_versions(store._database),)],
    }


@pytest.fixture
def stores(opened: Callable[[str, int], SqlStore]) -> tuple[SqlStore, SqlStore]:
    """The same run twice: one that keeps every row, and one that keeps few."""
    plain, compacted = opened("plain", 10_000), opened("compacted", KEPT)
    for store in (plain, compacted):
        initialised(store)
        run_on(store, range(VERSIONS))
    return plain, compacted


def rows_left(store: SqlStore) -> int:
    return int(store._database.execute("SELECT COUNT(*) FROM updates").fetchone()[0])


def test_what_can_be_asked_is_the_same_with_and_without_rows(
    stores: tuple[SqlStore, SqlStore], opened: Callable[[str, int], SqlStore]
) -> None:
    plain, compacted = stores
    assert (rows_left(plain), rows_left(compacted)) == (3 * VERSIONS, KEPT)
    assert facts(compacted) == facts(plain)
    assert [row.whole for row in compacted.updates()] == [False] * (3 * VERSIONS - KEPT) + [True] * KEPT
    again = opened("compacted", KEPT)
    run_on(again, range(VERSIONS, VERSIONS + 3))
    run_on(plain, range(VERSIONS, VERSIONS + 3))
    assert facts(again) == facts(plain)
    assert {row.whole for row in sealed_updates(again._database)} == {True}


def test_what_was_never_offered_is_not_taken_for_what_is_compacted(stores: tuple[SqlStore, SqlStore]) -> None:
    _, store = stores
    for unknown in ("0-b1", "0-nobody", "4-", "-a", "00-a", "99999999999999999999-a", "x", "²-a", f"{VERSIONS}-a"):
        assert store.verdict(UpdateId(unknown)) is None
    assert store.verdict(UpdateId("0-a")) == Verdict(
        update=UpdateId("0-a"), node=NodeId("a"), status=ReceiptStatus.APPLIED, version=ModelVersion(1)
    )


def test_what_looks_again_and_again_counts_each_update_once_while_rows_are_compacted(
    stores: tuple[SqlStore, SqlStore],
) -> None:
    plain, store = stores
    parts, history = GrowingParticipation(), GrowingHistory()
    seen = {part.node: part for part in parts.changed(store._database)}
    versions = {row.record.version: row for row in history.newest(store._database, -1)}
    for later in (range(VERSIONS, VERSIONS + 1), range(VERSIONS + 1, VERSIONS + 8)):
        for one in (plain, store):
            run_on(one, later)
        seen |= {part.node: part for part in parts.changed(store._database)}
        versions |= {row.record.version: row for row in history.newest(store._database, later.start - 1)}
        assert [seen[node] for node in sorted(seen)] == plain.participation()
        assert list(versions.values()) == plain.history()


def test_a_reader_that_is_overtaken_by_a_compaction_reads_again(stores: tuple[SqlStore, SqlStore]) -> None:
    plain, store = stores

    class Overtaken:
        """Another process commits between any two statements of the reader, a few times."""

        def __init__(self, *numbers: int) -> None:
            self.left = list(numbers)

        def execute(self, statement: str, *values: object) -> Any:
            found = store._database.execute(statement, *values).fetchall()
            if self.left and "compacted" in statement:
                number = self.left.pop(0)
                for one in (plain, store):
                    run_on(one, range(number, number + 1))
            return _Found(found)

    read = list(GrowingParticipation().changed(Overtaken(10, 11, 12)))
    assert read == plain.participation()
    history = list(GrowingHistory().newest(Overtaken(13, 14), -1))
    assert history[:-2] == plain.history()[:-2]


class _Found(list[Any]):
    rowcount = 0

    def fetchone(self) -> Any:
        return self[0] if self else None

    def fetchall(self) -> list[Any]:
        return list(self)


def test_a_claim_on_a_compacted_update_counts_as_before(opened: Callable[[str, int], SqlStore]) -> None:
    """FED-272, FED-273: a sum with a member that was counted long ago is refused, and its node hears its true fate."""
    store = opened("claims", KEPT)
    initialised(store)
    member = UpdateId("3-far")
    whole = sent("gateway", 0, members=claim_of(member))
    store.save_update(whole.record, whole.payload)
    committer(store).commit([whole.member], "buffer_full", Figures())
    before = store.verdict(member)
    run_on(store, range(1, VERSIONS))
    assert store._database.execute("SELECT COUNT(*) FROM claims").fetchone()[0] == 0
    assert store.verdict(member) == before
    assert before is not None
    assert (before.update, before.version) == ("0-gateway", 1)
    elsewhere = sent("other", VERSIONS, members=claim_of(member) + claim_of(UpdateId("4-far")))
    assert Claims(store._database).counted(elsewhere.record) == claim_of(member)


def test_a_compacted_update_is_stored_only_once(stores: tuple[SqlStore, SqlStore]) -> None:
    _, store = stores
    for again in (sent("a", 0), sent("late", 1)):
        with pytest.raises(LocalProtocolError, match="known already"):
            store.save_update(again.record, again.payload)


def test_what_may_still_change_keeps_its_row(opened: Callable[[str, int], SqlStore]) -> None:
    """An update that waits, one of an open round, and those of the two newest versions."""
    store = opened("open", 1)
    initialised(store)
    names = (NodeId("a"), NodeId("gone"))
    store.save_round(RoundRecord(round=RoundId(2), version=ModelVersion(0), nodes=names, cohort=EVERYONE))
    run_on(store, range(6))
    assert compacted_until(store._database) == 6  # rounds 0 and 1: round 2 waits for who is gone
    assert UpdateId("2-a") in store.recovered(recent=1).delivered
    store.close_round(RoundId(2), names)
    waiting = sent("waits", 6)
    store.save_update(waiting.record, waiting.payload)
    run_on(store, range(6, 8))
    run_on(store, range(8, 12))
    assert compacted_until(store._database) == 18
    assert store.stored(UpdateId("6-waits")) is not None
    head = [row for row in store.updates() if row.verdict.version in (11, 12)]
    assert {row.whole for row in head} == {True}


def test_damage_before_and_after_is_found(tmp_path: Path) -> None:
    def damaged(name: str, statement: str, *, before: str = "") -> list[str]:
        store = SqliteStore(tmp_path / name, updates_kept=KEPT if not before else 10_000)
        store.wait_later()
        initialised(store)
        run_on(store, range(VERSIONS))
        store.close()
        path = tmp_path / name / DATABASE
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(before or statement)
        if before:
            store = SqliteStore(tmp_path / name, updates_kept=KEPT)
            run_on(store, range(VERSIONS, VERSIONS + 1))
            store.close()
        with ReadOnlyStore(tmp_path / name) as reader:
            return [row.key for row in (*reader.sealed_updates(), *reader.sealed_versions()) if row.whole is False]

    sums = "what was added up of compacted updates"
    assert damaged("none", "SELECT 1") == []
    block = "UPDATE compacted_updates SET round_max = 99 WHERE block = 2"
    assert damaged("block", block)[0].startswith("arrival numbers")
    assert sums in damaged("lost", "DELETE FROM compacted_updates WHERE block = 3")
    newest = "DELETE FROM compacted_updates WHERE block = (SELECT MAX(block) FROM compacted_updates)"
    assert sums in damaged("newest", newest)
    assert damaged("version", "UPDATE versions SET accepted = 9 WHERE version = 2") == ["2"]
    assert damaged("sums", "UPDATE compacted_sums SET up = up + 1 WHERE node = 'a'") == [sums]
    assert damaged("point", "UPDATE compacted_nodes SET metrics = '{}' WHERE node = 'a'") == [sums]
    changed = damaged("row", "", before="UPDATE updates SET num_examples = 99 WHERE update_id = '1-a'")
    assert changed == ["arrival numbers 1 to 27", "2"]
    gone = damaged("gone", "", before="DELETE FROM updates WHERE update_id = '1-late'")
    assert gone == ["arrival numbers 1 to 27"]


def test_a_block_reads_as_it_was_written_and_a_damaged_one_is_refused() -> None:
    fates = [Fate("applied", "none", 7, 1, 6, 5), Fate("refused", "norm", None, 0, None, 2**40)]
    entries = [Entry(2**32 - 1 - number % 5, number % 7, fates[number % 2]) for number in range(1_000)]
    row = {"block": 1, "updates": len(entries), **pack(entries)}
    assert list(unpack(row)) == entries  # type: ignore[arg-type]
    assert len(row["fates"]) + len(row["body"]) < 4 * len(entries)  # type: ignore[arg-type]
    for change in ({"body": b""}, {"fates": b"x"}, {"updates": 999}, {"body": row["body"][:40]}):  # type: ignore[index]
        with pytest.raises(DamagedStore):
            list(unpack(row | change))  # type: ignore[arg-type]


def test_an_undone_version_has_its_updates_again_after_a_compaction(tmp_path: Path) -> None:
    open_store = partial(SqliteStore, tmp_path, updates_kept=1)
    store = open_store()
    initialised(store)
    run_on(store, range(5))
    store.close()
    (tmp_path / "blobs" / "model-5.safetensors").unlink()
    store = open_store()
    assert store.recovered(recent=1).head.version == 4
    assert {record.update for record in store.recovered(recent=1).stored} == {"4-a", "4-b1"}
    store.close()
