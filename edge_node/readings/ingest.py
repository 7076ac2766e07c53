"""The thread that takes readings in: from topics, files, tables and iterables, in batches, to the disk.

A message is acknowledged after the transaction that holds its readings: what a kill takes was not acknowledged, and the
broker, which keeps the session, sends it again. A disk that takes nothing stops the acknowledgements, and with them, at
the window, the broker: nothing is dropped, and memory is bounded.

A transaction waits for the disk once for all that came in `flush_s`: each wait writes whole pages of flash.
"""

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_node.readings.pacing import Pace
from edge_node.readings.payloads import NoReading, number_of, time_of
from edge_node.readings.plausible import Plausible
from edge_node.readings.sources import Polled, Source
from edge_node.readings.topics import OTHER_SENSOR, Reading, TopicMap, column_name
from edge_node.storage.reading_store import Block, Bounds, ReadingStore
from federation.errors import StorageError, described
from federation.runtime.clock import Clock
from federation.runtime.log import get_log
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    MessageReceived,
    Transport,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)

__all__ = ["INBOX_READINGS_MAX", "Ingest", "IngestSettings", "Row"]

INBOX_READINGS_MAX = 20_000
"""Messages that wait to be looked at; then the connection waits."""

BATCH_READINGS_MAX = 50_000
"""Readings of one transaction; a source that has more at once is asked again after it."""

RETRY_S = 5.0
"""Time until a transaction that the disk has refused is tried again, in seconds."""

JUMP_S = 60.0
"""A clock that goes so much faster or slower than time was set, in seconds."""

JUMP_REST_S = 3_600.0
"""So long after the clock was set nothing goes because of its age, in seconds."""

TOPICS = "topics"
"""Under this name the store keeps what topics have said that later messages need."""

_IDLE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """What is kept, and how often the disk is waited for.

    Attributes:
        plausible: Which readings are taken.
        bounds: The most that is kept.
        flush_s: Readings wait so long for the disk, in seconds.
        poll_s: Sources are asked so often, in seconds.
        window: Messages that may wait for their acknowledgement.
    """

    plausible: Plausible = field(default_factory=Plausible)
    bounds: Bounds = field(default_factory=Bounds)
    flush_s: float = 60.0
    poll_s: float = 5.0
    window: int = 1_000


@dataclass(frozen=True, slots=True)
class Row:
    """What an iterable has given, or why it ended."""

    values: Mapping[str, object] | None
    problem: str = ""


