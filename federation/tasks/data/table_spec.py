"""What is wanted of a table, and how it is written: checked before anything is read."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from federation.errors import TaskError

__all__ = ["TableSpec", "as_names", "normal", "twice"]


_UNSEEN = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff"))
"""Marks of no width, as they come with names that are copied from a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """What is wanted of a table, and how it is written.

    Attributes:
        target: The column to predict.
        classes: What it can say; empty where it is a number.
        features: The columns to predict from; None is every other column.
        missing: What becomes of a cell without a value: None refuses it, ``drop`` leaves its row out, ``gap`` leaves a
            NaN there, and a number takes its place (of an input; a row without a target can only be left out).
        decimal: The decimal mark, ``.`` or ``,``.
        thousands: What may stand between groups of three digits, or None.
        sep: What separates cells; None finds it out.
        encoding: A name that Python knows; None is UTF-8, or what a byte order mark says.
    """

    target: str
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    missing: str | float | None = None
    decimal: str = "."
    thousands: str | None = None
    sep: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        """Refuse what says nothing about any table.

        Raises:
            TaskError: It names the option.
        """
        number = isinstance(self.missing, int | float) and bool(np.isfinite(self.missing))
        if self.missing not in {None, "drop", "gap"} and (not number or isinstance(self.missing, bool)):
            raise TaskError(f"missing must be 'drop', 'gap' or a finite number, not {self.missing!r}")
        if self.decimal not in {".", ","}:
            raise TaskError(f"decimal must be '.' or ',', not {self.decimal!r}")
        if self.thousands is not None and (len(self.thousands) != 1 or self.thousands in f"{self.decimal}0123456789+-"):
            raise TaskError(f"thousands must be one character beside the decimal mark, not {self.thousands!r}")
        if self.sep is not None and (len(self.sep) != 1 or self.sep in '"\r\n'):
            raise TaskError(f"sep must be one character, not {self.sep!r}")
        for what, names in (("classes", self.classes), ("features", self.features or ())):
            if double := twice(names):
                raise TaskError(f"{what} has {double!r} twice")
        if self.features is not None and (self.target in self.features or not self.features):
            raise TaskError(f"features must name columns beside the target {self.target!r}, not {self.features!r}")


def as_names(names: Sequence[object], what: str) -> tuple[str, ...]:
    """Names of columns, classes or folders, which may be whole numbers.

    Raises:
        TaskError: It is one text, whose letters would be taken one by one.
    """
    if isinstance(names, str | Mapping | set | frozenset):
        raise TaskError(f"{what} must be a list or a tuple of names in a fixed order, not {names!r}")
    return tuple(normal(str(name)) for name in names)


def normal(cell: str) -> str:
    """One spelling of a column's name: some systems write an accent as a character of its own, or what nobody sees."""
    return unicodedata.normalize("NFC", cell.translate(_UNSEEN).strip())


def twice(names: Sequence[str]) -> str | None:
    """The first name that is there a second time; None where each is there once."""
    return next((name for number, name in enumerate(names) if name in names[:number]), None)
