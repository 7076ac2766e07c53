"""What PostgreSQL is given for a statement of SQLite."""

import pytest

from federation.storage.dialect import insertion, translated


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT value FROM meta WHERE key = ?", "SELECT value FROM meta WHERE key = %s"),
        ("SELECT 7 % ? FROM meta", "SELECT 7 %% %s FROM meta"),
        ("SET steps = MAX(spent.steps, excluded.steps)", "SET steps = GREATEST(spent.steps, excluded.steps)"),
        ("SELECT MAX(version) FROM versions", "SELECT MAX(version) FROM versions"),
        ("SELECT seq FROM sqlite_sequence", "SELECT seq FROM row_numbers"),
        ("DELETE FROM updates WHERE codec = 'INTEGER'", "DELETE FROM updates WHERE codec = 'INTEGER'"),
    ],
)
def test_a_statement_is_translated(statement: str, words: str) -> None:
    assert translated(statement) == words


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "CREATE TABLE a (n INTEGER PRIMARY KEY, r REAL, b BLOB, t TEXT NOT NULL) WITHOUT ROWID",
            'CREATE TABLE a (n BIGINT PRIMARY KEY, r DOUBLE PRECISION, b BYTEA, t TEXT COLLATE "C" NOT NULL)',
        ),
        (
            "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
            'CREATE TABLE IF NOT EXISTS meta (key TEXT COLLATE "C" PRIMARY KEY, value JSON NOT NULL)',
        ),
        ("ALTER TABLE batches ADD COLUMN others BLOB", "ALTER TABLE batches ADD COLUMN others BYTEA"),
        (
            "CREATE TABLE IF NOT EXISTS transfers (n INTEGER)",
            "CREATE TABLE IF NOT EXISTS transfers (n BIGINT, rowid BIGINT GENERATED ALWAYS AS IDENTITY)",
        ),
    ],
)
def test_a_table_has_the_types_of_the_other_engine(statement: str, words: str) -> None:
    assert translated(statement) == words


def test_a_table_that_numbers_its_rows_gets_a_trigger_that_leaves_no_gap() -> None:
    words = translated("CREATE TABLE IF NOT EXISTS updates (seq INTEGER PRIMARY KEY AUTOINCREMENT)")
    assert words.startswith("CREATE TABLE IF NOT EXISTS updates (seq BIGINT PRIMARY KEY); ")
    assert "UPDATE row_numbers SET seq = seq + 1 WHERE name = 'updates' RETURNING seq INTO NEW.seq" in words


def test_a_row_that_replaces_another_one_has_defaults_where_nothing_is_given() -> None:
    start = "INSERT INTO parts (kind, frame) VALUES (%s, %s)"
    rest = (("kind",), ("kind", "frame", "cleared"))
    assert insertion("parts", ("kind", "frame"), "ABORT", *rest) == start
    assert insertion("parts", ("kind", "frame"), "IGNORE", *rest) == f"{start} ON CONFLICT DO NOTHING"
    assert insertion("parts", ("kind", "frame"), "REPLACE", *rest) == (
        f"{start} ON CONFLICT (kind) DO UPDATE SET frame = excluded.frame, cleared = excluded.cleared"
    )
