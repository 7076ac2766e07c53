"""A table as people export it, as numbers: what can mean one thing only is read, all else is refused by its place.

The inputs are in one order on every device: as `TableSpec.features` says, or in the order of the columns' names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Array
from federation.tasks.data.table_rows import Row, fitted, read_rows
from federation.tasks.data.table_spec import TableSpec, normal, twice

__all__ = ["GAPS", "Table", "coarse_in", "first_gap", "read_cells", "read_columns", "read_table"]

GAPS = frozenset(
    {"", "-", "--", ".", "?", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "nil", "nat", "<na>", "\\n"}
    | {"#div/0!", "#value!", "#num!", "#ref!", "#name?", "#null!"}
)
"""What programs write where there is no value, in lower case."""

CELL_SHOWN = 60
"""Characters of a cell that an error tells."""

STEPS_MIN = 4
"""A column's spread must be so many times the distance of two float32 numbers there."""

NO_CLASS = -1
"""The number of a class that is not said, where gaps may stay."""

_NUMBER = re.compile(r"[+-]?\d+([.,]\d*)?")
_COMMA = re.compile(r"[+-]?\d*,\d+")
_POINT = re.compile(r"[+-]?\d*\.\d+")
_GROUPS = re.compile(r"[+-]?\d{1,3}([., '\u00a0\u202f]\d{3})+([.,]\d*)?")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?")

_UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+)?|")
"""No name at all, or what pandas calls such a column when it writes the table again."""

_SPACES = " \u00a0\u2009\u202f"
"""Which space stands between groups of digits depends on the program."""

