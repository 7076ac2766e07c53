"""What a store in PostgreSQL promises beside what every store does: one leader writes, and what was said is kept."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner

from coordinator.backup.making import make_backup
from coordinator.backup.restoring import restore
from coordinator.cli import make_app
from coordinator.config.sections import StoreSection
from coordinator.monitoring.doctor import check_database
from coordinator.monitoring.status import read_status, show_status
from coordinator.records import Attendance, TransferRecord, UpdateRecord
from coordinator.runtime.leading import _Standby, open_store
from coordinator.storage.database import DATABASE
from coordinator.storage.parts import Leader
from coordinator.storage.places import NOTE, leader_of, remember_url, url_of
from coordinator.storage.postgresql.lead import read_leader, take_lead
from coordinator.storage.postgresql.moving import MOVED, move_store
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import INLINE_BYTES_MAX, SqliteStore, SqlStore
from coordinator.storage.store import Commit
from federation.doctor import Verdict
from federation.errors import ConfigError, DamagedStore, LeadershipLost, LocalProtocolError, StorageError, StoreLocked
from federation.storage.postgresql import PostgresDatabase, PostgresSession
from federation.types import Incarnation, ModelVersion, NodeId
from fedmq.run_view.view import RunView
from tests.contract.test_coordinator_store import a_round, commit_of
from tests.rigs.model_values import Arrived, arrived, initialised, update
from tests.rigs.postgres import PostgresServer, postgres_server, store_at

pytestmark = pytest.mark.postgresql

INT64_MAX = 2**63 - 1


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[SqlStore]:
    made = store_at(tmp_path / "a", url)
    initialised(made)
    yield made
    made.close()


def name_of(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def overtake(postgres: PostgresServer, url: str) -> None:
    """Another leader's term begins, and the connections of the one before live on: as if they had not been ended."""
    postgres.script(name_of(url), "UPDATE fence SET term = term + 1")


WRITES: dict[str, Callable[[SqlStore], object]] = {
    "round": lambda store: store.save_round(a_round(0, "a")),
    "update": lambda store: store.save_update(*whole(arrived("a", update(1.0)))),
    "transfer": lambda store: store.open_transfer(
        TransferRecord(record=arrived("a", update(1.0)).record, chunk_bytes=10)
    ),
    "attendance": lambda store: store.save_attendance(Attendance(incarnations={NodeId("a"): Incarnation(1)})),
    "task": lambda store: store.save_task("quadratic"),
    "file": lambda store: store._blobs.write("model-7.safetensors", b"1"),
}


def whole(sent: Arrived) -> tuple[UpdateRecord, bytes]:
    return sent.record, sent.payload


def rows(postgres: PostgresServer, url: str) -> list[tuple[object, ...]]:
    """All that anybody could have written."""
    counts = [
        f"SELECT '{table}', COUNT(*)::text FROM {table}"  # noqa: S608 - the test's own names
        for table in ("rounds", "updates", "transfers", "attendance", "blobs", "payloads", "meta")
    ]
    return postgres.script(name_of(url), " UNION ALL ".join(counts))


@pytest.mark.parametrize("what", WRITES)
def test_a_leader_that_was_overtaken_writes_nothing(
    store: SqlStore, url: str, postgres: PostgresServer, what: str
) -> None:
    before = rows(postgres, url)
    overtake(postgres, url)
    with pytest.raises(LeadershipLost, match="another coordinator leads this run"):
        WRITES[what](store)
    assert rows(postgres, url) == before


def test_what_a_leader_saved_before_it_was_overtaken_is_not_said_by_it(
    store: SqlStore, url: str, postgres: PostgresServer
) -> None:
    store.wait_later()
    store.save_round(a_round(0, "a"))
    overtake(postgres, url)
    with pytest.raises(LeadershipLost):
        store.sync()


def test_a_transaction_that_a_leader_has_begun_holds_the_next_one_up_until_its_connection_is_ended(
    url: str, tmp_path: Path
) -> None:
    first = store_at(tmp_path / "a", url, lease_s=1.0)
    initialised(first)
    stand_still(first)
    first._database.begin(wait=True)  # type: ignore[attr-defined]
    second = store_at(tmp_path / "b", url, lease_s=1.0)
    assert (second.run, second.epoch) == (first.run, first.epoch + 1)
    with pytest.raises(LeadershipLost, match="lost"):
        first._database.script("COMMIT")  # type: ignore[attr-defined]
    first.close()
    second.save_round(a_round(0, "a"))
    second.close()


