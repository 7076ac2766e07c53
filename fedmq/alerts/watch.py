"""From what is wrong now to what is told: once when it has lasted long enough, and once more when it is over; pure."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from coordinator.config.alerts import AlertKind

__all__ = ["Condition", "Notice", "Watch"]

RECORDS_MAX = 200_000
"""Conditions that are watched at once; a larger fleet's further nodes are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is wrong at one moment.

    Attributes:
        kind: What.
        subject: Of what there are several: whose it is.
        mark: Where it has changed, the condition is another one, and the one before is over.
        text: For a person.
        hold_s: How long it must last before it is told, in seconds.
        grows: It is told only when this number has grown since it began; None: whatever it is.
        base: What has grown is held against this number; None: the first that was seen.
        quiet_s: It is over when ``grows`` has not grown for so long, in seconds; 0: when it is no longer found.
        begins: Whether it may begin. Otherwise it only goes on, where it was told: nobody knows better, or it is nearly
            over and may well come back.
    """

    kind: AlertKind
    text: str
    subject: str = ""
    mark: int = 0
    hold_s: float = 0.0
    grows: int | None = None
    base: int | None = None
    quiet_s: float = 0.0
    begins: bool = True

    @property
    def key(self) -> str:
        """What makes it the same condition."""
        return f"{self.kind} {self.subject}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a person is told.

    Attributes:
        kind: What is wrong, or was.
        subject: Whose it is; empty where there is only one.
        over: It is over.
        text: For a person.
        since_s: When it began, in seconds since 1970.
        at_s: When it was found, in seconds since 1970.
    """

    kind: str
    subject: str
    over: bool
    text: str
    since_s: float
    at_s: float

    def row(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)

    def moved(self, by_s: float) -> "Notice":
        """With its times by a clock that was moved by so many seconds."""
        return replace(self, since_s=self.since_s + by_s, at_s=self.at_s + by_s)


@dataclass(slots=True, kw_only=True)
class _Record:
    kind: str
    subject: str
    mark: int
    text: str
    since_s: float
    base: int | None
    told: bool = False
    grown_s: float = 0.0


@dataclass(slots=True)
class Watch:
    """What has been wrong since when, and what of it was told; it survives a restart as plain data."""

    _records: dict[str, _Record] = field(default_factory=dict)

    def step(
        self, found: Iterable[Condition], at_s: float, unseen: Container[AlertKind] = frozenset()
    ) -> Iterator[Notice]:
        """Compare with what was known.

        Args:
            found: All that is wrong now.
            at_s: Now, in seconds since 1970.
            unseen: Of these kinds nobody could look: what was known stays as it is.
        """
        now = {condition.key: condition for condition in found}
        for key, record in list(self._records.items()):
            condition = now.get(key)
            if condition is None and record.kind in unseen:
                continue
            if condition is None or condition.mark != record.mark:
                del self._records[key]
                if record.told:
                    yield self._notice(record, at_s, over=True)
        for key, condition in now.items():
            known = self._record(key, condition, at_s)
            if known is None:
                continue
            # A clock that was set back must not hold an alert for ever.
            known.since_s, known.text = min(known.since_s, at_s), condition.text
            if not known.told and self._is_due(known, condition, at_s):
                known.told, known.base, known.grown_s = True, condition.grows, at_s
                yield self._notice(known, at_s, over=False)
            elif known.told and self._is_quiet(known, condition, at_s):
                known.told = False
                yield self._notice(known, at_s, over=True)

    def rows(self, moved_s: float = 0.0) -> list[dict[str, object]]:
        """As plain data, for `restored`; ``moved_s`` is added to each time, in seconds."""
        return [asdict(replace(record, since_s=record.since_s + moved_s)) for record in self._records.values()]

    @classmethod
    def restored(cls, rows: Iterable[Mapping[str, Any]], moved_s: float = 0.0) -> "Watch":
        """What `rows` gave; what is no such row is left out. ``moved_s`` as there."""
        watch = cls()
        for row in rows:
            try:
                record = _Record(**row)
                record.since_s += moved_s
            except TypeError:
                continue
            watch._records[f"{record.kind} {record.subject}".strip()] = record
        return watch

    def _record(self, key: str, condition: Condition, at_s: float) -> _Record | None:
        """The one of ``condition``; a new one where it begins, None where it is not watched."""
        known = self._records.get(key)
        if known is not None and (known.told or condition.begins):
            return known
        self._records.pop(key, None)
        if not condition.begins or len(self._records) >= RECORDS_MAX:
            return None
        self._records[key] = _Record(
            kind=condition.kind,
            subject=condition.subject,
            mark=condition.mark,
            text=condition.text,
            since_s=at_s,
            base=condition.grows if condition.base is None else condition.base,
        )
        return self._records[key]

    @staticmethod
    def _is_due(record: _Record, condition: Condition, at_s: float) -> bool:
        grown = condition.grows is None or record.base is None or condition.grows > record.base
        return grown and at_s - record.since_s >= condition.hold_s

    @staticmethod
    def _is_quiet(record: _Record, condition: Condition, at_s: float) -> bool:
        """Whether what was told has not grown for long enough; the next growth is told again."""
        if not condition.quiet_s or condition.grows is None:
            return False
        if condition.grows != record.base:
            # Less than before: it is counted anew.
            record.base, record.grown_s = condition.grows, at_s
        record.grown_s = min(record.grown_s, at_s)
        return at_s - record.grown_s >= condition.quiet_s

    @staticmethod
    def _notice(record: _Record, at_s: float, *, over: bool) -> Notice:
        text = f"over: {record.text}" if over else record.text
        return Notice(kind=record.kind, subject=record.subject, over=over, text=text, since_s=record.since_s, at_s=at_s)
