"""Which topics carry readings, and what columns they become."""

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edge_node.readings.payloads import (
    NO_SUCH_VALUE,
    PAYLOAD_BYTES_MAX,
    NoReading,
    document_of,
    number_of,
    pick,
    time_of,
    within,
)
from edge_node.readings.sparkplug import Aliases, device_of, metrics_of

__all__ = ["OTHER_SENSOR", "Reading", "TopicMap", "TopicRule", "column_name", "filter_pattern"]

Reading = tuple[float, str, float]
"""Time in seconds since 1970, column, value."""

OTHER_SENSOR = "another topic has this column"
"""Why a reading is none: two sensors would be one column."""

SILENT_S = 3_600.0
"""A sensor that has said nothing for so long has lost its column to the next one, in seconds."""

SENSORS_MAX = 1_024
"""Columns of which it is known whose they are; a store has room for fewer."""

NAME_CHARACTERS_MAX = 64
_COLUMN = "column"
_STRANGE = re.compile(r"[^A-Za-z0-9_.:\-]+")
_PLACE = re.compile(r"\{([1-9])\}")

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRule:
    """One filter, and what its messages carry.

    Attributes:
        topic: With ``+`` and ``#``.
        columns: By column, the path in the JSON payload; None where the payload is the value itself. In a column's name
            ``{1}`` is what the first wildcard stands for.
        convert: Conversions by column.
        time: Path of the time; None takes the arrival.
        zone: Of a time that names none.
        words: Numbers of words, in lower case.
        metrics: By name of a Sparkplug metric, the column: then payloads are of that kind, and paths mean nothing.
    """

    topic: str
    columns: Mapping[str, Path | None]
    convert: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    time: Path | None = None
    zone: dt.tzinfo | None = dt.UTC
    words: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)


