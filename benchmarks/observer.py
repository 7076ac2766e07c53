"""An independent witness on the broker: when was each round announced, and when did its last receipt pass by.

It shares the cores with what it watches, so it only notes times, without acknowledgements, and reads later.
"""

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from federation.errors import RemoteProtocolError
from federation.protocol.messages import Receipt, ReceiptStatus, RoundAnnouncement
from federation.protocol.wire import decode_message
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import InboxItem, MessageReceived


@dataclass(slots=True)
class RoundTimes:
    """Seconds on this process's monotonic clock."""

    announced: float
    last_receipt: float = 0.0
    receipts: int = 0


@dataclass(slots=True)
class Observer:
    """Listens to announcements and receipts of one federation."""

    url: str
    federation: str = "demo"
    _heard: list[tuple[float, bytes]] = field(default_factory=list)
    _inbox: "queue.Queue[InboxItem]" = field(default_factory=lambda: queue.Queue(100_000))
    _stop: threading.Event = field(default_factory=threading.Event)
    _transport: MqttTransport = field(init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        session = SessionSettings(client_id="bench-observer", connection="node")
        self._transport = MqttTransport(parse_broker_url(self.url), session, self._inbox)
        self._transport.subscribe(f"fl/{self.federation}/round", qos=0)
        self._transport.subscribe(f"fl/{self.federation}/n/+/cmd", qos=0)
        self._transport.open()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._inbox.put(InboxItem(event=None))
        self._thread.join(5.0)
        self._transport.close()

    def latencies_s(self) -> list[float]:
        """Announcement to last ``applied`` receipt of every round that had one, in seconds."""
        rounds: dict[int, RoundTimes] = {}
        for now, payload in self._heard:
            _hear(rounds, payload, now)
        return [times.last_receipt - times.announced for times in rounds.values() if times.receipts]

    def _listen(self) -> None:
        while not self._stop.is_set():
            item = self._inbox.get()
            if isinstance(item.event, MessageReceived):
                self._heard.append((time.monotonic(), item.event.payload))


def _hear(rounds: dict[int, RoundTimes], payload: bytes, now: float) -> None:
    try:
        message = decode_message(payload)
    except RemoteProtocolError:
        return
    if isinstance(message, RoundAnnouncement):
        rounds.setdefault(message.round, RoundTimes(announced=now))
    elif isinstance(message, Receipt) and message.status is ReceiptStatus.APPLIED:
        times = rounds.get(int(message.update.split("-", 1)[0]))
        if times is not None:
            times.last_receipt, times.receipts = now, times.receipts + 1
