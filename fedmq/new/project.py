"""``fedmq new``: the files of a project, made from templates and, for a table, from what the table says."""

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from statistics import fmean, pstdev
from string import Template
from typing import Annotated

import typer

from federation.command_line import JsonOption
from federation.errors import ConfigError, StorageError, TaskError
from federation.storage.folder import write_file
from federation.tasks.data.tables import GAPS, read_cells
from fedmq.new.samples import CLASSES, FEATURES, TARGET, write_arrays, write_pictures, write_table, write_texts

__all__ = ["Kind", "Wish", "make_project", "new"]

CLASSES_MAX = 50
"""A column of whole numbers or words with more different values is no class."""

TABLE = "readings.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """What a table says of itself.

    Attributes:
        features: The columns to predict from: those of numbers.
        target: The column to predict.
        classes: Its values; none: it is a number.
        left_out: Columns that hold anything else, such as a time.
        decimal: The decimal mark, ``.`` or ``,``.
        gaps: Whether a value is missing somewhere.
        centre: Mean of the target, where it is a number.
        spread: Its standard deviation, or 1 where that is 0.
    """

    features: tuple[str, ...]
    target: str
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    decimal: str = "."
    gaps: bool = False
    centre: float = 0.0
    spread: float = 1.0


_UNITS = '''CENTRE, SPREAD = {centre!r}, {spread!r}  # of the target in the table at hand: the same on every device


class Units(torch.nn.Module):
    """From numbers around 0 to those of the target, so that one learning rate suits any."""

    def forward(self, x):
        return x * SPREAD + CENTRE


def loss(output, target):
    return torch.nn.functional.mse_loss(output, target) / SPREAD**2

'''
"""What a task has besides, whose target is a number."""

_SAMPLE = _Columns(features=FEATURES, target=TARGET, classes=CLASSES)


class Kind(StrEnum):
    """What a project begins from."""

    CSV = "csv"
    PICTURES = "pictures"
    TORCH = "torch"
    SKLEARN = "sklearn"
    FLOWER = "flower"
    LORA = "lora"


TABLES = frozenset({Kind.CSV, Kind.SKLEARN})
"""Kinds that read a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for.

    Attributes:
        folder: Of the project.
        kind: What it begins from.
        table: The user's table, or None.
        target: Its column to predict; None is the last one.
    """

    folder: Path
    kind: Kind
    table: Path | None = None
    target: str | None = None


def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the project: new, or empty.")],
    *,
    kind: Annotated[Kind, typer.Option("--from", help="What you have.")] = Kind.TORCH,
    table: Annotated[
        Path | None,
        typer.Option(help="Your table, for csv and sklearn; it is copied. Default: a made-up one.", exists=True),
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column of --table to predict. Default: the last.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a project: task.py, coordinator.toml, node.toml, README.md, and a test that passes.

    \b
    Examples:
      fedmq new press --from csv --table readings.csv --target state
      fedmq new cameras --from pictures
      fedmq new mine --from torch
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    files = make_project(Wish(folder=folder, kind=kind, table=table, target=target))
    if as_json:
        sys.stdout.write(json.dumps({"folder": str(folder), "files": files}) + "\n")
        return
    for file in files:
        typer.echo(f"  {folder / file}")
    typer.echo(
        f"\nTry it:\n  cd {folder}\n  python -m pytest -q\n  fedmq demo --task task.py:build --data data --nodes 3"
    )


def make_project(wish: Wish) -> list[str]:
    """Write the project.

    Returns:
        Its files, by their paths in the folder.

    Raises:
        ConfigError: A table is given for another kind, or it has no such column.
        StorageError: The folder is not empty, or cannot be written.
    """
    if wish.kind not in TABLES and (wish.table is not None or wish.target is not None):
        raise ConfigError("--table", f"is for --from csv and sklearn, not for {wish.kind}", source="command line")
    # The table is read first: nothing is left behind where it cannot be used.
    values = _table_values(wish) if wish.kind in TABLES else {"classes": repr(CLASSES)}
    values = {"name": wish.folder.resolve().name, **values}
    try:
        wish.folder.mkdir(parents=True, exist_ok=True)
        if any(wish.folder.iterdir()):
            raise StorageError(f"{wish.folder} is not empty: name a new folder")
        _write_data(wish)
        for name in ("task.py", "test_task.py"):
            write_file(wish.folder / name, _filled(f"{wish.kind}/{name}", values).encode(), durable=False)
        for name in ("coordinator.toml", "node.toml", "README.md"):
            write_file(wish.folder / name, _filled(name, values).encode(), durable=False)
    except OSError as error:
        raise StorageError(f"{wish.folder} cannot be written: {error}") from error
    return sorted(str(path.relative_to(wish.folder)) for path in wish.folder.iterdir())


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = (files("fedmq.new") / "templates" / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _write_data(wish: Wish) -> None:
    data = wish.folder / "data"
    data.mkdir()
    if wish.kind in {Kind.TORCH, Kind.FLOWER}:
        write_arrays(data / "examples.npz")
    elif wish.kind is Kind.LORA:
        write_texts(data)
    elif wish.kind is Kind.PICTURES:
        write_pictures(data / "pictures")
    elif wish.table is None:
        write_table(data / TABLE)
    else:
        write_file(data / TABLE, wish.table.read_bytes(), durable=False)


def _table_values(wish: Wish) -> Mapping[str, str]:
    """What the task must know of the table: its columns, and whether the target is a class or a number."""
    columns = _SAMPLE if wish.table is None else _look_at(wish.table, wish.target)
    shown = {
        "features": columns.features,
        "target": columns.target,
        "classes": columns.classes,
        "outputs": len(columns.classes) or 1,
        "inputs": len(columns.features),
    }
    text = {
        "loss": "torch.nn.functional.cross_entropy" if columns.classes else "loss",
        "units": "" if columns.classes else _UNITS.format(centre=columns.centre, spread=columns.spread),
        "after": "" if columns.classes else ", Units()",
        "reading": ("" if columns.decimal == "." else f", decimal={columns.decimal!r}")
        + (', missing="drop"' if columns.gaps else ""),
        "left_out": f"  # left out, not numbers: {', '.join(columns.left_out)}" if columns.left_out else "",
    }
    return {key: repr(value) for key, value in shown.items()} | text


def _look_at(table: Path, target: str | None) -> _Columns:
    """What a table says of itself.

    Raises:
        ConfigError: The table cannot be read, has no rows, or no such column.
    """
    try:
        names, rows = read_cells(table, target or "")
    except TaskError as error:
        raise ConfigError("--table", f"{table} cannot be read as a table: {error}", source="command line") from error
    header = [name for name in names if name]
    wanted = target or (header[-1] if header else "")
    if wanted not in header:
        raise ConfigError("--target", f"{wanted!r} is no column: there are {', '.join(header)}", source="command line")
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise ConfigError("--table", f"{table}: two columns are called {twice!r}: rename one", source="command line")
    said = {name: [row[place].strip() for row in rows] for place, name in enumerate(names) if name}
    cells = {name: {cell for cell in column if cell.lower() not in GAPS} for name, column in said.items()}
    if _numbers(cells[wanted], ".") is None and _numbers(cells[wanted], ",") is None:
        cells[wanted] = set(said[wanted]) - {""}  # a class may be called none
    decimal = _decimal_mark(cells.values())
    numbers = [name for name in header if name != wanted and cells[name] and _numbers(cells[name], decimal) is not None]
    if not numbers:
        raise ConfigError("--table", f"{table} has no column of numbers beside {wanted}", source="command line")
    classes = tuple(sorted(cells[wanted]))
    values = _numbers([cell for cell in said[wanted] if cell in cells[wanted]], decimal) or [0.0]
    return _Columns(
        features=tuple(numbers),
        target=wanted,
        classes=classes if _are_classes(classes, decimal) else (),
        left_out=tuple(" ".join(name.split()) for name in header if name != wanted and name not in numbers),
        decimal=decimal,
        gaps=any(cell not in cells[name] for name in (*numbers, wanted) for cell in said[name]),
        centre=float(f"{fmean(values):.4g}"),
        spread=float(f"{pstdev(values):.4g}") or 1.0,
    )


def _decimal_mark(columns: Iterable[Collection[str]]) -> str:
    """A comma, where more columns say so than say a point."""
    columns = list(columns)
    said = {mark: sum(_says(cells, mark) for cells in columns) for mark in (".", ",")}
    return "," if said[","] > said["."] else "."


def _says(cells: Collection[str], decimal: str) -> bool:
    """Whether cells are numbers with this mark and no numbers without it; three digits behind it may be thousands."""
    other = "." if decimal == "," else ","
    if _numbers(cells, decimal) is None or _numbers(cells, other) is not None:
        return False
    return not all(re.fullmatch(rf"[+-]?\d{{1,3}}({re.escape(decimal)}\d{{3}})?", cell) for cell in cells)


def _numbers(cells: Collection[str], decimal: str) -> Sequence[float] | None:
    """The cells as numbers; None where one is none. A gap is no cell."""
    try:
        # A point beside a comma as the decimal mark divides thousands: no number without being told so.
        return [float(cell.translate({ord(decimal): ".", ord("."): "." if decimal == "." else "?"})) for cell in cells]
    except ValueError:
        return None


def _are_classes(said: Sequence[str], decimal: str) -> bool:
    """Words, or a few different whole numbers; a column of numbers with fractions is a quantity."""
    if len(said) > CLASSES_MAX:
        return False
    numbers = _numbers(said, decimal)
    return numbers is None or (all(number.is_integer() for number in numbers) and len(said) < 11)
