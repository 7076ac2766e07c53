"""Messages at the ends of what their tables allow: valid, and said by no honest peer."""

from collections.abc import Mapping
from random import Random
from typing import Any, TypeVar

from federation.errors import LocalProtocolError
from federation.protocol.fields import Blob, Choice, Flag, Kind, Numbers, Real, Record, Sequence, Text, Whole, Word
from federation.protocol.messages import Message
from federation.protocol.schema import SCHEMAS
from federation.protocol.tables import RUN_PATTERN, UPDATE_PATTERN
from federation.protocol.wire import encode_message

MessageT = TypeVar("MessageT", bound=Message)

RECORDS: Mapping[type, Record] = {schema.record.make: schema.record for schema in SCHEMAS}
NAMES = ("loss", "accuracy", "self", "event", "stack", "exception", "level", "version", "[/red]", "$\\frac{", "=1+1")
TEXTS = ("", "a", "[/red]{0}%s", "\u202e\u00e4\u65e5", "=cmd", "../../etc", "digits", "lossless", "edge", "x" * 4_096)
WHOLE = (0, 1, 2, 2**31, 2**32 - 1, 2**53 - 1, 2**63 - 1, 2**63, 2**64 - 1)
REAL = (0.0, 5e-324, 1e-9, 0.5, 1.0, 1e9, 1.7e308, -1.7e308, -1.0)
SHARE = 0.2
"""Of the fields of a message that `varied` changes."""
ATTEMPTS = 50


class Extremes:
    """Makes them.

    Args:
        rng: Which.
        runs: Ids of runs that are known.
        updates: Ids of updates that are known; may grow.
    """

    def __init__(self, rng: Random, runs: tuple[str, ...], updates: list[str]) -> None:
        self._rng, self._runs, self._updates = rng, runs, updates

    def varied(self, message: MessageT) -> MessageT:
        """The same with some fields at an end; what the fields' checks refuse together is tried again."""
        record = RECORDS[type(message)]
        for _ in range(ATTEMPTS):
            changed: MessageT = self._changed(record, message)
            try:
                encode_message(changed)
            except LocalProtocolError:
                continue
            return changed
        return message

    def of(self, kind: Kind) -> Any:  # noqa: PLR0911 - one case per kind
        """A value at an end of what a field allows."""
        rng = self._rng
        match kind:
            case Whole(most, least):
                return rng.choice([number for number in (least, most, *WHOLE) if least <= number <= most])
            case Real(most, least):
                return rng.choice([number for number in REAL if least <= number <= most] or [least])
            case Flag():
                return rng.random() < 0.5
            case Text(most, least):
                return rng.choice([text for text in TEXTS if least <= len(text.encode()) <= most] or ["y" * least])
            case Word(pattern) if pattern == RUN_PATTERN:
                return rng.choice((*self._runs, "f" * 16))
            case Word(pattern) if pattern == UPDATE_PATTERN:
                return rng.choice((*self._updates[-4:], "4294967295-pi-3", "0-" + "z" * 64))
            case Word():
                return "a" * 64
            case Blob(most, least):
                return rng.choice((b"\xff", b"\0")) * rng.choice((least, most, min(most, least + 16)))
            case Choice(codes):
                return rng.choice(list(codes))
            case Sequence(of_one, most):
                return tuple(self.of(of_one) for _ in range(rng.choice((0, 1, min(2, most), most))))
            case Numbers(most):
                return {rng.choice(NAMES): rng.choice(REAL) for _ in range(rng.randrange(4))}
            case Record(make, fields):
                return make(**{each.name: self.of(each.kind) for each in fields})
        raise AssertionError(f"no extremes of {kind}")

    def _changed(self, record: Record, value: Any) -> Any:
        values: dict[str, Any] = {}
        for each in record.fields:
            before = getattr(value, each.name)
            if isinstance(each.kind, Record) and before is not None and self._rng.random() < 1 - SHARE / 2:
                values[each.name] = self._changed(each.kind, before)
            elif self._rng.random() >= SHARE:
                values[each.name] = before
            elif each.optional and self._rng.random() < 0.5:
                values[each.name] = None
            else:
                values[each.name] = self.of(each.kind)
        return record.make(**values)
