"""Readings reach the disk before they are acknowledged; what cannot be stored is not, and memory is bounded."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_node.readings import ingest as ingest_module
from edge_node.readings.ingest import Ingest, IngestSettings
from edge_node.readings.plausible import Plausible
from edge_node.readings.sources import FileSource, Polled
from edge_node.readings.topics import TopicMap, TopicRule
from edge_node.storage.reading_store import (
    COLUMNS_MAX,
    READINGS,
    Block,
    ReadingStore,
    read_memo,
    read_readings,
    read_stored,
)
from federation.errors import StorageError
from federation.runtime.clock import MonotonicClock
from federation.runtime.transport import InboxItem, MessageReceived, TransportDisconnected

NOW = 1_700_000_000.0
TOPICS = TopicMap(
    [TopicRule(topic="s/+", columns={"{1}": None}), TopicRule(topic="j", columns={"x": ("v",)}, time=("t",))]
)


def made(folder: Path, **changes: object) -> Ingest:
    given: dict[str, object] = {"settings": IngestSettings(flush_s=0.05), "topics": TOPICS, "wall": lambda: NOW}
    given |= {"clock": MonotonicClock()} | changes
    settings = given.pop("settings")
    return Ingest(folder, settings, **given)  # type: ignore[arg-type]


def said(topic: str, payload: str, acknowledge: Callable[[], None] = lambda: None) -> InboxItem:
    return InboxItem(event=MessageReceived(topic=topic, payload=payload.encode()), acknowledge=acknowledge)


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; a test that waits too long is stopped by its own limit."""
    while not holds():
        time.sleep(0.005)


def rows(folder: Path) -> int:
    try:
        return read_stored(folder).rows
    except StorageError:
        return 0


def test_a_message_is_acknowledged_after_its_transaction(tmp_path: Path) -> None:
    seen: list[int] = []
    done = threading.Event()

    def acknowledge() -> None:
        seen.append(read_stored(tmp_path).rows)
        done.set()

    one = made(tmp_path)
    one.open()
    one.inbox.put(said("s/heat", "20.5", acknowledge))
    assert done.wait(30)
    assert seen == [1]
    assert one.close()
    found = read_readings(tmp_path)
    assert (found.names, found.times.tolist(), found.values.tolist()) == (("heat",), [NOW], [20.5])


def test_what_has_come_is_stored_at_an_orderly_end(tmp_path: Path) -> None:
    acknowledged = threading.Event()
    one = made(tmp_path, settings=IngestSettings(flush_s=3600))
    one.open()
    one.inbox.put(said("s/heat", "1"))
    one.inbox.put(said("s/heat", "2", acknowledged.set))
    assert one.close(timeout_s=60)
    assert acknowledged.is_set()
    assert read_stored(tmp_path).received == 2
    assert read_readings(tmp_path).values.tolist() == [2]  # of one moment, and one column


def test_what_was_not_acknowledged_when_the_broker_went_is_stored_all_the_same(tmp_path: Path) -> None:
    """A broker that was killed may have forgotten what it has sent."""
    acknowledged = threading.Event()
    one = made(tmp_path, settings=IngestSettings(flush_s=3600))
    one.open()
    one.inbox.put(said("s/heat", "1", acknowledged.set))
    one.inbox.put(InboxItem(event=TransportDisconnected(connection="data", reason="gone")))
    until(lambda: rows(tmp_path) == 1)
    assert not acknowledged.is_set()
    assert one.close()
    assert read_memo(tmp_path, "sources") == {"mqtt": "gone"}


def test_a_disk_that_takes_nothing_is_tried_again_and_nothing_is_acknowledged_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "RETRY_S", 0.02)
    real, refusals, acknowledged = ReadingStore.add, iter([1, 2, 3]), threading.Event()

    def add(self: object, *given: object, **more: object) -> None:
        if next(refusals, None) is not None:
            assert not acknowledged.is_set()
            raise StorageError("the disk is full")
        real(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ReadingStore, "add", add)
    one = made(tmp_path)
    one.open()
    one.inbox.put(said("s/heat", "1", acknowledged.set))
    assert acknowledged.wait(60)
    assert next(refusals, None) is None
    assert one.close()
    assert read_stored(tmp_path).received == 1


def test_a_batch_is_bounded_whatever_the_inbox_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "BATCH_READINGS_MAX", 50)
    sizes: list[int] = []
    real = ReadingStore.add

    def add(self: object, block: Block | None, **more: object) -> None:
        sizes.append(0 if block is None else len(block.times))
        real(self, block, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ReadingStore, "add", add)
    one = made(tmp_path, settings=IngestSettings(flush_s=3600))
    for number in range(1_000):
        one.inbox.put(said("j", f'{{"v": {number}, "t": {number}}}'))
    one.open()
    until(lambda: rows(tmp_path) >= 950)
    assert one.close()
    assert max(sizes) <= 50
    assert rows(tmp_path) == 1_000


