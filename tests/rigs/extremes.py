"""Values at the ends of what a field table allows: whatever a peer may say and no honest peer says (FED-15)."""

import math
from dataclasses import replace
from random import Random
from typing import Any

from federation.protocol.fields import (
    Blob,
    Choice,
    FieldError,
    Flag,
    Kind,
    Numbers,
    Real,
    Record,
    Sequence,
    Text,
    Whole,
    Word,
)
from federation.protocol.tables import RUN_PATTERN, UPDATE_PATTERN

__all__ = ["changed", "extreme"]

TEXTS = ("", "x", "[/red]{0}%s{x}", '=cmd|" /C calc"!A0', "<script>alert(1)</script>", "é", "../../x", "null", "nan")
NAMES = ("loss", "accuracy", "self", "event", "level", "exc_info", "stack", "version", "=1+1", "é", "x" * 32)
BLOB_BYTES_MAX = 4_096
"""No larger blob is made: what is longer than its message allows proves nothing."""
ITEMS_MAX = 3
TRIES = 20


def extreme(kind: Kind, rng: Random) -> Any:  # noqa: PLR0911 - one line per kind of field
    """A value at an end of what the kind allows.

    Raises:
        FieldError: None was found whose fields fit together.
    """
    match kind:
        case Whole():
            inside = [kind.least, kind.least + 1, kind.most, kind.most - 1, 2**31, 2**53, 2**63 - 1, 2**63]
            return rng.choice([value for value in inside if kind.least <= value <= kind.most])
        case Real():
            ends = [value for value in (kind.least, kind.most) if math.isfinite(value)]
            inside = [0.0, 1.0, -1.0, 5e-324, 1.7e308, -1.7e308, 1e-9]
            return rng.choice([*ends, *(value for value in inside if kind.least <= value <= kind.most)])
        case Flag():
            return rng.random() < 0.5
        case Text():
            fits = [text for text in TEXTS if kind.least <= len(text.encode()) <= kind.most]
            return rng.choice([*fits, "x" * kind.most, "é" * (kind.most // 2) or "x"])
        case Word(pattern=pattern):
            names = ("0", "-", "_", "A" * 64, "nan", "0-0")
            if pattern is RUN_PATTERN:
                return rng.choice(("0" * 16, "f" * 16))
            return (
                f"{rng.choice((0, 4_294_967_295, 9_999_999_999))}-{rng.choice(names)}"
                if (pattern is UPDATE_PATTERN)
                else rng.choice(names)
            )
        case Blob():
            most = min(kind.most, max(kind.least, BLOB_BYTES_MAX))
            return rng.choice((bytes, rng.randbytes))(rng.choice((kind.least, most)))
        case Choice():
            return rng.choice(list(kind.codes))
        case Sequence():
            return tuple(extreme(kind.kind, rng) for _ in range(rng.choice((0, 1, min(kind.most, ITEMS_MAX)))))
        case Numbers():
            return {name: extreme(Real(), rng) for name in rng.sample(NAMES, rng.randrange(min(kind.most, 5)))}
        case Record():
            return _fitting(kind, lambda: kind.make(**{row.name: _of(row, rng) for row in kind.fields}))
    raise AssertionError(kind)


def _of(row: Any, rng: Random) -> Any:
    return None if row.optional and rng.random() < 0.4 else extreme(row.kind, rng)


def changed(record: Record, value: Any, rng: Random) -> Any:
    """The value with one field, somewhere in it, at an end of what is allowed; it may not fit together any more."""
    row = rng.choice(record.fields)
    old = getattr(value, row.name)
    if isinstance(row.kind, Record) and old is not None and rng.random() < 0.8:
        return replace(value, **{row.name: changed(row.kind, old, rng)})
    return replace(value, **{row.name: _of(row, rng)})


def _fitting(record: Record, make: Any) -> Any:
    for _ in range(TRIES):
        value = make()
        try:
            record.pack(value)
        except FieldError:
            continue
        return value
    raise FieldError(f"no {record.make.__name__} fits together")
