"""``[data]`` of a node's settings: where its readings come from, and how many are kept."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

import federation.config
from edge_node.readings.payloads import parse_path, zone_of
from edge_node.readings.plausible import Plausible
from edge_node.readings.sources import FileSource, Source, TableSource
from edge_node.readings.topics import TopicMap, TopicRule, filter_pattern
from edge_node.readings.units import converter
from edge_node.storage.reading_store import COLUMNS_MAX, Bounds
from federation.config import PositiveSeconds, Seconds, Section

__all__ = ["DataSection", "MqttSection", "topic_map"]


def _checked_by(check: Callable[[str], object]) -> AfterValidator:
    def accept(text: str) -> str:
        check(text)
        return text

    return AfterValidator(accept)


Zone = Annotated[str, _checked_by(zone_of)]
Steps = Annotated[str, _checked_by(parse_path)]
Conversion = Annotated[str, _checked_by(converter)]
Place = Annotated[str, Field(min_length=1, max_length=512)]
Filter = Annotated[str, _checked_by(filter_pattern)]


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not low < high:
        raise ValueError(f"[{low:g}, {high:g}] is no range: the least value, then the greatest")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_rising)]
Column = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,128}$")]


class TopicSection(Section):
    """``[[data.mqtt.topics]]``: one topic filter, and what its messages carry.

    Attributes:
        topic: With ``+`` and ``#``.
        column: Name of the column where the payload is the value itself. ``{1}`` is what the first wildcard stands for.
        format: ``json`` (or plain numbers), or ``sparkplug``: Sparkplug B.
        columns: By column, the path in the JSON payload: ``ENERGY.Power``, ``emeters[0].power``, ``/switch:0/apower``;
            or the name of the Sparkplug metric: ``Inputs/Flow``.
        unit: Of `column`, such as ``degF -> degC``: what is sent, and what is kept.
        units: The same by column.
        time: Path of the time in the payload; nothing takes the arrival.
        zone: Of a time that names none: ``UTC``, ``local`` or such as ``Europe/Berlin``.
        values: Numbers of words, such as ``{ idle = 0, run = 1 }``, before the common ones (on, off, open, closed...).
    """

    topic: Filter
    format: Literal["json", "sparkplug"] = "json"
    column: Column | None = None
    columns: Annotated[
        dict[Column, Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=COLUMNS_MAX)
    ] = Field(default_factory=dict)
    unit: Conversion | None = None
    units: dict[Column, Conversion] = Field(default_factory=dict)
    time: Steps | None = None
    zone: Zone = "UTC"
    values: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> "TopicSection":
        if (self.column is None) == (not self.columns):
            raise ValueError(f"{self.topic!r}: give column (the payload is the number) or columns (paths in JSON)")
        if self.format == "json":
            for path in self.columns.values():
                parse_path(path)
        elif self.column is not None or self.time is not None:
            raise ValueError(
                f"{self.topic!r}: Sparkplug has columns only, by the names of its metrics, and its own times"
            )
        unknown = sorted(self.units.keys() - self.columns.keys())
        if unknown or (self.unit is not None and self.column is None):
            raise ValueError(f"{self.topic!r}: a unit is of a column: {', '.join(unknown) or 'unit goes with column'}")
        return self

    def rule(self) -> TopicRule:
        """The same, ready to be asked."""
        is_sparkplug = self.format == "sparkplug"
        paths = {} if is_sparkplug else {name: parse_path(path) for name, path in self.columns.items()}
        units = self.units if self.unit is None or self.column is None else {self.column: self.unit}
        return TopicRule(
            topic=self.topic,
            columns=paths if self.column is None else {self.column: None},
            convert={name: converter(text) for name, text in units.items()},
            time=None if self.time is None else parse_path(self.time),
            zone=zone_of(self.zone),
            words=_lower(self.values),
            metrics={metric: name for name, metric in self.columns.items()} if is_sparkplug else {},
        )


class MqttSection(federation.config.BrokerSection):
    """``[data.mqtt]``: the broker on which the sensors speak; the keys of ``[broker]``, and these.

    Attributes:
        client_id: MQTT client id of the session that the broker keeps while the node is away; nothing is
            ``FEDERATION.NODE.data``.
        session_s: How long the broker keeps it, in seconds.
        window: Messages that may wait for our acknowledgement; half of it is stored at once.
        topics: What is read.
    """

    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")] | None = None
    session_s: Annotated[int, Field(ge=60, le=31_536_000)] = 604_800
    window: Annotated[int, Field(ge=2, le=20_000)] = 1_000
    topics: Annotated[tuple[TopicSection, ...], Field(min_length=1, max_length=256)]


class FilesSection(Section):
    """``[[data.files]]``: CSV files that programs append to.

    Attributes:
        path: A file, a folder (its ``*.csv``), or a pattern with ``*``.
        time: The column with the time (ISO 8601, or seconds since 1970); nothing takes the moment of reading.
        columns: Header by column; nothing takes every other column by its own name.
        zone: Of a time that names none.
        values: Numbers of words.
        decimal: ``.`` or ``,``.
    """

    path: Path
    time: str | None = None
    columns: dict[Column, str] = Field(default_factory=dict)
    zone: Zone = "UTC"
    values: dict[str, float] = Field(default_factory=dict)
    decimal: Annotated[str, Field(pattern=r"^[.,]$")] = "."


class TableSection(Section):
    """``[[data.tables]]``: a table of a SQLite database.

    Attributes:
        path: The database.
        table: A table or a view in it.
        cursor: A column that never falls: an id, or the time; several rows may have one value.
        time: The column with the time; nothing takes the moment of reading.
        columns: The table's column by ours.
        zone: Of a time that names none.
        values: Numbers of words.
    """

    path: Path
    table: Annotated[str, Field(min_length=1, max_length=128)]
    cursor: Annotated[str, Field(min_length=1, max_length=128)]
    columns: Annotated[dict[Column, str], Field(min_length=1, max_length=COLUMNS_MAX)]
    time: str | None = None
    zone: Zone = "UTC"
    values: dict[str, float] = Field(default_factory=dict)


class DataSection(Section):
    """``[data]``: this device's own readings, which go on arriving.

    Attributes:
        columns: The only columns that are kept; nothing keeps what the sources name, up to 256.
        ranges: By column, the least and the greatest value that its sensor can say, such as
            ``{ heat = [-40, 125], "*.bar" = [0, 16] }``: what is outside is no reading, and is counted.
        rows_max: Readings that are kept; of more, the oldest go, and are counted.
        bytes_max: The same in bytes of the store.
        age_max_s: The same in age, against the newest reading, in seconds.
        flush_s: Readings wait so long for the disk, in seconds: each wait writes a page or two of flash. They are
            acknowledged after it.
        poll_s: Files and tables are looked at so often, in seconds.
        future_max_s: A reading whose time is further ahead of this device's clock is refused, in seconds.
        report: Say beside an update how old the newest reading is, how much is new and how far it has moved; not under
            differential privacy, nor beside a masked update.
        iterable: A function that gives readings, ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``: it gets a task's context,
            and gives dicts of numbers by column, with ``time`` in seconds since 1970 where they have one.
        files: CSV files.
        tables: SQLite tables.
        mqtt: Topics.
    """

    columns: Annotated[tuple[Column, ...], Field(max_length=COLUMNS_MAX)] = ()
    ranges: Annotated[dict[Column, Range], Field(max_length=COLUMNS_MAX)] = Field(default_factory=dict)
    rows_max: Annotated[int, Field(ge=1_000, le=100_000_000)] = 1_000_000
    bytes_max: Annotated[int, Field(ge=65_536)] = 64 << 20
    age_max_s: PositiveSeconds = 90 * 86_400.0
    flush_s: Seconds = 60.0
    poll_s: PositiveSeconds = 5.0
    future_max_s: Seconds = 60.0
    report: bool = True
    iterable: str | None = None
    files: Annotated[tuple[FilesSection, ...], Field(max_length=256)] = ()
    tables: Annotated[tuple[TableSection, ...], Field(max_length=256)] = ()
    mqtt: MqttSection | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is a source."""
        return bool(self.files or self.tables or self.iterable or self.mqtt)

    def plausible(self) -> Plausible:
        """Which readings are taken."""
        return Plausible(columns=self.columns, ranges=self.ranges, future_max_s=self.future_max_s)

    def bounds(self) -> Bounds:
        """The most that is kept."""
        return Bounds(rows=self.rows_max, bytes=self.bytes_max, age_s=self.age_max_s)

    def sources(self) -> tuple[Source, ...]:
        """What is asked from time to time."""
        files = (
            FileSource(
                name=f"files {each.path}",
                pattern=str(each.path),
                time=each.time,
                columns=each.columns,
                zone=zone_of(each.zone),
                words=_lower(each.values),
                decimal=each.decimal,
            )
            for each in self.files
        )
        tables = (
            TableSource(
                name=f"table {each.path} {each.table}",
                path=each.path,
                table=each.table,
                cursor=each.cursor,
                columns=each.columns,
                time=each.time,
                zone=zone_of(each.zone),
                words=_lower(each.values),
            )
            for each in self.tables
        )
        return (*files, *tables)


def topic_map(section: MqttSection, memory: object = None) -> TopicMap:
    """What the topics carry.

    Args:
        section: The owner's words.
        memory: What `TopicMap.memory` gave before a restart.
    """
    return TopicMap((each.rule() for each in section.topics), memory)


def _lower(words: Mapping[str, float]) -> dict[str, float]:
    return {word.strip().lower(): number for word, number in words.items()}
