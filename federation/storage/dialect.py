"""Statements of SQLite, as PostgreSQL says them: its types, its placeholders, its `INSERT OR`.

Three things have no counterpart, and are kept so that rows read the same on both: a column without a type
(`meta.value`) is JSON; a row number that leaves no gap where a transaction is rolled back (`AUTOINCREMENT`) is counted
by a trigger; and the order of arrival (`rowid`) is a column. Text is compared byte by byte, as SQLite does, whatever
the server's locale.
"""

import re
from functools import cache

__all__ = ["insertion", "translated"]

_TYPES = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "BLOB": "BYTEA", "TEXT": 'TEXT COLLATE "C"'}
_TYPE = re.compile(rf"\b({'|'.join(_TYPES)})\b")
_GREATER = re.compile(r"\bMAX\((\w+(?:\.\w+)?, excluded\.\w+)\)")
_TYPELESS = ("meta", "value")


@cache
def translated(statement: str) -> str:
    """A statement of SQLite's, as PostgreSQL says it; a new table's also have what counts their rows."""
    words = statement.replace("%", "%%").replace("?", "%s").replace("sqlite_sequence", "row_numbers")
    words = _GREATER.sub(r"GREATEST(\1)", words)
    if words.lstrip().startswith(("CREATE TABLE", "ALTER TABLE")):
        words = _table_words(words)
    return words


def _table_words(words: str) -> str:
    table = words.partition("(")[0].rsplit(maxsplit=1)[-1]
    if table == _TYPELESS[0]:
        words = words.replace(f"{_TYPELESS[1]} BLOB", f"{_TYPELESS[1]} JSON")
    counted = "AUTOINCREMENT" in words
    words = words.replace(" AUTOINCREMENT", "").replace(" WITHOUT ROWID", "")
    words = _TYPE.sub(lambda found: _TYPES[found[1]], words)
    if table == "transfers" and words.startswith("CREATE"):
        words = f"{words[:-1]}, rowid BIGINT GENERATED ALWAYS AS IDENTITY)"
    return f"{words}; {_COUNTER.format(table=table)}" if counted else words


_COUNTER = """
CREATE TABLE IF NOT EXISTS row_numbers (name TEXT PRIMARY KEY, seq BIGINT NOT NULL);
INSERT INTO row_numbers VALUES ('{table}', 0) ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION number_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq IS NULL THEN
        UPDATE row_numbers SET seq = seq + 1 WHERE name = '{table}' RETURNING seq INTO NEW.seq;
    ELSE
        UPDATE row_numbers SET seq = GREATEST(seq, NEW.seq) WHERE name = '{table}';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER number BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION number_{table}()
"""


@cache
def insertion(
    table: str, columns: tuple[str, ...], conflict: str, key: tuple[str, ...], all_columns: tuple[str, ...]
) -> str:
    """Adds a row; a conflict is about the key, of whose table these are all columns."""
    marks = ", ".join(["%s"] * len(columns))
    words = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names
    # What SQLite replaces is a new row: a column that is not given has its default again.
    changes = ", ".join(f"{name} = excluded.{name}" for name in all_columns if name not in key)
    match conflict:
        case "REPLACE":
            words += f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
        case "IGNORE":
            words += " ON CONFLICT DO NOTHING"
    return words