SEVERAL = 3
"""Rows of which one that is no number is said to be the only one."""

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What was read.

    Attributes:
        features: Names of the inputs' columns, in their order; empty where they have none.
        inputs: Of shape (rows, ...); of a table float32 of shape (rows, features).
        targets: Of shape (rows, ...); of a table int64 of shape (rows,), or float32 of shape (rows, 1).
    """

    features: tuple[str, ...] = ()
    inputs: Array
    targets: Array


def read_table(path: Path, spec: TableSpec) -> Table:
    """Read a table whose first line with something in it names the columns.

    Raises:
        TaskError: It says the file, the line, the column, and the option or the change that resolves it.
    """
    header, rows = read_rows(path, spec)
    names = [normal(cell) for cell in header.cells]
    rows = [fitted(path, row, len(names)) for row in rows]
    places = _places(f"{path} line {header.line}", names, rows, spec)
    target = places.pop(spec.target)
    if spec.missing == "drop":
        used = (target, *places.values())
        rows = [row for row in rows if not any(_is_gap(row.cells[place], spec, place == target) for place in used)]
    if not rows:
        raise TaskError(f"{path} has no row" + (" in which nothing is missing" if spec.missing == "drop" else ""))
    reader = _Cells(path=path, spec=spec)
    inputs = [reader.numbers(name, rows, place, spec.missing) for name, place in places.items()]
    if spec.classes:
        targets: NDArray[np.int64] | F32 = reader.class_numbers(rows, target)
    else:
        kept = "gap" if spec.missing == "gap" else None
        targets = reader.numbers(spec.target, rows, target, kept)[:, None]
    return Table(features=tuple(places), inputs=np.stack(inputs, axis=1), targets=targets)


def read_cells(path: Path, target: str = "") -> tuple[list[str], list[Sequence[str]]]:
    """The columns' names (empty where one has none) and the cells of each row, as they are written.

    Args:
        path: The table.
        target: A column that it has, where that is known: it tells which separator makes columns.

    Raises:
        TaskError: It is no table of text, or a row has more or fewer cells than there are columns.
    """
    header, rows = read_rows(path, TableSpec(target=target))
    names = [normal(cell) for cell in header.cells]
    unnamed = ["" if _UNNAMED.fullmatch(name) else name for name in names]
    return unnamed, [fitted(path, row, len(names)).cells for row in rows]


def read_columns(
    path: Path, numbers: Sequence[str], texts: Sequence[str] = (), *, sep: str | None = None, decimal: str = "."
) -> tuple[Mapping[str, F32], Mapping[str, Sequence[str]]]:
    """Some columns by name, of which not all need be there: whoever needs one says so.

    Args:
        path: The table.
        numbers: Columns of numbers.
        texts: Columns of anything else.
        sep: What separates cells; None finds it out.
        decimal: The decimal mark.

    Returns:
        The columns of numbers that are there, float32 of shape (rows,), NaN where a cell has no value; and the texts.

    Raises:
        TaskError: The table cannot be read, or a cell is no number.
    """
    wanted = (*numbers, *texts)
    spec = TableSpec(target=wanted[0], features=wanted[1:] or None, missing="gap", decimal=decimal, sep=sep)
    header, rows = read_rows(path, spec)
    names = [normal(cell) for cell in header.cells]
    rows = [fitted(path, row, len(names)) for row in rows]
    if double := twice([name for name in names if name in wanted]):
        raise TaskError(f"{path} line {header.line}: two columns are called {double!r}: rename one")
    reader = _Cells(path=path, spec=spec)
    found = {
        name: reader.numbers(name, rows, names.index(name), "gap", coarse=True) for name in numbers if name in names
    }
    return found, {name: [row.cells[names.index(name)].strip() for row in rows] for name in texts if name in names}


def _places(where: str, names: Sequence[str], rows: Sequence[Row], spec: TableSpec) -> dict[str, int]:
    """The columns that are wanted by name: the inputs in their order, then the target."""
    used = [place for place, name in enumerate(names) if name or any(row.cells[place].strip() for row in rows)]
    known = [names[place] for place in used if not _UNNAMED.fullmatch(names[place])]
    if spec.features is None:
        wanted = sorted(set(known) - {spec.target})
        for place in used:
            if _UNNAMED.fullmatch(names[place]):
                said = f"is called {names[place]!r}" if names[place] else "has no name"
                few = ", ".join(map(repr, wanted[:4])) + (", ..." if len(wanted) > 4 else ",")
                remedy = f"name it, take it out, or give features=({few})"
                raise TaskError(f"{where}: column {place + 1} {said} (the numbers of rows?): {remedy}")
    else:
        wanted = list(spec.features)
    if (missing := [name for name in (*wanted, spec.target) if name not in names]) or not wanted:
        raise TaskError(
            f"{where} has no column {', '.join(missing) or 'to predict from'}: {_what_is_there(names, missing)}"
        )
    if double := twice([name for name in known if name in {*wanted, spec.target}]):
        both = " and ".join(str(place + 1) for place in used if names[place] == double)
        remedy = "rename one" if double == spec.target else "rename one, or give features= without it"
        raise TaskError(f"{where}: columns {both} are both called {double!r}: {remedy}")
    return {name: names.index(name) for name in (*wanted, spec.target)}


def _what_is_there(names: Sequence[str], missing: Sequence[str]) -> str:
    """The columns that a table has instead, and what may be meant."""
    near = [name for name in names for other in missing if name.lstrip("# ").casefold() == other.casefold()]
    has = f"it has {', '.join(filter(None, names)) or 'nothing'}"
    if near:
        return f"{has}; did you mean {near[0]!r}?"
    if any(map(_NUMBER.fullmatch, names)):
        return f"{has}: the first line must name the columns"
    return f"{has}; give sep= if these are not the columns"


def _is_gap(cell: str, spec: TableSpec, is_target: bool) -> bool:  # noqa: FBT001 - which column it is
    text = normal(cell)
    return text.lower() in GAPS and not (is_target and text in spec.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """Reads the cells of one table."""

    path: Path
    spec: TableSpec

    def numbers(
        self, name: str, rows: Sequence[Row], place: int, missing: str | float | None, *, coarse: bool = False
    ) -> F32:
        """One column; a number stands where a value is missing.

        Args:
            name: The column's.
            rows: All rows.
            place: The column's.
            missing: See `TableSpec`.
            coarse: Whether numbers may differ that are one in float32.
        """
        pattern, found = self._pattern(), np.empty(len(rows), np.float64)
        for index, row in enumerate(rows):
            text = _read(row.cells[place])
            if pattern.fullmatch(text):
                found[index] = float(self._plain(text))
            elif missing is not None and text.lower() in GAPS:
                found[index] = missing if isinstance(missing, int | float) else np.nan
            else:
                ends = len(rows) >= SEVERAL and row in (rows[0], rows[-1])
                alone = ends and sum(self._is_other(each.cells[place]) for each in rows) == 1
                why = self._problem(text, name, alone=alone)
                raise TaskError(f"{self._at(row)}: {name} is {_shown(text)}, {why}")
        with np.errstate(over="ignore"):
            column = found.astype(np.float32)
        finite = np.isfinite(column) | np.isnan(found)
        if not finite.all():
            row = rows[int(np.argmin(finite))]
            cell = _shown(row.cells[place].strip())
            raise TaskError(f"{self._at(row)}: {name} is {cell}, which is not finite in float32")
        if not coarse and (problem := coarse_in(found[~np.isnan(found)])):
            raise TaskError(f"{self.path}: {name} {problem}, or give features= without it")
        return column

    def class_numbers(self, rows: Sequence[Row], place: int) -> NDArray[np.int64]:
        """The target column, where it says classes."""
        number_of = {each: number for number, each in enumerate(self.spec.classes)}
        found = np.empty(len(rows), np.int64)
        for index, row in enumerate(rows):
            text = normal(row.cells[place])
            number = number_of.get(text, number_of.get(_whole(text)))
            if number is None:
                said = f"{self._at(row)}: {self.spec.target} is {_shown(text)}"
                if text.lower() in GAPS and self.spec.missing == "gap":
                    number = NO_CLASS
                elif text.lower() in GAPS:
                    raise TaskError(f"{said}: give missing='drop' to leave such rows out")
                else:
                    raise TaskError(f"{said}, and the classes are {', '.join(self.spec.classes)}")
            found[index] = number
        return found

    def _is_other(self, cell: str) -> bool:
        """Whether a cell is neither a number nor a gap."""
        return not self._pattern().fullmatch(_read(cell)) and cell.strip().lower() not in GAPS

    def _at(self, row: Row) -> str:
        return f"{self.path} line {row.line}"

    def _pattern(self) -> re.Pattern[str]:
        mark, whole = re.escape(self.spec.decimal), r"\d+"
        if self.spec.thousands is not None:
            group = "[ \u00a0\u2009\u202f]" if self.spec.thousands in _SPACES else re.escape(self.spec.thousands)
            whole = rf"(?:\d{{1,3}}(?:{group}\d{{3}})+|\d+)"
        return re.compile(rf"[+-]?(?:{whole}(?:{mark}\d*)?|{mark}\d+)(?:[eE][+-]?\d+)?", re.ASCII)

    def _plain(self, text: str) -> str:
        for space in _SPACES if self.spec.thousands is not None else "":
            text = text.replace(space, "")
        return text.replace(self.spec.thousands or "", "").replace(self.spec.decimal, ".")

    def _problem(self, text: str, name: str, *, alone: bool) -> str:
        """What is wrong with a cell, and what resolves it; whether all others of its column are numbers."""
        if text.lower() in GAPS:
            said = "not finite" if "nan" in text.lower() else "no value"
            fill = "" if name == self.spec.target else ", or a number that stands in their place"
            return f"which is {said}: give missing='drop' to leave such rows out{fill}"
        if text.lstrip("+-").lower() in {"inf", "infinity"}:
            return "which is not finite"
        return f"which is no number: {self._remedy(text, name, alone=alone)}"

    def _remedy(self, text: str, name: str, *, alone: bool) -> str:
        comma = self.spec.decimal == "."
        for applies, remedy in (
            (normal(text) == name, "the line has the columns' names again: take it out"),
            (_GROUPS.fullmatch(text), "give thousands=, and decimal= if a comma is the decimal mark"),
            (alone, "all others of the column are (a line of units, or of totals?): change it, or take its line out"),
            (comma and _COMMA.fullmatch(text), "give decimal=',' (or thousands=',')"),
            (not comma and _POINT.fullmatch(text), "decimal=',' is given: write one mark everywhere"),
            (name == self.spec.target, f"give classes= if {name} names kinds"),
            (_DATE.fullmatch(text), "make hours or days since a fixed date of it, or give features= without it"),
        ):
            if applies:
                return remedy
        return "change it, or give features= without this column"


def _read(cell: str) -> str:
    """A cell with the minus sign of a keyboard: some languages' programs write that of mathematics."""
    return cell.strip().replace("\u2212", "-", 1)


