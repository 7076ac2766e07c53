"""Files that grow and tables that others write: each row once, a half-written line waits, what is wrong is counted."""

import builtins
import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edge_node.readings import sources
from edge_node.readings.sources import FileSource, Polled, TableSource
from edge_node.storage.foreign_table import ROWS_MAX


def source(path: Path, **changes: Any) -> FileSource:
    return FileSource(**{"name": "f", "pattern": str(path), "time": "t", **changes})


def polled(source: FileSource | TableSource, cursor: object = None) -> Polled:
    return source.poll(cursor, 1000.0)


def test_what_is_appended_is_read_once_and_a_half_written_line_waits(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("t,heat\n1,20\n2,2")
    first = polled(source(file))
    assert first.readings == [(1.0, "heat", 20.0)]
    with file.open("a") as more:
        more.write("1\n3,22\n")
    second = polled(source(file), first.cursor)
    assert second.readings == [(2.0, "heat", 21.0), (3.0, "heat", 22.0)]
    assert polled(source(file), second.cursor).readings == []


@pytest.mark.parametrize("cut", range(1, 40))
def test_wherever_a_write_stops_each_row_is_read_once(tmp_path: Path, cut: int) -> None:
    file, body = tmp_path / "a.csv", b"t;heat in C;ok\n1;20,5;on\n2;21;off\n3;;on\n"
    asked = source(file, columns={"heat": "heat in C", "ok": "ok"}, decimal=",")
    file.write_bytes(body[:cut])
    first = polled(asked)
    with file.open("ab") as more:
        more.write(body[cut:])
    second = polled(asked, first.cursor)
    assert first.readings + second.readings == [
        (1.0, "heat", 20.5),
        (1.0, "ok", 1.0),
        (2.0, "heat", 21.0),
        (2.0, "ok", 0.0),
        (3.0, "ok", 1.0),
    ]
    assert first.refused + second.refused == {"no value": 1}


def test_a_file_that_was_replaced_or_cut_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("t,heat\n1,20\n2,21\n")
    cursor = polled(source(file)).cursor
    file.write_text("t,heat\n9,30\n")
    cut = polled(source(file), cursor)
    assert cut.readings == [(9.0, "heat", 30.0)]
    file.write_text("t,flow\n9,30\n10,31\n11,32\n")
    assert [row[1] for row in polled(source(file), cut.cursor).readings] == ["flow"] * 3


@pytest.mark.parametrize("former", ["log.csv.1", "log.csv-20260101", "log.csv.1.gz"])
def test_the_last_lines_before_a_rotation_are_read(tmp_path: Path, former: str) -> None:
    """What was appended between the last look and the renaming was lost."""
    file = tmp_path / "log.csv"
    file.write_text("t,heat\n1,20\n2,21\n")
    cursor = polled(source(file)).cursor
    with file.open("a") as log:
        log.write("3,22\n4,23\n")
    file.rename(tmp_path / former)
    (tmp_path / "log.csv.2").write_text("t,heat\n0,19\n")
    file.write_text("t,heat\n5,24\n")
    found = polled(source(file), cursor)
    assert [one[0] for one in found.readings] == [3.0, 4.0, 5.0]
    assert polled(source(file), found.cursor).readings == []


def test_a_look_between_the_renaming_and_the_next_file_takes_the_last_lines(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("t,heat\n1,20\n")
    cursor = polled(source(file)).cursor
    with file.open("a") as log:
        log.write("2,21\n")
    file.rename(tmp_path / "log.csv.1")
    between = polled(source(file), cursor)
    assert [one[0] for one in between.readings] == [2.0]
    file.write_text("t,heat\n3,22\n")
    assert [one[0] for one in polled(source(file), between.cursor).readings] == [3.0]


def test_a_former_file_that_cannot_be_read_costs_its_own_lines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotation may leave it to root: the next file was never read."""
    file = tmp_path / "log.csv"
    file.write_text("t,heat\n1,20\n")
    cursor = polled(source(file)).cursor
    file.rename(tmp_path / "log.csv.1")
    file.write_text("t,heat\n2,21\n")

    def barred(path: str, mode: str) -> Any:
        if path.endswith(".1"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return builtins.open(path, mode)  # noqa: PTH123 - as the source does

    monkeypatch.setattr(sources, "open", barred, raising=False)
    found = polled(source(file), cursor)
    assert (found.readings, found.problem) == ([(2.0, "heat", 21.0)], "")


def test_what_is_read_by_its_own_name_is_not_read_as_a_former_one(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("t,heat\n1,20\n")
    cursor = polled(source(tmp_path / "log.csv*")).cursor
    file.rename(tmp_path / "log.csv.1")
    file.write_text("t,heat\n2,21\n")
    assert sorted(polled(source(tmp_path / "log.csv*"), cursor).readings) == [(1.0, "heat", 20.0), (2.0, "heat", 21.0)]


def test_a_folder_has_all_its_files_and_one_that_went_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,heat\n1,20\n")
    (tmp_path / "b.csv").write_text("t,heat\n2,21\n")
    (tmp_path / "c.txt").write_text("t,heat\n3,22\n")
    first = polled(source(tmp_path))
    assert [row[0] for row in first.readings] == [1.0, 2.0]
    (tmp_path / "a.csv").unlink()
    second = polled(source(tmp_path), first.cursor)
    assert second.readings == []
    assert list(second.cursor) == [str(tmp_path / "b.csv")]  # type: ignore[call-overload]


def test_rows_without_a_time_keep_their_order(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("heat\n5\n6\n7\n")
    found = polled(source(file, time=None)).readings
    assert [value for *_, value in found] == [5, 6, 7]
    assert sorted({when for when, *_ in found}) == [when for when, *_ in found]


def test_what_is_wrong_with_a_file_is_counted_or_said(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    assert "no file" in polled(source(file)).problem
    file.write_text('t,heat\n1\nsoon,2\n3,x\n4,1e400\n"5,6\n' + "9" * 70_000 + "\n7,8\n")
    found = polled(source(file))
    assert found.readings == [(7.0, "heat", 8.0)]
    assert found.refused == {
        "row of another length": 2,
        "not a time": 1,
        "not a number": 1,
        "not finite": 1,
        "line too long": 1,
    }
    missing = polled(source(file, columns={"a": "flow"}))
    assert "no column flow among t, heat" in missing.problem


@pytest.mark.parametrize(
    "cursor", ["x", 5, [1], {"a": 1}, {"%s": [1, 2]}, {"%s": [10**9, 5, 7, "t,heat"]}, {"%s": None}]
)
def test_a_cursor_that_means_nothing_begins_anew(tmp_path: Path, cursor: Any) -> None:
    file = tmp_path / "a.csv"
    file.write_text("t,heat\n1,20\n")
    if isinstance(cursor, dict):
        cursor = {(str(file) if name == "%s" else name): value for name, value in cursor.items()}
    assert polled(source(file), cursor).readings == [(1.0, "heat", 20.0)]


def table(path: Path) -> TableSource:
    return TableSource(
        name="t", path=path, table="log", cursor="id", time="at", columns={"heat": "temp c", "on": "state"}
    )


def test_a_table_is_read_forward(tmp_path: Path) -> None:
    path = tmp_path / "plant.db"
    with sqlite3.connect(path) as writer:
        writer.execute('CREATE TABLE log (id INTEGER PRIMARY KEY, at TEXT, "temp c" REAL, state TEXT)')
        rows = [("1970-01-01T00:00:05", 20.5, "on"), (6, None, "off"), ("soon", 1, "on"), (8, b"\0", "x")]
        writer.executemany('INSERT INTO log (at, "temp c", state) VALUES (?, ?, ?)', rows)
    first = polled(table(path))
    assert first.readings == [(5.0, "heat", 20.5), (5.0, "on", 1.0), (6.0, "on", 0.0)]
    assert first.refused == {"no value": 1, "not a time": 1, "not a number": 2}
    with sqlite3.connect(path) as writer:
        writer.execute('INSERT INTO log (at, "temp c", state) VALUES (9, 30, 1)')
    second = polled(table(path), first.cursor)
    assert second.readings == [(9.0, "heat", 30.0), (9.0, "on", 1.0)]
    writer.close()


def made(path: Path, *rows: tuple[object, ...]) -> None:
    with sqlite3.connect(path) as writer:
        writer.execute("CREATE TABLE IF NOT EXISTS log (at, value)")
        writer.executemany("INSERT INTO log VALUES (?, ?)", rows)
    writer.close()


def by_time(path: Path) -> TableSource:
    return TableSource(name="t", path=path, table="log", cursor="at", time="at", columns={"heat": "value"})


def test_rows_that_share_a_time_are_all_read_wherever_a_look_ends(tmp_path: Path) -> None:
    """Those behind the border of a look, and those of the same second that came after it, were lost."""
    path, count = tmp_path / "plant.db", 2 * ROWS_MAX + 500
    made(path, *((row // 7, row) for row in range(count)))
    found, cursor, looks = list[float](), None, 0
    while True:
        look = polled(by_time(path), cursor)
        found, cursor, looks = [*found, *(value for _, _, value in look.readings)], look.cursor, looks + 1
        if not look.more:
            break
    assert found == list(range(count))
    assert looks == 3
    last = (count - 1) // 7
    made(path, (last, -1), (last + 1, -2))
    late = polled(by_time(path), cursor)
    assert [value for _, _, value in late.readings] == [-1, -2]
    assert polled(by_time(path), late.cursor).readings == []


def test_a_table_that_was_made_anew_is_read_from_its_begin(tmp_path: Path) -> None:
    """Its ids began with 1 again, and nothing was read until they had passed the former ones."""
    path = tmp_path / "plant.db"
    made(path, *((row, row) for row in range(100, 110)))
    cursor = polled(by_time(path)).cursor
    with sqlite3.connect(path) as writer:
        writer.execute("DELETE FROM log")
    writer.close()
    assert polled(by_time(path), cursor).readings == [], "nothing is there"
    assert polled(by_time(path), cursor).cursor == cursor
    made(path, (1, 7.0))
    again = polled(by_time(path), cursor)
    assert again.readings == [(1.0, "heat", 7.0)]
    assert polled(by_time(path), again.cursor).readings == []


@pytest.mark.parametrize("cursor", [3, 3.0, [3, 1]])
def test_a_cursor_of_an_older_release_goes_on(tmp_path: Path, cursor: object) -> None:
    path = tmp_path / "plant.db"
    made(path, *((row, row) for row in range(6)))
    assert [value for _, _, value in polled(by_time(path), cursor).readings] == [4, 5]


def test_a_table_that_is_not_there_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    assert "there is no" in polled(table(tmp_path / "none.db"), 7).problem
    assert polled(table(tmp_path / "none.db"), 7).cursor == 7
    (tmp_path / "x.db").write_text("no database at all, and longer than a header would be " * 20)
    assert "x.db" in polled(table(tmp_path / "x.db")).problem
    sqlite3.connect(tmp_path / "y.db").close()
    (tmp_path / "y.db").touch()
    assert "no such table" in polled(table(tmp_path / "y.db")).problem


@pytest.mark.parametrize("header", ["t,Küche,Köche", "t,heat,heat", "t,a b,a_b"])
def test_columns_of_a_file_that_would_be_one_are_named(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n1,20,90\n")
    found = polled(source(tmp_path))
    assert found.readings == []
    assert f"its columns {header.split(',')[1]!r} and {header.split(',')[2]!r} would be one" in found.problem
    assert found.refused["two of one name"] == 1
    if header == "t,heat,heat":
        assert "would be one" in polled(source(tmp_path, columns={"x": "heat"})).problem
        return
    chosen = source(tmp_path, columns={"x": header.split(",")[1], "y": header.split(",")[2]})
    assert polled(chosen).readings == [(1.0, "x", 20.0), (1.0, "y", 90.0)]
