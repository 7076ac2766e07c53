"""The kinds of field that a message is made of: each checks a value in both directions.

``pack`` turns a value of ours into plain msgpack data, ``unpack`` does the reverse. Both raise `FieldError` for
anything outside the kind, so that what we refuse to read is exactly what we refuse to write.
"""

import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from federation.protocol.limits import INT64_MAX, METRIC_NAME_BYTES_MAX, METRICS_MAX


class FieldError(ValueError):
    """A value is outside what its field allows."""


class Kind(ABC):
    """How one field's value looks on the wire."""

    __slots__ = ()

    def pack(self, value: Any) -> Any:
        """Plain msgpack data for ``value``; raises `FieldError`. Of most kinds the value is that already."""
        return self.unpack(value)

    @abstractmethod
    def unpack(self, raw: Any) -> Any:
        """The value of plain msgpack data; raises `FieldError`."""


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """An integer from ``least`` to ``most``; True is not 1."""

    most: int
    least: int = 0

    def unpack(self, raw: Any) -> int:
        """Check and pass."""
        if type(raw) is not int or not self.least <= raw <= self.most:
            raise FieldError(f"needs an integer from {self.least} to {self.most}")
        return raw


@dataclass(frozen=True, slots=True)
class Real(Kind):
    """A finite float64 from ``least`` to ``most``; always written as a float, and never as -0.0."""

    most: float = math.inf
    least: float = -math.inf

    def pack(self, value: Any) -> float:
        """Accept an integer too: Python's typing does."""
        whole = type(value) is int and abs(value) <= INT64_MAX
        # Adding zero turns -0.0, which equals 0.0 but has other bytes, into 0.0.
        return self.unpack(value + 0.0 if whole or isinstance(value, float) else value)

    def unpack(self, raw: Any) -> float:
        """Check and pass."""
        if not isinstance(raw, float) or not math.isfinite(raw) or not self.least <= raw <= self.most:
            raise FieldError(f"needs a finite float from {self.least} to {self.most}")
        if not raw and math.copysign(1.0, raw) < 0:
            raise FieldError("needs zero without a sign")
        return float(raw)


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """True or false."""

    def unpack(self, raw: Any) -> bool:
        """Check and pass."""
        if type(raw) is not bool:
            raise FieldError("needs true or false")
        return raw


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Printable text of ``least`` to ``most`` UTF-8 bytes: nothing that could forge a log line.

    What thousands of nodes say in the same words is held once, as long as one of them is known; so of `Word`.
    """

    most: int
    least: int = 0

    def unpack(self, raw: Any) -> str:
        """Check and pass."""
        if type(raw) is not str or not raw.isprintable() or not self.least <= len(raw.encode()) <= self.most:
            raise FieldError(f"needs printable text of {self.least} to {self.most} bytes")
        return sys.intern(raw)


@lru_cache(maxsize=4_096)
def _matches(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a text matches as a whole; the same few ids come again in message after message."""
    return pattern.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Word(Kind):
    """Text that matches a pattern as a whole."""

    pattern: re.Pattern[str]

    def unpack(self, raw: Any) -> str:
        """Check and pass."""
        if type(raw) is not str or not _matches(self.pattern, raw):
            raise FieldError(f"needs text like {self.pattern.pattern}")
        return sys.intern(raw)


@dataclass(frozen=True, slots=True)
class Blob(Kind):
    """``least`` to ``most`` bytes."""

    most: int
    least: int = 0

    def unpack(self, raw: Any) -> bytes:
        """Check and pass."""
        if type(raw) is not bytes or not self.least <= len(raw) <= self.most:
            raise FieldError(f"needs {self.least} to {self.most} bytes")
        return raw


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """A member of an enumeration, written as a small number that never changes."""

    codes: Mapping[StrEnum, int]
    _members: Mapping[int, StrEnum] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_members", {code: member for member, code in self.codes.items()})

    def pack(self, value: Any) -> int:
        """The member's number."""
        if not isinstance(value, StrEnum) or value not in self.codes:
            raise FieldError(f"needs one of {', '.join(self.codes)}")
        return self.codes[value]

    def unpack(self, raw: Any) -> StrEnum:
        """The member with this number."""
        member = self._members.get(raw) if type(raw) is int else None
        if member is None:
            raise FieldError(f"needs the number of one of {', '.join(self.codes)}")
        return member