def _shown(cell: str) -> str:
    """A cell as it is told: its begin, where it is long."""
    return repr(cell if len(cell) <= CELL_SHOWN else f"{cell[:CELL_SHOWN]}...")


def _whole(text: str) -> str:
    """A whole number as Python writes it, of ``1.0`` and such; else what no class is called."""
    return str(int(text.partition(".")[0])) if re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", text, re.ASCII) else "\0"


def first_gap(values: NDArray[np.generic]) -> str | None:
    """Where the first number lies that is not finite, such as ``row 7, column 3``; None where all are.

    Args:
        values: Of shape (rows, ...).
    """
    if values.dtype.kind != "f" or (finite := np.isfinite(values)).all():
        return None
    row, *rest = (int(each) for each in np.argwhere(~finite)[0])
    return f"row {row}" + (f", column {', '.join(map(str, rest))}" if rest else "")


def coarse_in(values: NDArray[Any]) -> str | None:
    """What differs must do so in float32, too: times in seconds since 1970 are 128 apart there.

    Args:
        values: Finite, float64 of shape (rows,).

    Returns:
        What is wrong with them and what resolves it, or None.
    """
    with np.errstate(over="ignore"):
        apart = float(np.spacing(np.abs(values).max(initial=0.0).astype(np.float32)))
    spread = float(values.std()) if len(values) else 0.0
    if not spread or not apart > spread / STEPS_MIN:
        return None
    around = f"lies around {np.mean(values):.10g}, where float32 tells numbers apart that differ by {apart:g}"
    return f"{around}, and its own differ by about {spread:.3g}: take a constant off all of it"
