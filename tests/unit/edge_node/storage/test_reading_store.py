"""Readings are kept within bounds, oldest out first, and what went is counted; a store says what is wrong with it."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_node.storage.reading_store import (
    COLUMNS_MAX,
    LAYOUT,
    READING_BYTES,
    READINGS,
    Block,
    Bounds,
    ReadingStore,
    read_memo,
    read_newest,
    read_readings,
    read_stored,
)
from federation.errors import DamagedStore, StorageError


def block(first: int, count: int, column: str = "heat") -> Block:
    times = [float(first + number) for number in range(count)]
    return Block(times, [column] * count, times)


def test_what_is_stored_is_read_by_time_and_column(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    store.add(Block([3.0, 1.0, 2.0], ["heat", "flow", "heat"], [30.0, 10.0, 20.0]))
    store.add(Block([0.5], ["flow"], [5.0]))
    found = read_readings(tmp_path)
    assert found.names == ("heat", "flow")
    assert list(zip(found.times, found.columns, found.values, strict=True)) == [
        (0.5, 1, 5.0),
        (1.0, 1, 10.0),
        (2.0, 0, 20.0),
        (3.0, 0, 30.0),
    ]
    chosen = read_readings(tmp_path, ["none", "flow"], since=1.0)
    assert (chosen.times.tolist(), chosen.columns.tolist()) == ([1.0], [1])
    assert found.of("flow")[1].tolist() == [5.0, 10.0]
    assert len(found.of("none")[0]) == 0
    assert read_newest(tmp_path) == {"heat": (2, 3.0, 30.0), "flow": (2, 1.0, 10.0)}
    store.close()


def test_of_two_readings_of_one_moment_the_later_counts(tmp_path: Path) -> None:
    """A broker that was not told in time sends a message again; a corrected row comes after the wrong one."""
    store = ReadingStore(tmp_path)
    store.add(Block([1.0, 2.0], ["heat", "heat"], [10.0, 20.0]))
    store.add(Block([2.0, 1.0, 1.0], ["heat", "heat", "flow"], [20.0, 11.0, 1.0]))
    found = read_readings(tmp_path, ["heat"])
    assert found.values.tolist() == [11.0, 20.0]
    store.close()


def test_a_store_knows_everything_after_a_restart(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    store.add(block(0, 5), cursors={"f": {"a": [1, 2]}}, refused={"not a number": 2}, memos={"drift": [1]})
    store.add(None, cursors={"f": 7}, refused={"not a number": 3})
    store.close()
    store = ReadingStore(tmp_path)
    assert (store.rows, store.cursor("f"), store.cursor("g")) == (5, 7, None)
    assert store.knows("heat")
    assert read_memo(tmp_path, "drift") == [1]
    assert read_memo(tmp_path, "none") is None
    said = read_stored(tmp_path)
    assert (said.rows, said.bytes, said.oldest, said.newest, said.received) == (5, 70, 0.0, 4.0, 5)
    assert (said.refused, said.dropped, said.columns) == ({"not a number": 5}, {}, ("heat",))
    store.close()


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [(Bounds(rows=100), "rows"), (Bounds(bytes=1400), "bytes"), (Bounds(age_s=99), "age")],
)
def test_over_a_bound_the_oldest_go_and_are_counted(tmp_path: Path, bounds: Bounds, reason: str) -> None:
    store = ReadingStore(tmp_path, bounds)
    for number in range(30):
        store.add(block(10 * number, 10))
        assert store.rows <= 110
    said = read_stored(tmp_path)
    assert said.rows + said.dropped[reason] == said.received == 300
    assert set(said.dropped) == {reason}
    assert said.newest == 299.0
    assert 80 <= said.rows <= 110
    assert read_readings(tmp_path).times[0] == 300 - said.rows
    store.close()


def test_after_the_clock_has_jumped_nothing_goes_because_of_its_age(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, Bounds(age_s=100))
    store.add(block(0, 10))
    store.add(block(1_000_000, 10), latest=None)
    assert store.rows == 20
    store.add(block(1_000_010, 10))
    assert store.rows == 20
    store.close()


def test_no_more_columns_than_there_is_room_for(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    names = [f"c{number}" for number in range(COLUMNS_MAX)]
    store.add(Block([1.0] * COLUMNS_MAX, names, [1.0] * COLUMNS_MAX))
    assert store.room == 0
    assert len(read_readings(tmp_path).times) == COLUMNS_MAX
    store.close()


def test_nothing_of_a_batch_that_fails_is_stored(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    store.add(block(0, 5))
    with pytest.raises(TypeError):
        store.add(block(5, 5), memos={"bad": object()})
    assert (store.rows, store.knows("heat")) == (5, True)
    with pytest.raises(TypeError):
        store.add(block(5, 5, "flow"), memos={"bad": object()})
    assert not store.knows("flow")
    store.add(block(5, 5, "flow"))
    found = read_readings(tmp_path, ["flow"])
    assert found.values.tolist() == [5, 6, 7, 8, 9]
    store.close()


def test_a_damaged_block_is_noticed(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    store.add(block(0, 5))
    store.close()
    with sqlite3.connect(tmp_path / READINGS) as database:
        database.execute("UPDATE block SET body = X'00'")
    database.close()
    with pytest.raises(DamagedStore, match="block 1"):
        read_readings(tmp_path)


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / READINGS).write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"delete readings\.sqlite"):
        ReadingStore(tmp_path)


def test_a_folder_without_a_store_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has the node \[data\]"):
        read_stored(tmp_path)


def test_values_are_kept_as_float32_and_times_as_float64(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    store.add(Block([1_700_000_000.123456], ["heat"], [0.1]))
    found = read_readings(tmp_path)
    assert found.times[0] == 1_700_000_000.123456
    assert found.values[0] == np.float32(0.1)
    store.close()


def test_a_transaction_writes_little_more_than_its_readings(tmp_path: Path) -> None:
    """Ten readings a second for thirty seconds: whole pages of 4 KiB would be three times as much as they hold."""
    store, log = ReadingStore(tmp_path), tmp_path / f"{READINGS}-wal"
    store.add(block(0, 300))
    before = log.stat().st_size
    for _ in range(10):
        store.add(block(0, 300))
    assert (log.stat().st_size - before) / 10 < 2 * 300 * READING_BYTES
    store.close()


def test_a_store_of_before_keeps_its_pages_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.storage.reading_store.LAYOUT", replace(LAYOUT, page_bytes=4_096))
    store = ReadingStore(tmp_path)
    store.add(Block([1.0], ["heat"], [2.0]))
    store.close()
    monkeypatch.undo()
    store = ReadingStore(tmp_path)
    store.add(Block([2.0], ["heat"], [3.0]))
    store.close()
    assert read_readings(tmp_path).values.tolist() == [2.0, 3.0]
    with sqlite3.connect(tmp_path / READINGS) as known:
        assert known.execute("PRAGMA page_size").fetchone() == (4_096,)
    known.close()


def test_nothing_is_too_old_for_readings_of_a_clock_that_was_ahead(tmp_path: Path) -> None:
    """Months of readings went, an hour after a clock that was set to 2030 by mistake was right again."""
    store = ReadingStore(tmp_path, Bounds(age_s=100))
    store.add(block(0, 10), latest=None)
    store.add(block(1_000_000, 1), latest=None)
    store.add(block(10, 10), latest=80)
    assert store.rows == 21
    # And what is too old goes as ever, though the wrong ones lie before it.
    store.add(block(300, 10), latest=370)
    assert read_readings(tmp_path).times.tolist() == [*range(300, 310), 1_000_000]
    assert read_stored(tmp_path).dropped == {"age": 20}
    store.close()


def test_a_clock_that_is_behind_all_readings_keeps_to_the_bounds(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, Bounds(rows=100))
    for first in range(1_000, 2_000, 10):
        store.add(block(first, 10), latest=60)
    assert store.rows <= 110
    store.close()
