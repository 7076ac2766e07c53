"""The rows of a table's text: which separator makes them, where the columns' names are, and what stands above those."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from federation.errors import TaskError
from federation.tasks.data.table_spec import TableSpec, normal
from federation.tasks.data.table_text import read_text

__all__ = ["Row", "fitted", "read_rows"]

SEPARATORS = (",", ";", "\t", "|")
_COMMENT = "#"
_COMMENT_LINE = re.compile(rf"[ \t]*(?:{_COMMENT}[^\r\n]*)?(?:\r\n|\r|\n)")
_CELLS = re.compile(r'[,;|\t"]')


BEGIN_ROWS = 50
"""Rows in which the columns' names are looked for, to say where they are."""

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""What Excel writes, and reads, as the first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Cells of a line, by the number that an editor shows of it."""

    line: int
    cells: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begin:
    """How a table begins by one separator: its first rows, what follows, and what was wrong with the next one."""

    rows: Sequence[Row]
    rest: Iterator[Row]
    problem: TaskError | None

    def fitness(self, spec: TableSpec) -> tuple[int, int, bool, int]:
        """How well it makes columns: those that are wanted, else names further below, then as many as can be."""
        if not self.rows:
            return 0, self.problem is None, False, 0
        header = self.rows[0].cells
        found = {spec.target, *(spec.features or ())} & set(map(normal, header))
        return len(found), self.problem is None, any(_has(row, spec) for row in self.rows), len(header)


def read_rows(path: Path, spec: TableSpec) -> tuple[Row, list[Row]]:
    """The header and what follows it, without lines in which nothing is, and comments above it."""
    text = _without_comments(read_text(path, spec.encoding), spec)
    first = next((line.strip("\r\n ") for line in io.StringIO(text) if line.strip()), "")
    hint = _SEPARATOR_LINE.fullmatch(first)
    found = list[_Begin]()
    for separator in [spec.sep] if spec.sep else [hint[1]] if hint else SEPARATORS:
        rows = _parsed(path, text, separator)
        begin, problem = list[Row](), None
        try:
            begin.extend(islice(rows, BEGIN_ROWS))
        except TaskError as error:
            problem = error
        found.append(_Begin(rows=begin[1 if hint else 0 :], rest=rows, problem=problem))
    best = max(found, key=lambda each: each.fitness(spec))
    if best.problem is not None:
        raise best.problem
    header, *begun = best.rows or [Row(line=1, cells=())]
    lower = next((row for row in begun if _has(row, spec)), None)
    if spec.target not in map(normal, header.cells) and lower is not None:
        said = f"{path} line {header.line} has no column {spec.target}, and line {lower.line} has one"
        raise TaskError(f"{said}: take out the lines above it, or begin each with {_COMMENT}")
    return header, [*begun, *best.rest]


def _has(row: Row, spec: TableSpec) -> bool:
    """Whether the columns' names may be here, and not above; without a target nobody knows."""
    return bool(spec.target) and len(row.cells) > 1 and spec.target in map(normal, row.cells)


def _without_comments(text: str, spec: TableSpec) -> str:
    """The text without the comments above the columns' names, which may begin with the same sign."""
    place, lines = 0, 0
    while found := _COMMENT_LINE.match(text, place):
        if spec.target and spec.target in (normal(cell.lstrip(f"{_COMMENT} ")) for cell in _CELLS.split(found[0])):
            break
        place, lines = found.end(), lines + 1
    return "\n" * lines + text[place:]


def _parsed(path: Path, text: str, separator: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield Row(line=line, cells=cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise TaskError(f"{path} line {line} cannot be read: {error}; see its quotes") from error


def fitted(path: Path, row: Row, width: int) -> Row:
    """A row of as many cells as there are columns; separators may follow."""
    rest = "".join(row.cells[width:]).strip()
    if len(row.cells) < width or rest:
        hint = ": cells with a comma in them must be in quotes" if rest else ""
        if row.cells[0].lstrip().startswith(_COMMENT):
            hint = ": take the comment out"
        raise TaskError(f"{path} line {row.line}: {len(row.cells)} values, and {width} columns{hint}")
    return Row(line=row.line, cells=row.cells[:width])