class TopicMap:
    """All rules.

    Args:
        rules: Each is asked about each message.
        memory: What `memory` gave before a restart.

    Raises:
        ValueError: A filter is none.
    """

    def __init__(self, rules: Iterable[TopicRule], memory: object = None) -> None:
        self.recall(memory)
        self._changed = False
        self._rules = [(filter_pattern(rule.topic), rule) for rule in rules]

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to."""
        return tuple(dict.fromkeys(rule.topic for _, rule in self._rules))

    def memory(self) -> object:
        """What is to be kept over a restart: plain data."""
        # Whoever knows aliases only passes the other rows over.
        return [*self._aliases.plain(), *([_COLUMN, *key, sensor] for key, (sensor, _) in self._sensors.items())]

    @property
    def learned(self) -> bool:
        """Whether there is more to be kept than the last time that this was asked."""
        changed = self._aliases.changed or self._changed
        self._aliases.changed = self._changed = False
        return changed

    def recall(self, memory: object) -> None:
        """Know again what `memory` gave before a restart."""
        self._aliases = Aliases(memory)
        self._sensors: dict[tuple[str, str], tuple[str, float | None]] = {}
        for row in memory if isinstance(memory, list) else ():
            match row:
                case [str(kind), str(topic), str(column), str(sensor)] if kind == _COLUMN:
                    self._sensors[topic, column] = (sensor, None)

    def _only(self, rule: TopicRule, found: Iterable[Reading], sensor: str, arrived: float) -> list[Reading]:
        """The readings whose columns are this sensor's.

        A filter may match several sensors. Where the columns' names do not tell them apart, a column is that of the
        first, until it has said nothing for `SILENT_S`.
        """
        kept: list[Reading] = []
        for reading in found:
            key = (rule.topic, reading[1])
            owner, last = self._sensors.get(key, (sensor, arrived))
            if owner != sensor and (last is None or arrived - last <= SILENT_S):
                # After a restart the owner has its time to speak again.
                self._sensors[key] = (owner, arrived if last is None else last)
                continue
            self._changed |= self._sensors.get(key, ("", None))[0] != sensor
            if key in self._sensors or len(self._sensors) < SENSORS_MAX:
                self._sensors[key] = (sensor, arrived)
            kept.append(reading)
        return kept

    def readings(
        self, topic: str, payload: bytes, *, arrived: float, retained: bool = False
    ) -> tuple[list[Reading], list[str]]:
        """What a message carries, and why some of it is no reading.

        Args:
            topic: Where it came.
            payload: Whatever it is.
            arrived: In seconds since 1970.
            retained: Whether the broker had it before we asked: then only its own time says when it was measured.
        """
        found: list[Reading] = []
        problems: list[str] = []
        matched = False
        for pattern, rule in self._rules:
            match = pattern.fullmatch(topic)
            if match is None:
                continue
            matched = True
            taken: list[Reading] = []
            if rule.metrics:
                self._take_metrics(rule, topic, match.groups(), payload, (arrived, retained), (taken, problems))
            elif retained and rule.time is None:
                problems.append("retained, without a time")
            else:
                try:
                    self._take(rule, match.groups(), payload, arrived, taken, problems)
                except NoReading as why:
                    problems.append(str(why))
            kept = self._only(rule, taken, device_of(topic) if rule.metrics else topic, arrived)
            found += kept
            problems += [OTHER_SENSOR] * (len(taken) - len(kept))
        return found, problems if matched else ["no such topic"]

    def _take_metrics(
        self,
        rule: TopicRule,
        topic: str,
        wild: tuple[str | None, ...],
        payload: bytes,
        came: tuple[float, bool],
        into: tuple[list[Reading], list[str]],
    ) -> None:
        """The metrics of a Sparkplug payload that have a column."""
        found, problems = into
        arrived, retained = came
        try:
            metrics = metrics_of(payload)
        except NoReading as why:
            problems.append(str(why))
            return
        for metric in metrics:
            try:
                known = self._aliases.named(topic, metric, rule.metrics)
                if known is None or (retained and known.time is None):
                    continue
                name = rule.metrics[known.name]
                value = number_of(known.value, rule.words)
                value = within(rule.convert[name](value)) if name in rule.convert else value
            except NoReading as why:
                problems.append(str(why))
                continue
            column = name if not wild else _PLACE.sub(lambda place: _captured(place, wild), name)
            found.append((arrived if known.time is None else known.time, column_name(column), value))

    @staticmethod
    def _take(
        rule: TopicRule,
        wild: tuple[str | None, ...],
        payload: bytes,
        arrived: float,
        found: list[Reading],
        problems: list[str],
    ) -> None:
        wants_document = rule.time is not None or any(path is not None for path in rule.columns.values())
        document = document_of(payload) if wants_document else None
        when = arrived if rule.time is None else time_of(pick(document, rule.time), rule.zone, arrived)
        before, missing = len(found), 0
        for name, path in rule.columns.items():
            try:
                raw = _text(payload) if path is None else pick(document, path)
                value = number_of(raw, rule.words)
                value = within(rule.convert[name](value)) if name in rule.convert else value
            except NoReading as why:
                missing += str(why) == NO_SUCH_VALUE
                problems.append(str(why))
                continue
            column = name if not wild else _PLACE.sub(lambda place: _captured(place, wild), name)
            found.append((when, column_name(column), value))
        if len(found) > before:  # some sensors say only what has changed
            for _ in range(missing):
                problems.remove(NO_SUCH_VALUE)


def column_name(text: str) -> str:
    """A name that can stand in tables, files and messages: letters, digits and ``_.:-``, at most 64."""
    return _STRANGE.sub("_", text)[:NAME_CHARACTERS_MAX] or "_"


def _captured(place: re.Match[str], wild: tuple[str | None, ...]) -> str:
    number = int(place[1])
    return (wild[number - 1] or "").replace("/", "_") if number <= len(wild) else place[0]


def _text(payload: bytes) -> str:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise NoReading("too large")
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise NoReading("not a number") from error


def filter_pattern(topic: str) -> re.Pattern[str]:
    """A filter as an expression, with a group for each wildcard.

    Raises:
        ValueError: It is none.
    """
    levels = topic.split("/")
    wrong = any(("+" in level or "#" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]
    if not topic or wrong or len(topic) > 1_024 or "\0" in topic:
        raise ValueError(f"{topic!r} is no topic filter: + and # are whole levels, # is the last")
    parts = ["([^/]*)" if level == "+" else re.escape(level) for level in levels]
    if levels[-1] == "#":  # what is above it belongs to it, too
        return re.compile("/".join(parts[:-1]) + ("(?:/(.*))?" if len(parts) > 1 else "(.*)"), re.DOTALL)
    return re.compile("/".join(parts))
