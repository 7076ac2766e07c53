"""``edge-node predict``: rows in, by the names of their columns; what the model says of each out."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from edge_node.model.runner import Answering, as_input
from federation.errors import ConfigError, TaskError
from federation.readings.windows import cut_windows

__all__ = ["Table", "predictions", "read_rows", "read_table", "written"]

ROWS_MAX = 10_000_000
BATCH_ROWS = 1_024
NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of numbers.

    Attributes:
        names: Of the columns; empty where the first line was numbers.
        rows: Numbers, in the order of the columns; NaN where a cell is empty.
    """

    names: tuple[str, ...]
    rows: Sequence[Sequence[float]]

    def chosen(self, wanted: Sequence[str], *, gaps: bool = False) -> list[list[float]]:
        """The rows with these columns only, in this order.

        Args:
            wanted: By name; empty takes all as they are.
            gaps: Whether a cell may be empty.

        Raises:
            ConfigError: A column is missing, or a cell that is needed is empty.
        """
        places = self._places(wanted)
        found = [[row[place] for place in places] for row in self.rows]
        if not gaps:
            for number, row in enumerate(found, 1):
                bad = next((place for place, value in zip(places, row, strict=True) if not math.isfinite(value)), None)
                if bad is not None:
                    name = self.names[bad] if self.names else f"cell {bad + 1}"
                    raise ConfigError(f"row {number}", f"{name} is empty or not finite", source="input")
        return found

    def _places(self, wanted: Sequence[str]) -> list[int]:
        width = len(self.rows[0]) if self.rows else len(self.names)
        if not wanted or not self.names:
            if wanted and len(wanted) != width:
                problem = (
                    f"rows without names have {width} numbers, and the model takes {_listed(wanted)}: "
                    "begin with the line that names the columns"
                )
                raise ConfigError("columns", problem, source="input")
            return list(range(width))
        missing = [name for name in wanted if name not in self.names]
        if missing:
            problem = f"the model needs {_listed(missing)}; there are {_listed(self.names)}"
            raise ConfigError("columns", problem, source="input")
        return [self.names.index(name) for name in wanted]


def read_table(stream: TextIO, wanted: Sequence[str] = ()) -> Table:
    """A CSV file with ``,``, ``;`` or a tabulator between cells; a first line without numbers names the columns.

    Args:
        stream: The text.
        wanted: Cells of other columns may be anything.

    Raises:
        ConfigError: A row has another length, a cell is no number, or there is nothing.
    """
    first = stream.readline()
    separator = max(",;\t", key=first.count)
    lines = csv.reader(_chained(first, stream), delimiter=separator)
    head = [cell.strip() for cell in next(lines, [])]
    if not any(head):
        raise ConfigError("rows", "there is nothing to predict from: the input is empty", source="input")
    names = () if all(_number(cell) is not None for cell in head) else tuple(head)
    rows: list[list[float]] = [] if names else [[_number(cell) or 0.0 for cell in head]]
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        if len(line) != len(head):
            problem = f"has {len(line)} cells, and the first line has {len(head)}"
            raise ConfigError(f"line {number}", problem, source="input")
        rows.append([_cell(text, place, names, number, wanted) for place, text in enumerate(line)])
        if len(rows) > ROWS_MAX:
            raise ConfigError("rows", f"more than {ROWS_MAX:,}: split the file", source="input")
    return Table(names=names, rows=rows)


def _chained(first: str, stream: TextIO) -> Iterator[str]:
    yield first.removeprefix("\ufeff")
    yield from stream


