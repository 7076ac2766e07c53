"""A table's file as text: unpacked, decoded, and told apart from what is no text."""

import codecs
import gzip
import zlib
from pathlib import Path

from federation.errors import TaskError

__all__ = ["TABLE_BYTES_MAX", "read_text"]

TABLE_BYTES_MAX = 1 << 30
"""A packed table with more bytes once unpacked is refused."""

GZIP = b"\x1f\x8b"

OTHERS = (
    (b"PK\x03\x04", "an Excel workbook, or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "a database of SQLite"),
    (b"%PDF", "a PDF document"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
)
"""How files begin that people have in place of a table of text, and what they are."""

PRINTED = bytes(range(32, 127)) + b"\t\r\n"
"""A column may be called PAR1: what is not text has other bytes, too."""

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, encoding: str | None = None) -> str:
    """The text of a file, which gzip may have packed, whatever it is called.

    Args:
        path: The file.
        encoding: A name that Python knows; None is UTF-8, or what a byte order mark says.

    Raises:
        TaskError: It cannot be read, or is no text; it is said what it is, or which line is wrong.
    """
    try:
        content = _content(path)
        found = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
        text = content.decode(encoding or found)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        remedy = "give encoding=, such as 'cp1252' for what Excel saves as CSV in Western Europe"
        if 4 * content.count(b"\0") > len(content):
            remedy = "give encoding=, such as 'utf-16-le': every other byte is zero"
        raise TaskError(f"{path} cannot be read: line {line} is not {error.encoding}: {remedy}") from error
    except (OSError, EOFError, zlib.error, LookupError, MemoryError) as error:
        raise TaskError(f"{path} cannot be read: {error}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise TaskError(f"{path} cannot be read: line {line} has a zero byte: give encoding=, such as 'utf-16-le'")
    return text.removeprefix("\ufeff")


def _content(path: Path) -> bytes:
    """The file's bytes; of one that gzip has packed, those that it has packed."""
    with path.open("rb") as file:
        begin = file.read(16)
        kind = next((kind for mark, kind in OTHERS if begin.startswith(mark)), None)
        if kind and begin.translate(None, PRINTED):
            raise TaskError(f"{path} is {kind}: save it as a table of text (CSV)")
        if not begin.startswith(GZIP):
            return begin + file.read()
    with gzip.open(path) as packed:
        content = packed.read(TABLE_BYTES_MAX + 1)
    if len(content) > TABLE_BYTES_MAX:
        raise TaskError(f"{path} has more than {TABLE_BYTES_MAX:,} bytes unpacked: divide it")
    return content
