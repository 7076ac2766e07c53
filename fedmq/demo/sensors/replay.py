"""Replays pumps on a broker, a message a row, and hears their scores: each delay is from one to the other."""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from federation.documents import read_json
from federation.runtime.address import parse_broker_url
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import INBOX_ITEMS_MAX, Inbox, MessageReceived
from fedmq.demo.sensors.figures import PumpStory
from fedmq.demo.sensors.plan import EPOCH_S, SensorPlan
from fedmq.demo.sensors.pumps import COLUMNS

__all__ = ["Replay"]

PENDING_MAX = 5_000


@dataclass(slots=True)
class Replay:
    """The sensors' side of all pumps, and a listener to their scores.

    Attributes:
        plan: Topics and pace.
        url: The broker.
        stories: By the pump's name.
        live: Scores count from here on, by row.
    """

    plan: SensorPlan
    url: str
    stories: Mapping[str, PumpStory]
    _inbox: Inbox = field(default_factory=lambda: queue.Queue(INBOX_ITEMS_MAX))
    _sent_at: dict[tuple[str, int], float] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _transport: MqttTransport = field(init=False)

    def __post_init__(self) -> None:
        session = SessionSettings(
            client_id=f"{self.plan.federation}-sensors",
            session_expiry_s=60,
            receive_max=1_000,
            inflight_max=100,
            queue_messages_max=100_000,
            first_connect_spread_s=0.0,
            connection="data",
        )
        self._transport = MqttTransport(parse_broker_url(self.url), session, self._inbox)
        for pump in self.stories:
            self._transport.subscribe(self.plan.score_topic(pump), qos=0)

    def open(self) -> None:
        """Connect, and begin to hear."""
        self._transport.open()
        self._start(self._hear)

    def close(self) -> None:
        """Stop at once."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(5)
        self._transport.close(timeout_s=2.0)

    def play(self, upto: int | None, rate: float, done: Callable[[], None]) -> None:
        """Replay the rows that have not been sent, up to a row, at so many rows a second of each pump; then ``done``.

        Args:
            upto: The first row that is not sent; None sends all.
            rate: Rows a second.
            done: Called on the thread that sends.
        """
        self._start(lambda: self._play(upto, rate, done))

    def probe(self, name: str) -> None:
        """Send a pump's first row, again where it was sent: whether its node listens already, its store says."""
        self.stories[name].sent = 0
        self._send(name, self.stories[name])

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _play(self, upto: int | None, rate: float, done: Callable[[], None]) -> None:
        # One pump after the other within a row's time: machines that stand apart do not speak at the same moment.
        due, step = time.monotonic(), 1 / (rate * len(self.stories))
        moved = True
        while moved and not self._stopped.is_set():
            moved = False
            for name, story in self.stories.items():
                end = len(story.pump.values) if upto is None else min(upto, len(story.pump.values))
                end = min(end, self.plan.rows) if self.plan.rows else end
                if story.sent < end:
                    self._send(name, story)
                    moved = True
                due += step
                self._stopped.wait(max(0.0, due - time.monotonic()))
        if not moved:
            done()

    def _send(self, name: str, story: PumpStory) -> None:
        row = story.sent
        values = (round(float(value), 6) for value in story.pump.values[row])
        body: dict[str, float] = dict(zip(COLUMNS, values, strict=True))
        self._sent_at[name, row] = time.monotonic()
        self._sent_at.pop((name, row - PENDING_MAX), None)
        self._transport.publish(self.plan.topic(name), json.dumps(body | {"time": EPOCH_S + row}).encode(), qos=1)
        story.sent = row + 1

    def _hear(self) -> None:
        names: Mapping[str, str] = {self.plan.score_topic(name): name for name in self.stories}
        while not self._stopped.is_set():
            try:
                item = self._inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            now = time.monotonic()
            item.acknowledge()
            if isinstance(item.event, MessageReceived) and item.event.topic in names and not item.event.retained:
                self._take(names[item.event.topic], read_json(item.event.payload), now)

    def _take(self, name: str, said: Mapping[str, float], now: float) -> None:
        story, row = self.stories[name], round(said["time"] - EPOCH_S)
        sent_at = self._sent_at.pop((name, row), None)
        if sent_at is not None:
            story.delays_ms.append(1e3 * (now - sent_at))
        threshold = said["threshold"]
        story.ratios[row] = said["score"] / threshold if threshold else 0.0
        story.versions.add(int(said["version"]))


def delays(stories: Sequence[PumpStory]) -> list[float]:
    """All delays, in milliseconds."""
    return [delay for story in stories for delay in story.delays_ms]
