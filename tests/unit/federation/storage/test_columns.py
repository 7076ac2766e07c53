"""A record's fields are its columns: what is said of them once holds for the table, the row and the record."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import pytest

from federation.storage.columns import UNSIGNED, Columns, DamagedRow
from federation.storage.sqlite import Connection, Row

Name = NewType("Name", str)
Alias = NewType("Alias", Name)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    name: Alias
    count: int = 0
    share: int = 0
    weight: float = 0.5
    sound: bool = True
    body: bytes = b""
    colour: Colour = Colour.RED
    metrics: Mapping[str, float] = field(default_factory=dict)
    maker: Name | None = None
    told: Mapping[str, int] | None = None
    parts: tuple[int, ...] = ()


THING = Columns(Thing, names={"count": "how_many"}, kinds={"share": UNSIGNED}, without={"parts"})

INSERT = "INSERT INTO things VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@pytest.fixture
def database() -> Iterator[Connection]:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = Row
    connection.execute(f"CREATE TABLE things ({THING.definitions(name='TEXT PRIMARY KEY')})")
    yield connection
    connection.close()


def test_each_field_is_a_column_of_its_type(database: Connection) -> None:
    rows = database.execute("SELECT * FROM pragma_table_info('things')").fetchall()
    assert {row["name"]: (row["type"], row["notnull"], row["pk"]) for row in rows} == {
        "name": ("TEXT", 0, 1),
        "how_many": ("INTEGER", 1, 0),
        "share": ("TEXT", 1, 0),
        "weight": ("REAL", 1, 0),
        "sound": ("INTEGER", 1, 0),
        "body": ("BLOB", 1, 0),
        "colour": ("TEXT", 1, 0),
        "metrics": ("TEXT", 1, 0),
        "maker": ("TEXT", 0, 0),
        "told": ("TEXT", 0, 0),
    }
    assert THING.names == ", ".join(row["name"] for row in rows)


@pytest.mark.parametrize(
    "thing",
    [
        Thing(name=Alias(Name("least"))),
        Thing(
            name=Alias(Name("full")),
            count=-3,
            share=2**64 - 1,
            weight=1e300,
            sound=False,
            body=b"\0\xff",
            metrics={"loss": 0.1 + 0.2},
            maker=Name("me"),
            told={"x": 1},
        ),
    ],
)
def test_a_record_comes_back_as_it_was(database: Connection, thing: Thing) -> None:
    row = THING.row(thing)
    database.execute(INSERT, tuple(row.values()))
    again = THING.record(database.execute("SELECT * FROM things").fetchone())
    assert again == thing
    assert [type(getattr(again, name)) for name in ("sound", "colour", "share")] == [bool, Colour, int]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", b"\xff"),
        ("how_many", "many"),
        ("how_many", 0.5),
        ("share", "x7"),
        ("weight", "heavy"),
        ("sound", b"\x01"),
        ("body", "text"),
        ("colour", "blue"),
        ("metrics", "[1]"),
        ("metrics", "{"),
        ("told", 5.0),
    ],
)
def test_a_value_that_its_column_has_not_is_damage(database: Connection, column: str, value: object) -> None:
    """SQLite keeps text in a column of numbers: a bit that has turned is no number of ours, and no traceback."""
    database.execute(INSERT, tuple(THING.row(Thing(name=Alias(Name("x")))).values()))
    database.execute(f"UPDATE things SET {column} = ?", (value,))  # noqa: S608 - a name of the test's
    with pytest.raises(DamagedRow, match="a row is damaged: its"):
        THING.record(database.execute("SELECT * FROM things").fetchone())


def test_what_is_no_column_is_given(database: Connection) -> None:
    row = THING.row(Thing(name=Alias(Name("x")), parts=(1, 2)))
    assert "parts" not in row
    database.execute(INSERT, tuple(row.values()))
    assert THING.record(database.execute("SELECT * FROM things").fetchone(), parts=(3,)).parts == (3,)


def test_a_field_of_a_type_that_no_column_has_is_our_mistake() -> None:
    with pytest.raises(KeyError, match="tuple"):
        Columns(Thing)
