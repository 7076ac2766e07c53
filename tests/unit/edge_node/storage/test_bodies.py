"""What a round costs the node's database, and files of bodies when a transaction fails."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_node.records import Seen
from edge_node.storage import bodies
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.types import Epoch, ModelVersion, RoundId, Start
from tests.rigs.node_values import RUN, entry, residual

STATEMENTS_MAX = 30
"""Those that begin and end a round's five transactions, and say how these wait, included; it takes 29."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteNodeStore]:
    store = SqliteNodeStore(tmp_path / "state")
    store.enter_run(RUN)
    yield store
    store.close()


def play(store: SqliteNodeStore, number: int) -> None:
    """An announcement is heard, an update is saved, stored and applied."""
    version = ModelVersion(number)
    seen = Seen(run=RUN, epoch=Epoch(2), start=Start(3), round=RoundId(number), version=version, applied=version)
    store.save_seen(seen)
    store.save_outbox(entry(number), b"frame", residual(number))
    update = entry(number).offer.update
    store.mark_stored(update)
    store.save_seen(replace(seen, applied=ModelVersion(number + 1)))
    store.settle(update, store.residual(), applied=True)


def test_a_round_takes_few_statements(store: SqliteNodeStore) -> None:
    play(store, 1)
    seen: list[str] = []
    store._db._tables._connection.set_trace_callback(seen.append)
    play(store, 2)
    store._db._tables._connection.set_trace_callback(None)
    assert len(seen) <= STATEMENTS_MAX, seen


def test_a_body_that_comes_again_changes_in_its_place(store: SqliteNodeStore) -> None:
    rows = []
    for number in (1, 2, 3):
        play(store, number)
        rows.append(store._db.query("SELECT rowid, name FROM body WHERE name = 'residual'"))
    assert [tuple(row) for row in rows[0]] == [tuple(row) for row in rows[2]]


def test_what_a_failed_transaction_has_replaced_is_replaced_by_the_next(
    store: SqliteNodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 4)
    database = store._db

    def put(body: bytes) -> None:
        with database.transaction(durable=True):
            database.bodies.put(RUN, "residual", body)
            if body == b"broken":
                raise RuntimeError(body)

    put(b"first")
    (first,) = (tmp_path / "state").glob("*.body")
    with pytest.raises(RuntimeError):
        put(b"broken")
    assert list((tmp_path / "state").glob("*.body")) == [first]
    assert database.body(RUN, "residual") == b"first"
    put(b"third")
    (third,) = (tmp_path / "state").glob("*.body")
    assert third != first
    with database.transaction(durable=True):
        database.bodies.put(RUN, "residual", b"1234")
    assert not list((tmp_path / "state").glob("*.body"))
    assert database.body(RUN, "residual") == b"1234"


def test_a_run_that_goes_takes_its_files_with_it(
    store: SqliteNodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 4)
    database = store._db
    with database.transaction(durable=True):
        database.bodies.put(RUN, "residual", b"first")
    with database.transaction(durable=True):
        database.bodies.drop_run(RUN)
    assert not list((tmp_path / "state").glob("*.body"))
    assert database.body(RUN, "residual") is None