class Ingest:
    """Takes readings in until it is closed.

    Args:
        folder: The node's state folder.
        settings: What is kept.
        sources: Files and tables.
        topics: What topics carry; None where there is no broker to listen to.
        rows: Gives rows without an end, on a thread of their own; None where there is none.
        clock: Monotonic seconds.
        wall: Seconds since 1970.
        hear: Called on this thread with readings as they come, before they are on the disk: for whoever scores them.

    Attributes:
        inbox: Where the broker's connection puts what it hears.
    """

    def __init__(  # noqa: PLR0913 - what a thread may not find by itself
        self,
        folder: Path,
        settings: IngestSettings,
        *,
        clock: Clock,
        wall: Callable[[], float],
        sources: Sequence[Source] = (),
        topics: TopicMap | None = None,
        rows: Callable[[], Iterable[Mapping[str, object]]] | None = None,
        hear: Callable[[Sequence[Reading]], None] = lambda _: None,
    ) -> None:
        self._folder, self._settings, self._sources, self._topics = folder, settings, tuple(sources), topics
        self._rows, self._hear, self._clock, self._wall = rows, hear, clock, wall
        self._log = get_log("readings")
        self.inbox: Inbox = queue.Queue(INBOX_READINGS_MAX)
        self._transport: Transport | None = None
        self._pace = Pace(flush_s=settings.flush_s, window=settings.window)
        self._readings: list[Reading] = []
        self._acks: list[Callable[[], None]] = []
        self._cursors: dict[str, object] = {}
        self._refused: Counter[str] = Counter()
        self._told_shared = False
        self._memos: dict[str, object] = {}
        self._states: dict[str, str] = {}
        self._read: dict[str, object] = {}
        self._poll_at = self._retry_at = 0.0
        self._skew = wall() - clock.now()
        self._rest_until = 0.0
        self._failed: StorageError | None = None
        self._ready, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="readings", daemon=True)

    def open(self, transport: Transport | None = None) -> None:
        """Open the store, then begin to listen.

        Raises:
            StorageError: The store cannot be opened.
        """
        self._transport = transport
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        if transport is not None and self._topics is not None:
            for topic_filter in self._topics.filters:
                transport.subscribe(topic_filter)
            transport.open()
        if self._rows is not None:
            threading.Thread(target=self._pull, args=(self._rows,), name="readings-iterable", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def remember(self, memos: Mapping[str, object]) -> None:
        """Keep plain data by name, with the next transaction. Thread-safe; what does not fit the inbox is dropped."""
        try:
            self.inbox.put_nowait(InboxItem(event=dict(memos)))
        except queue.Full:
            self._log.warning("memo_dropped", why="the inbox is full")

    def close(self, *, timeout_s: float = 5.0) -> bool:
        """Store what has come, stop listening; says whether the thread ended within the time, in seconds."""
        self._closing.set()
        self.inbox.put(InboxItem(event=None))
        self._thread.join(timeout_s)
        if self._transport is not None:
            self._transport.close(timeout_s=timeout_s)
        return not self._thread.is_alive()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.closing(ReadingStore(self._folder, self._settings.bounds)) as store:
                self._recall(store)
                self._ready.set()
                while not self._closing.is_set():
                    self._turn(store)
                self._drain()
                self._store(store)
        except StorageError as error:
            if self._ready.is_set():
                raise
            self._failed = error
        finally:
            self._ready.set()

    def _recall(self, store: ReadingStore) -> None:
        self._read = {source.name: store.cursor(source.name) for source in self._sources}
        if self._topics is not None:
            self._topics.recall(store.cursor(TOPICS))

    def _turn(self, store: ReadingStore) -> None:
        self._await_item()
        self._drain()
        now = self._clock.now()
        self._look_at_the_clock(now)
        if now >= self._poll_at and not self._failing(now):
            self._poll(now)
        full = len(self._readings) >= BATCH_READINGS_MAX
        if (full or self._pace.is_due(now)) and not self._failing(now):
            self._store(store)

    def _failing(self, now: float) -> bool:
        return now < self._retry_at

    def _await_item(self) -> None:
        now = self._clock.now()
        if len(self._readings) >= BATCH_READINGS_MAX:
            self._closing.wait(max(0.0, self._retry_at - now))
            return
        due = self._pace.due_at
        until = min(self._poll_at if self._sources else now + _IDLE_S, now + _IDLE_S if due is None else due)
        wait_s = max(until, self._retry_at) - now
        try:
            item = self.inbox.get(timeout=max(0.0, min(wait_s, _IDLE_S)) or 1e-3)
        except queue.Empty:
            return
        self._take(item)

    def _drain(self) -> None:
        while len(self._readings) < BATCH_READINGS_MAX:
            try:
                self._take(self.inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, item: InboxItem) -> None:
        now = self._clock.now()
        match event := item.event:
            case MessageReceived():
                self._message(event)
                self._acks.append(item.acknowledge)
                self._pace.message(now)
            case Row():
                self._row(event, now)
            case dict():
                self._memos |= event
                self._pace.waits(now)
            case TransportConnected():
                self._state("mqtt", "")
            case TransportDisconnected() | TransportBlocked() | TransportFailed():
                self._state("mqtt", event.reason)
                if not isinstance(event, TransportBlocked):  # that is one subscription, or nothing has come since
                    self._acks.clear()  # the broker may forget what it has sent: what is here is kept
                self._pace.hurry()
            case _:
                pass

    def _message(self, message: MessageReceived) -> None:
        if self._topics is None:
            return
        found, problems = self._topics.readings(
            message.topic, message.payload, arrived=self._wall(), retained=message.retained
        )
        if OTHER_SENSOR in problems and not self._told_shared:
            self._told_shared = True
            self._log.warning("column_of_two_topics", topic=message.topic, remedy="say {1} in the column's name")
        self._refused.update(problems)
        if self._topics.learned:
            self._cursors[TOPICS] = self._topics.memory()
        self._add(found)

    def _row(self, row: Row, now: float) -> None:
        if row.values is None:
            self._state("iterable", row.problem or "it has ended")
            return
        found: list[Reading] = []
        try:
            when = time_of(row.values["time"], None) if "time" in row.values else self._wall()
        except NoReading as why:
            self._refused[str(why)] += 1
            return
        for name, value in row.values.items():
            if name != "time":
                try:
                    found.append((when, column_name(str(name)), number_of(value, {})))
                except NoReading as why:
                    self._refused[str(why)] += 1
        self._add(found)
        self._pace.waits(now)

    def _add(self, readings: Sequence[Reading]) -> None:
        kept, refused = self._settings.plausible.of(readings, self._wall())
        self._refused += refused
        self._readings += kept
        if kept:
            self._hear(kept)

    def _poll(self, now: float) -> None:
        self._poll_at = now + self._settings.poll_s
        for source in self._sources:
            if len(self._readings) >= BATCH_READINGS_MAX:
                self._poll_at = now
                return
            polled = self._polled(source)
            self._state(source.name, polled.problem)
            if polled.cursor != self._read[source.name]:
                self._read[source.name] = self._cursors[source.name] = polled.cursor
                self._pace.waits(now)
            self._refused += polled.refused
            self._add(polled.readings)
            if polled.more:
                self._poll_at = now

    def _polled(self, source: Source) -> Polled:
        try:
            return source.poll(self._read[source.name], self._wall())
        except Exception as error:  # noqa: BLE001 - a file may hold anything; the other sources go on
            self._log.exception("source_failed", source=source.name)
            return Polled(cursor=self._read[source.name], problem=described(error))

    def _store(self, store: ReadingStore) -> None:
        """One transaction; then what it holds is acknowledged."""
        now = self._clock.now()
        readings, surplus = _with_room(self._readings, store)
        self._refused["too many columns"] = surplus
        block = Block(*(list(part) for part in zip(*readings, strict=True))) if readings else None
        refused = {reason: count for reason, count in self._refused.items() if count}
        if block is None and not refused and not self._cursors and not self._memos:
            return self._stored(now)
        try:
            latest = self._wall() + self._settings.plausible.future_max_s if now >= self._rest_until else None
            store.add(block, cursors=self._cursors, refused=refused, memos=self._memos, latest=latest)
        except StorageError as error:
            self._retry_at = now + RETRY_S
            self._log.error("readings_not_stored", reason=str(error), readings=len(self._readings))
            return None
        return self._stored(now)

    def _stored(self, now: float) -> None:
        for acknowledge in self._acks:
            acknowledge()
        self._pace.stored(now)
        self._readings, self._acks, self._cursors, self._memos = [], [], {}, {}
        self._refused.clear()
        self._retry_at = 0.0

    def _state(self, source: str, problem: str) -> None:
        """Say it where it has changed, in the log and for `edge-node status`."""
        if self._states.get(source) == problem:
            return
        self._states[source] = problem
        self._memos["sources"] = dict(self._states)
        self._pace.waits(self._clock.now())
        if problem:
            self._log.warning("source_away", source=source, reason=problem)
        else:
            self._log.info("source_read", source=source)

    def _look_at_the_clock(self, now: float) -> None:
        skew = self._wall() - now
        if abs(skew - self._skew) > JUMP_S:
            self._log.warning("clock_jumped", seconds=round(skew - self._skew, 1))
            self._refused["the clock has jumped"] += 1
            self._rest_until = now + JUMP_REST_S
        self._skew = skew

    # --- the iterable's own thread ----------------------------------------------------------------------------------

    def _pull(self, rows: Callable[[], Iterable[Mapping[str, object]]]) -> None:
        problem = ""
        try:
            for values in _mappings(rows()):
                if self._closing.is_set():
                    return
                self.inbox.put(InboxItem(event=Row(values)))
        except BaseException as error:  # noqa: BLE001 - it is a user's code, and its end is told
            problem = described(error)
            self._log.exception("iterable_failed")
        self.inbox.put(InboxItem(event=Row(None, problem)))


def _mappings(rows: Iterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"it must give dicts of numbers by column, not {type(row).__name__}")
        yield dict(row)


def _with_room(readings: list[Reading], store: ReadingStore) -> tuple[list[Reading], int]:
    """Without the columns for which the store has no room, and how many readings that leaves out."""
    room = store.room
    fresh = dict.fromkeys(name for _, name, _ in readings if not store.knows(name))
    if len(fresh) <= room:
        return readings, 0
    surplus = set(list(fresh)[room:])
    kept = [one for one in readings if one[1] not in surplus]
    return kept, len(readings) - len(kept)