def _cell(text: str, place: int, names: tuple[str, ...], line: int, wanted: Sequence[str]) -> float:
    found = math.nan if not text.strip() else _number(text)
    if found is not None:
        return found
    if names and wanted and names[place] not in wanted:
        return math.nan
    where = names[place] if names else f"cell {place + 1}"
    raise ConfigError(f"line {line}", f"{where} is {text.strip()[:40]!r}, no number", source="input")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_rows(texts: Iterable[str]) -> Table:
    """Rows such as ``pressure=1.2,flow=30``, all with the same names.

    Raises:
        ConfigError: One is no such row.
    """
    names: tuple[str, ...] | None = None
    rows = []
    for text in texts:
        pairs = [part.partition("=") for part in text.split(",")]
        numbers = [_number(value) for _, _, value in pairs]
        if not all(name.strip() and mark for name, mark, _ in pairs) or None in numbers:
            raise ConfigError("--row", f"{text!r} is no row such as pressure=1.2,flow=30", source="command line")
        found = dict(zip((name.strip() for name, _, _ in pairs), numbers, strict=True))
        names = names or tuple(found)
        if set(names) != set(found):
            raise ConfigError("--row", f"{text!r} has other columns than {', '.join(names)}", source="command line")
        rows.append([float(found[name] or 0.0) for name in names])
    return Table(names=names or (), rows=rows)


def predictions(model: Answering, table: Table) -> Iterator[Mapping[str, object]]:
    """What the model says, row by row, or for each row that ends a window; ``row`` counts from 1.

    Raises:
        ConfigError: Columns are missing, or there are too few rows for a window.
        TaskError: The model cannot answer.
    """
    if model.notes.score is not None:
        yield from _scored(model, table)
        return
    rows = table.chosen(model.notes.features)
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        answer = model.ask(as_input(batch, model))
        for offset, one in enumerate(np.asarray(answer, np.float64).reshape(len(batch), -1)):
            yield {"row": start + offset + 1, **_said(one, model.notes.classes)}


def _scored(model: Answering, table: Table) -> Iterator[Mapping[str, object]]:
    rule = model.notes.score
    if rule is None:
        return
    values = np.asarray(table.chosen(rule.window.columns, gaps=True), np.float32)
    if len(values) < rule.rows:
        problem = f"a window takes {rule.rows} rows, and there are {len(values)}"
        raise ConfigError("rows", problem, source="input")
    starts, windows = cut_windows(values, rule.rows)
    if not len(starts):
        row, place = np.argwhere(~np.isfinite(values))[0]
        name = rule.window.columns[place]
        problem = (
            f"a window takes {rule.rows} rows without a gap, and there is none: here {name} is empty or not finite"
        )
        raise ConfigError(f"row {row + 1}", problem, source="input")
    for begin in range(0, len(starts), BATCH_ROWS):
        batch = windows[begin : begin + BATCH_ROWS]
        answer = model.ask(rule.inputs(batch))
        scores, alarms = rule.scores_of(answer, batch), rule.alarms(rule.scores_of(answer, batch))
        classes = rule.answers(answer) if rule.classes else None
        for place, start in enumerate(starts[begin : begin + BATCH_ROWS]):
            known: dict[str, object] = {"row": int(start) + rule.rows, "score": float(scores[place])}
            if classes is not None:
                known["class"] = rule.classes[int(classes[place])]
            yield known | {"threshold": rule.threshold, "anomaly": bool(alarms[place])}


def _said(answer: NDArray[np.float64], classes: Sequence[str]) -> Mapping[str, object]:
    if not np.isfinite(answer).all():
        raise TaskError("the model answers with NaN or infinity")
    if len(answer) == 1 or not classes:
        return {"output": [float(each) for each in answer]}
    if len(classes) != len(answer):
        raise TaskError(f"the model has {len(answer)} outputs, and its note names {len(classes)} classes")
    powers = np.exp(answer - answer.max())
    shares = powers / powers.sum()
    best = int(np.argmax(shares))
    named = dict(zip(classes, map(float, shares), strict=True))
    return {"class": classes[best], "probability": float(shares[best]), "probabilities": named}


def written(found: Iterable[Mapping[str, object]], *, as_csv: bool) -> Iterator[str]:
    """Lines of JSON, or of CSV with a first line of names; probabilities and outputs have a column each."""
    head: list[str] | None = None
    for one in found:
        if not as_csv:
            yield json.dumps(one)
            continue
        flat: dict[str, Any] = {}
        for name, value in one.items():
            if isinstance(value, dict):
                flat |= {f"p_{inner}": each for inner, each in value.items()}
            elif isinstance(value, list):
                flat |= {f"{name}_{place}": each for place, each in enumerate(value)}
            else:
                flat[name] = value
        if head is None:
            head = list(flat)
            yield _line(head)
        yield _line([flat.get(name) for name in head])


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