def stand_still(store: SqlStore) -> None:
    """Its thread renews nothing any more, and its connections stay open."""
    cells = store._release.__closure__ or ()
    lead = next(cell.cell_contents for cell in cells if hasattr(cell.cell_contents, "term"))
    lead._released.set()
    lead._thread.join()


def test_a_standby_says_whom_it_waits_for_and_leads_once_the_other_has_stopped(
    store: SqlStore, url: str, tmp_path: Path
) -> None:
    waits: queue.Queue[Leader | None] = queue.Queue()
    leads: queue.Queue[object] = queue.Queue()

    def wait() -> None:
        leads.put(take_lead(url, "standby:1", lease_s=5.0, waits=waits.put))

    thread = threading.Thread(target=wait)
    thread.start()
    first = waits.get(timeout=60)
    assert first is not None
    assert (first.term, first.overdue) == (1, False)
    assert leads.empty()
    store.close()
    lead = leads.get(timeout=60)
    thread.join()
    assert lead.term == 2  # type: ignore[attr-defined]
    now = leader_of(tmp_path / "a")
    assert now is not None
    assert (now.holder, now.term) == ("standby:1", 2)
    lead.release()  # type: ignore[attr-defined]


def test_the_folder_of_a_standby_shows_the_run_that_another_one_leads(
    store: SqlStore, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _Standby(tmp_path, url, {"FEDMQ_HEALTH_FILE": str(tmp_path / "healthy")}).waits(leader_of(tmp_path / "a"))
    assert (tmp_path / "healthy").exists()
    assert read_status(tmp_path)["leader"] == read_status(tmp_path / "a")["leader"] | {  # type: ignore[operator]
        "since_s": ANY,
        "renewed_s": ANY,
    }
    capsys.readouterr()
    show_status(tmp_path)
    assert f":{os.getpid()}, term 1" in capsys.readouterr().out
    (finding,) = check_database(StoreSection(folder=tmp_path, url=url))
    assert (finding.verdict, "term 1" in finding.detail) == (Verdict.PASS, True)
    assert list(check_database(StoreSection(folder=tmp_path))) == []
    (finding,) = check_database(StoreSection(folder=tmp_path, url=f"postgresql://x@/y?host={tmp_path}"))
    assert finding.verdict is Verdict.FAIL
    said = CliRunner().invoke(make_app(("why",)), ["why", "--state", str(tmp_path)])
    assert f"{os.getpid()} (machine:process, term 1): ask `coordinator why` on that machine" in str(said.exception)
    store.close()
    assert explain_lead(tmp_path)


def explain_lead(folder: Path) -> bool:
    """A leader that has stopped is still named."""
    leader = leader_of(folder)
    return leader is not None and not leader.overdue


def test_a_standby_that_is_told_to_stop_gives_up(store: SqlStore, url: str) -> None:
    del store
    asked = iter([False, True])
    assert take_lead(url, "b", lease_s=5.0, waits=lambda _leader: None, stopped=lambda: next(asked)) is None


def test_a_lead_that_is_lost_is_told(url: str, postgres: PostgresServer) -> None:
    told: queue.Queue[str] = queue.Queue()
    lead = take_lead(url, "a", lease_s=1.0, waits=lambda _leader: None)
    assert lead is not None
    lead.watch(told.put)
    postgres.script(name_of(url), "UPDATE lead SET term = term + 1")
    assert "another coordinator leads" in told.get(timeout=60)
    lead.release()


def test_one_process_uses_a_state_folder_also_while_it_waits(store: SqlStore, url: str, tmp_path: Path) -> None:
    del store
    with pytest.raises(StoreLocked):
        store_at(tmp_path / "a", url)


def test_what_was_said_is_there_after_a_power_cut_and_the_lead_is_lost_with_the_server(tmp_path: Path) -> None:
    with postgres_server(durable=True) as server:
        url = server.new_database()
        store = store_at(tmp_path / "a", url)
        initialised(store)
        store.wait_later()
        sent = arrived("a", update(1.0))
        store.save_round(a_round(0, "a"))
        store.save_update(sent.record, sent.payload)
        (written,) = server.script("postgres", "SELECT pg_current_wal_insert_lsn()")[0]
        store.sync()
        assert server.script("postgres", f"SELECT pg_current_wal_flush_lsn() >= '{written}'") == [(True,)]
        server.kill()
        # No full disk: trying again does not help, so nobody may.
        for write in (store.sync, lambda: store.save_round(a_round(1, "a"))):
            store._database._unsynced = True  # type: ignore[attr-defined]
            with pytest.raises(LeadershipLost, match="connection to the database"):
                write()
        store.close()
        server.start()
        again = store_at(tmp_path / "a", url)
        assert again.payload(sent.record.update) == sent.payload
        again.close()


def test_arrivals_are_numbered_without_a_gap_whatever_was_rolled_back(store: SqlStore, tmp_path: Path) -> None:
    one, two = arrived("a", update(1.0)), arrived("b", update(2.0))
    store.save_update(one.record, one.payload)
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            store.save_update(one.record, one.payload)
    store.save_update(two.record, two.payload)
    with ReadOnlyStore(tmp_path / "a") as read:
        assert [row.whole for row in read.sealed_updates()] == [True, True]
        assert read.identity_is_sealed() is True
    store._database.execute("DELETE FROM updates WHERE node = 'b'")
    with ReadOnlyStore(tmp_path / "a") as read:
        assert [row.key for row in read.sealed_updates() if not row.whole] == ["arrival number 2"]


def test_numbers_of_63_bits_are_added_up_beyond_them(store: SqlStore) -> None:
    for node in ("a", "b"):
        sent = arrived(node, update(1.0))
        record = type(sent.record)(
            **{name: getattr(sent.record, name) for name in sent.record.__slots__} | {"fetched_bytes": INT64_MAX}
        )
        store.save_update(record, sent.payload)
    assert sum(part.bytes_down for part in store.participation()) == 2 * INT64_MAX


def fill(store: SqlStore) -> None:
    """A run with everything that is a file elsewhere."""
    store.save_task("quadratic")
    store.save_round(a_round(0, "a", "b"))
    commit_of(store, arrived("a", update(1.0)), arrived("b", update(2.0)))
    waiting = arrived("c", update(3.0))
    store.save_update(waiting.record, waiting.payload)
    store._blobs.write("update-x.frame", bytes(5 << 20))
    assert INLINE_BYTES_MAX < 5 << 20


def found(folder: Path) -> tuple[object, ...]:
    with ReadOnlyStore(folder) as read:
        head = read.head()
        assert head is not None
        return (
            read.run,
            read.task(),
            [row.record for row in read.history()],
            sorted((row.record.update, row.verdict.status, row.staleness) for row in read.updates()),
            read.model(head).shadow.digest(),
            read.waiting(),
            [row.whole for row in (*read.sealed_updates(), *read.sealed_versions(), read.sealed_rounds())],
        )


def test_the_page_shows_a_run_in_a_database(store: SqlStore, tmp_path: Path) -> None:
    fill(store)
    view = RunView(tmp_path / "a")
    snapshot = view.now()
    assert (snapshot.summary["run"], len(snapshot.versions), len(snapshot.nodes)) == (store.run, 2, 3)


def test_a_backup_of_a_database_is_a_backup_and_goes_back_into_a_folder(store: SqlStore, tmp_path: Path) -> None:
    fill(store)
    made = make_backup(tmp_path / "a", tmp_path / "run.tar")
    assert (made.facts.version, made.facts.waiting, made.damaged) == (1, 1, ())
    restore(tmp_path / "run.tar", tmp_path / "back")
    assert (tmp_path / "back" / DATABASE).exists()
    assert found(tmp_path / "back") == found(tmp_path / "a")


def test_a_run_is_moved_into_a_database_and_goes_on(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    store = SqliteStore(folder)
    initialised(store)
    fill(store)
    epoch = store.epoch
    store.close()
    before = found(folder)
    moved = move_store(folder, url, 5.0)
    assert (moved.version, moved.missing, (folder / MOVED).exists()) == (1, (), True)
    assert found(folder) == before
    again = store_at(folder, url)
    assert (again.run, again.epoch) == (before[0], epoch + 1)
    again.close()
    with pytest.raises(ConfigError, match="no run to move"):
        move_store(folder, url, 5.0)


def test_a_move_that_was_interrupted_before_the_folder_said_so_is_finished(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    store = SqliteStore(folder)
    initialised(store)
    fill(store)
    store.close()
    move_store(folder, url, 5.0)
    (folder / MOVED).rename(folder / DATABASE)
    with pytest.raises(ConfigError, match="move-store"):
        store_at(folder, url)
    assert move_store(folder, url, 5.0).version == 1
    with pytest.raises(ConfigError, match=r"give store\.url"):
        store_at(folder, None)


def test_a_run_is_not_moved_over_another_one(store: SqlStore, url: str, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "b")
    initialised(other)
    other.close()
    with pytest.raises(ConfigError, match="in use by"):
        move_store(tmp_path / "b", url, 5.0)
    store.close()
    with pytest.raises(ConfigError, match="the database has run"):
        move_store(tmp_path / "b", url, 5.0)


def test_the_note_in_the_folder_has_no_password(tmp_path: Path) -> None:
    remember_url(tmp_path, "postgresql://fedmq:secret@db.plant/run?sslmode=verify-full")
    assert url_of(tmp_path) == "postgresql://fedmq@db.plant/run?sslmode=verify-full"
    assert (tmp_path / NOTE).stat().st_mode & 0o777 == 0o600


def test_a_server_that_is_not_there_and_a_database_without_a_run_say_what_to_do(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used"):
        store_at(tmp_path / "a", f"postgresql://fedmq@/run?host={tmp_path}")
    remember_url(tmp_path, url)
    with pytest.raises(StorageError, match="has a coordinator run with it"):
        ReadOnlyStore(tmp_path)
    with pytest.raises(StorageError, match="createdb"):
        store_at(tmp_path / "a", url.replace(name_of(url), "nowhere"))


def test_a_server_that_takes_no_writes_is_told_and_written_to_when_it_does(store: SqlStore) -> None:
    """A transaction that could not be begun is no transaction: the next one would hear of the first alone."""
    database = store._database
    assert isinstance(database, PostgresDatabase)
    database.script("SET default_transaction_read_only = on")
    for _ in range(2):
        with pytest.raises(StorageError, match="it takes no writes: name the primary"):
            store.save_task("quadratic")
    database.script("SET default_transaction_read_only = off")
    store.save_task("quadratic")


def test_tables_that_somebody_has_emptied_are_told_and_nothing_is_deleted(
    store: SqlStore, url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    store._blobs.write("model-7.safetensors", b"1")
    head, model = store.recovered(recent=1).head, store.model(ModelVersion(0))
    postgres.script(name_of(url), "DELETE FROM versions")
    with pytest.raises(DamagedStore, match=r"versions are gone.*restore a backup"):
        store.commit(Commit(record=replace(head, version=ModelVersion(1)), model=model, frames={}))
    store.close()
    with pytest.raises(StorageError, match=r"knows of no version, but its table blobs has model-7\.safetensors"):
        store_at(tmp_path / "a", url)
    assert postgres.script(name_of(url), "SELECT 1 FROM blobs WHERE name = 'model-7.safetensors'")


def test_a_table_that_is_gone_is_told_with_what_to_do(store: SqlStore, url: str, postgres: PostgresServer) -> None:
    postgres.script(name_of(url), "DROP TABLE updates CASCADE")
    with pytest.raises(StorageError, match="somebody has changed the run's tables"):
        store.save_update(*whole(arrived("a", update(1.0))))


def test_a_database_of_a_newer_release_is_refused(store: SqlStore, url: str, tmp_path: Path) -> None:
    store._database.execute("UPDATE layout SET number = 99")
    store.close()
    with pytest.raises(StorageError, match="install the newer release"):
        store_at(tmp_path / "a", url)
    with pytest.raises(StorageError, match="install the newer release"):
        ReadOnlyStore(tmp_path / "a")


def test_nobody_has_led_a_database_without_a_leader(store: SqlStore, url: str) -> None:
    session = PostgresSession(url, "test")
    session.script("DELETE FROM lead")
    assert read_leader(session) is None
    session.close()
    del store


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("coordinator.storage.places.find_spec", lambda _name: None)
    section = StoreSection(folder=tmp_path, url="postgresql://x@y/z")
    with pytest.raises(ConfigError, match=r"fedmq\[postgresql\]"):
        open_store(section, queue.Queue())