@dataclass(frozen=True, slots=True)
class Sequence(Kind):
    """At most ``most`` values of one kind."""

    kind: Kind
    most: int

    def pack(self, value: Any) -> list[Any]:
        """A list of plain data."""
        if type(value) is not tuple or len(value) > self.most:
            raise FieldError(f"needs a tuple of at most {self.most} values")
        return [self.kind.pack(item) for item in value]

    def unpack(self, raw: Any) -> tuple[Any, ...]:
        """A tuple of values."""
        if type(raw) is not list or len(raw) > self.most:
            raise FieldError(f"needs a list of at most {self.most} values")
        return tuple(map(self.kind.unpack, raw))


@dataclass(frozen=True, slots=True)
class Numbers(Kind):
    """Named finite numbers, ordered by name on the wire."""

    most: int = METRICS_MAX

    def pack(self, value: Any) -> dict[str, float]:
        """Plain data in canonical order."""
        if not isinstance(value, Mapping):
            raise FieldError("needs a mapping of names to numbers")
        return dict(sorted(self._checked(value, Real().pack).items()))

    def unpack(self, raw: Any) -> dict[str, float]:
        """The numbers by name."""
        if type(raw) is not dict:
            raise FieldError("needs a map of names to numbers")
        return self._checked(raw, Real().unpack)

    def _checked(self, numbers: Mapping[Any, Any], number: Callable[[Any], float]) -> dict[str, float]:
        if len(numbers) > self.most:
            raise FieldError(f"needs at most {self.most} numbers")
        name = Text(METRIC_NAME_BYTES_MAX, least=1)
        return {name.unpack(key): number(value) for key, value in numbers.items()}


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a record's table.

    Attributes:
        number: Its key on the wire; never reused, never renumbered.
        name: The attribute of the dataclass.
        kind: How its value is written.
        optional: Whether None is allowed; None is written by leaving the field out.
    """

    number: int
    name: str
    kind: Kind
    optional: bool = False


def _packing(kind: Kind) -> Callable[[Any], Any]:
    """What ``kind.pack`` does, without the way through it where it only checks."""
    return kind.unpack if type(kind).pack is Kind.pack else kind.pack


_Convert = tuple[int, str, Callable[[Any], Any], bool]
"""Number, name, what converts the value, and whether None is allowed: of one row, in one direction."""
_INTEGER = frozenset({int})


@dataclass(frozen=True, slots=True)
class Record(Kind):
    """A dataclass as a map from field numbers to values: the one declarative table of a message or of a part of one.

    Attributes:
        make: The dataclass.
        fields: Its rows, in ascending order of their numbers.
        check: Raises `FieldError` when the fields do not fit together.
    """

    make: type
    fields: tuple[Field, ...]
    check: Callable[[Any], None] | None = None
    _packs: tuple[_Convert, ...] = field(init=False, repr=False, compare=False)
    _unpacks: tuple[_Convert, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        packs = tuple((row.number, row.name, _packing(row.kind), row.optional) for row in self.fields)
        unpacks = tuple((row.number, row.name, row.kind.unpack, row.optional) for row in self.fields)
        object.__setattr__(self, "_packs", packs)
        object.__setattr__(self, "_unpacks", unpacks)

    def pack(self, value: Any) -> dict[int, Any]:
        """Plain data in canonical order, without the fields that are None."""
        if type(value) is not self.make:
            raise FieldError(f"needs a {self.make.__name__}")
        packed: dict[int, Any] = {}
        name = ""
        try:
            for number, name, pack, optional in self._packs:
                content = getattr(value, name)
                if content is not None or not optional:
                    packed[number] = pack(content)
        except FieldError as error:
            raise FieldError(f"{self.make.__name__}.{name} {error}") from None
        if self.check:
            self.check(value)
        return packed

    def unpack(self, raw: Any) -> Any:
        """The dataclass; fields with unknown numbers are a newer peer's and are ignored."""
        if type(raw) is not dict or not {*map(type, raw)} <= _INTEGER:
            raise FieldError("needs a map with integer keys")
        values: dict[str, Any] = {}
        name = ""
        try:
            for number, name, unpack, optional in self._unpacks:
                if number in raw:
                    values[name] = unpack(raw[number])
                elif optional:
                    values[name] = None
                else:
                    raise FieldError("is missing")  # noqa: TRY301 - named below, as every other
        except FieldError as error:
            raise FieldError(f"{self.make.__name__}.{name} {error}") from None
        value = self.make(**values)
        if self.check:
            self.check(value)
        return value