def test_hostile_messages_are_counted_and_change_nothing_else(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.open()
    bad = ["nan", "1e400", "x", "\x00", '{"a":1}']
    for payload in bad:
        one.inbox.put(said("s/heat", payload))
    for payload in ("[" * 50_000, '{"v": NaN, "t": 1}', '{"v": 1, "t": 1e20}', '{"v": "1e999", "t": 1}', '{"t": 1}'):
        one.inbox.put(said("j", payload))
    one.inbox.put(said("j", f'{{"v": 1, "t": {NOW + 3_600}}}'))
    one.inbox.put(said("elsewhere", "1"))
    one.inbox.put(said("s/heat", "5"))
    until(lambda: rows(tmp_path) == 1)
    assert one.close()
    refused = read_stored(tmp_path).refused
    assert refused["from the future"] == 1
    assert refused["no such topic"] == 1
    assert sum(refused.values()) == len(bad) + 5 + 2
    assert read_readings(tmp_path).values.tolist() == [5.0]


def test_topics_that_make_new_columns_for_ever_are_bounded(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.open()
    for number in range(COLUMNS_MAX + 44):
        one.inbox.put(said(f"s/c{number}", "1"))
    until(lambda: read_stored(tmp_path).refused.get("too many columns", 0) == 44)
    one.inbox.put(said("s/c7", "2"))
    until(lambda: rows(tmp_path) == COLUMNS_MAX + 1)
    assert one.close()
    assert len(read_stored(tmp_path).columns) == COLUMNS_MAX


def test_only_the_columns_that_are_asked_for_are_kept(tmp_path: Path) -> None:
    one = made(tmp_path, settings=IngestSettings(flush_s=0.01, plausible=Plausible(columns=("heat",))))
    one.open()
    for name in ("flow", "heat", "x"):
        one.inbox.put(said(f"s/{name}", "1"))
    until(lambda: rows(tmp_path) == 1)
    assert one.close()
    stored = read_stored(tmp_path)
    assert (stored.columns, stored.refused) == (("heat",), {"not in data.columns": 2})


def test_a_file_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("t,heat\n1,20\n2,21\n")
    source = FileSource(name="f", pattern=str(file), time="t")
    settings = IngestSettings(flush_s=0.01, poll_s=0.02)
    for expected in (2, 4):
        one = made(tmp_path, settings=settings, sources=(source,))
        one.open()
        until(lambda expected=expected: rows(tmp_path) == expected)  # type: ignore[misc]
        assert one.close()
        with file.open("a") as more:
            more.write("3,22\n4,23\n")
    assert read_readings(tmp_path).values.tolist() == [20, 21, 22, 23]


class Broken:
    name = "broken"

    def poll(self, cursor: object, now: float) -> Polled:
        raise ValueError("out of order")


def test_a_source_that_raises_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("t,heat\n1,20\n")
    sources = (Broken(), FileSource(name="f", pattern=str(file), time="t"))
    one = made(tmp_path, settings=IngestSettings(flush_s=0.01, poll_s=0.02), sources=sources)
    one.open()
    until(lambda: rows(tmp_path) == 1)
    until(lambda: "broken" in str(read_memo(tmp_path, "sources")))
    assert one.close()
    assert "ValueError: out of order" in str(read_memo(tmp_path, "sources"))


def test_an_iterable_gives_rows_and_its_end_is_said(tmp_path: Path) -> None:
    def rows_of() -> Iterator[Mapping[str, object]]:
        yield {"time": 5, "heat": 1.5, "flow": "2"}
        yield {"time": "never", "heat": 1}
        yield {"heat": float("nan"), "flow": 3}
        raise RuntimeError("unplugged")

    one = made(tmp_path, settings=IngestSettings(flush_s=0.01), rows=rows_of)
    one.open()
    until(lambda: rows(tmp_path) == 3)
    until(lambda: "unplugged" in str(read_memo(tmp_path, "sources")))
    assert one.close()
    assert read_stored(tmp_path).refused == {"not a time": 1, "not finite": 1}


def test_readings_are_heard_before_they_are_stored(tmp_path: Path) -> None:
    heard: list[object] = []
    one = made(tmp_path, settings=IngestSettings(flush_s=3600), hear=heard.extend)
    one.open()
    one.inbox.put(said("s/heat", "1"))
    until(lambda: len(heard) == 1)
    assert heard == [(NOW, "heat", 1.0)]
    assert rows(tmp_path) == 0
    assert one.close()


def test_a_clock_that_jumps_is_noticed(tmp_path: Path) -> None:
    walls = [NOW]
    one = made(tmp_path, settings=IngestSettings(flush_s=0.01), wall=lambda: walls[0])
    one.open()
    walls[0] = NOW + 86_400
    one.inbox.put(said("s/heat", "1"))
    until(lambda: read_stored(tmp_path).refused.get("the clock has jumped", 0) == 1)
    assert one.close()


def test_a_damaged_store_is_told_to_whoever_opens_it(tmp_path: Path) -> None:
    (tmp_path / READINGS).write_bytes(b"x" * 5_000)
    one = made(tmp_path)
    with pytest.raises(StorageError):
        one.open()
    assert not one.alive


def test_a_store_that_cannot_say_how_far_a_source_was_read_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread used to end, and whoever had opened it believed that it read."""

    def damaged(_store: ReadingStore, _source: str) -> object:
        raise StorageError("a page is damaged")

    monkeypatch.setattr(ReadingStore, "cursor", damaged)
    one = made(tmp_path)
    with pytest.raises(StorageError, match="damaged"):
        one.open()
    assert not one.alive


def test_the_store_is_one_file_that_sqlite_calls_whole(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.open()
    for number in range(500):
        one.inbox.put(said("j", f'{{"v": 1, "t": {number}}}'))
    until(lambda: rows(tmp_path) == 500)
    assert one.close()
    with sqlite3.connect(tmp_path / READINGS) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_column_of_two_topics_is_said_once_however_long_both_go_on(tmp_path: Path) -> None:
    one = made(tmp_path, topics=TopicMap([TopicRule(topic="s/+", columns={"heat": None})]))
    with capture_logs() as logs:
        one.open()
        for number in range(3):
            stored = threading.Event()
            one.inbox.put(said("s/a", str(number)))
            one.inbox.put(said("s/b", str(number), stored.set))
            assert stored.wait(30)
        assert one.close()
    assert [line["topic"] for line in logs if line["event"] == "column_of_two_topics"] == ["s/b"]
