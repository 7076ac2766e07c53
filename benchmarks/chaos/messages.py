"""Messages that are repeated, reordered and late, and bytes that are no messages at all, on every topic."""

import hashlib
import json
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.federation import COORDINATOR, LIMIT_S, running
from benchmarks.chaos.kills import LARGE, SMALL, judge
from benchmarks.chaos.plan import FEDERATION, Plan
from benchmarks.chaos.table import Row
from coordinator.monitoring.status import read_status
from federation.protocol.topics import Topics
from federation.runtime.local_broker import LocalBroker
from federation.runtime.log import configure_log
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import Inbox, InboxItem, MessageReceived
from federation.types import FederationId, ModelVersion, NodeId, RoundId, update_id

TOPICS = Topics(FederationId(FEDERATION))
COPIES = 4
"""Further copies of each message: with the first it comes five times."""
KEPT_MAX = 200
LATE_SHARE = 0.2
JUNK_BYTES_MAX = 60_000
JUNK_PER_MESSAGE = 2
OVERSIZE_SHARE = 0.05
OVERSIZE_BYTES = 200_000
"""More than any message may have, and less than the broker takes."""
RANDOM_SHARE = 0.5


class Echo:
    """Hears what nodes send and hands each message to a function, together with the messages before it."""

    def __init__(self, url: str, act: Callable[["Echo", MessageReceived], None]) -> None:
        configure_log(json=False, level="critical")
        self._inbox: Inbox = queue.Queue(100_000)
        self._act = act
        self._session = SessionSettings(client_id="intruder", inflight_max=100)
        self._transport = MqttTransport(parse_broker_url(url), self._session, self._inbox)
        self._thread = threading.Thread(target=self._run, name="intruder", daemon=True)
        self._mine: set[bytes] = set()
        self.heard: deque[MessageReceived] = deque(maxlen=KEPT_MAX)
        self.sent = 0

    @contextmanager
    def listening(self, *filters: str) -> Iterator[None]:
        """Act on everything that these filters catch, for the time of the block."""
        for topic_filter in filters:
            self._transport.subscribe(topic_filter)
        self._transport.open()
        self._thread.start()
        try:
            yield
        finally:
            self._inbox.put(InboxItem(event=None))
            self._thread.join(LIMIT_S)
            self._transport.close(timeout_s=2.0)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send something; it will not be heard as somebody else's."""
        self._mine.add(_key(topic, payload))
        self._transport.publish(topic, payload, retain=retain)
        self.sent += 1

    def _run(self) -> None:
        while (event := self._inbox.get().event) is not None:
            if (
                isinstance(event, MessageReceived)
                and event.payload
                and _key(event.topic, event.payload) not in self._mine
            ):
                self._act(self, event)
                self.heard.append(event)


def repeat(broker: LocalBroker, folder: Path, versions: int, plan: Plan = LARGE) -> Row:
    """Everything that nodes say comes five times, out of order, and again much later."""
    rng = random.Random(5)

    def act(echo: Echo, message: MessageReceived) -> None:
        copies = [message] * COPIES + ([rng.choice(echo.heard)] if echo.heard and rng.random() < LATE_SHARE else [])
        rng.shuffle(copies)
        for copy in copies:
            echo.publish(copy.topic, copy.payload)

    echo = Echo(broker.url, act)
    row = Row(fault="every offer and chunk five times, reordered, late")
    return _with_echo(broker, folder, plan, echo, (row, versions))


def vandalise(broker: LocalBroker, folder: Path, versions: int) -> Row:
    """Random, truncated, oversized, replayed and forged bytes on every topic, retained ones included."""
    rng = random.Random(6)

    def act(echo: Echo, message: MessageReceived) -> None:
        for _ in range(JUNK_PER_MESSAGE):
            echo.publish(rng.choice(_all_topics(rng)), _junk(rng, message.payload), retain=rng.random() < 0.1)
        # A message as it was, by somebody else: on another node's topic.
        victim = NodeId(rng.choice(SMALL.names))
        if message.topic.endswith("/evt") and message.topic != TOPICS.node_event(victim):
            echo.publish(TOPICS.node_event(victim), message.payload)
        if echo.heard and rng.random() < LATE_SHARE:
            old = rng.choice(echo.heard)
            echo.publish(old.topic, old.payload)

    echo = Echo(broker.url, act)
    row = Row(fault="random, truncated, oversized, replayed, forged: every topic")
    row = _with_echo(broker, folder, SMALL, echo, (row, versions))
    seen = json.loads(json.dumps(read_status(folder / COORDINATOR)))
    refused = sum(sum(kinds.values()) for kinds in seen["incidents"].values())
    row.note += f"; status shows {refused} refused, {seen['counters'].get('foreign_updates', 0)} forged"
    if not refused or not seen["counters"].get("foreign_updates"):
        row.failures.append(f"coordinator status does not show what was refused: {seen['counters']}")
    return row


@contextmanager
def flood(url: str, per_message: int) -> Iterator[Echo]:
    """Chunks of transfers that nobody has granted, and of those that somebody has: so many for each honest message."""
    rng = random.Random(9)

    def act(echo: Echo, heard: MessageReceived) -> None:
        del heard
        for _ in range(per_message):
            node = NodeId(rng.choice(SMALL.names))
            update = update_id(RoundId(rng.randrange(1_000)), node)
            echo.publish(TOPICS.node_chunk(node, update, rng.randrange(100)), rng.randbytes(JUNK_BYTES_MAX))

    echo = Echo(url, act)
    with echo.listening(f"fl/{FEDERATION}/n/+/evt"):
        yield echo


def _junk(rng: random.Random, honest: bytes) -> bytes:
    kind = rng.random()
    if kind < OVERSIZE_SHARE:
        return rng.randbytes(OVERSIZE_BYTES)
    if kind < RANDOM_SHARE:
        return rng.randbytes(rng.randint(1, rng.choice((8, 1_000, JUNK_BYTES_MAX))))
    return honest[: rng.randrange(1, max(2, len(honest)))]


def _with_echo(broker: LocalBroker, folder: Path, plan: Plan, echo: Echo, work: tuple[Row, int]) -> Row:
    row, versions = work
    with running(plan, folder, broker.url) as federation:
        with echo.listening(f"fl/{FEDERATION}/n/+/evt", f"fl/{FEDERATION}/n/+/up/+/+"):
            row.hung += not federation.wait_versions(versions, 4 * LIMIT_S)
        row.injected, row.note = echo.sent, f"{federation.version} versions"
        for name in plan.names:
            row.hung += federation.work_again(name) is None
        judge(federation, row)
        for name in federation.lives:
            tail = federation.fleet.stderr_tail(name)
            if "Traceback" in tail:
                row.failures.append(f"{name}: {tail}")
    return row


def _all_topics(rng: random.Random) -> list[str]:
    node, version = NodeId(rng.choice(SMALL.names)), ModelVersion(rng.randrange(100))
    update = update_id(RoundId(rng.randrange(100)), node)
    return [
        TOPICS.coordinator_state,
        TOPICS.round,
        TOPICS.model_chunk(version, rng.choice(("k0", "d0")), 0),
        TOPICS.node_state(node),
        TOPICS.node_command(node),
        TOPICS.node_event(node),
        TOPICS.node_chunk(node, update, 0),
        TOPICS.node_telemetry(node),
        TOPICS.node_event(NodeId("nobody")),
    ]


def _key(topic: str, payload: bytes) -> bytes:
    return hashlib.blake2b(topic.encode() + b"\0" + payload, digest_size=16).digest()
