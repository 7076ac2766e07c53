"""The half of a transport that knows no client library: what any thread may call, and the life of its own thread."""

import abc
import contextlib
import queue
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from federation.errors import PayloadTooLarge
from federation.runtime.log import get_log
from federation.runtime.obstacles import Obstacle, Outlook
from federation.runtime.outbound import Outbound, Outgoing
from federation.runtime.session import Backoff, Refusals, SessionSettings, publish_packet_bytes
from federation.runtime.transport import Inbox, InboxItem, TransportBlocked, TransportEvent, TransportFailed

INBOX_WAIT_S = 2.0


@contextlib.contextmanager
def lost_on_error(*connections: "NetworkThread", timeout_s: float) -> Iterator[None]:
    """Inside, an error closes these, and the broker says what it says of a process that was killed.

    Nothing else would: who ends in order has said so, and under a service manager a process that cannot go on waits a
    minute before it ends.

    Args:
        connections: All that the role has.
        timeout_s: As of `NetworkThread.close`, for each.
    """
    try:
        yield
    except BaseException:
        for each in connections:
            each.abandon()
            each.close(timeout_s=timeout_s)
        raise


class Wakeup:
    """Wakes a thread that waits in a selector: one byte through a socket pair, however often it is rung before."""

    def __init__(self) -> None:
        self._send, self.receiver = socket.socketpair()
        self._send.setblocking(False)
        self.receiver.setblocking(False)
        self._rung = False

    def ring(self) -> None:
        """Wake the waiter; from any thread, also after `close`."""
        if not self._rung:
            # Set before the byte, cleared before the waiter looks at its queues: what was queued in between is seen.
            self._rung = True
            with contextlib.suppress(OSError):
                self._send.send(b"\0")

    def heard(self) -> None:
        """The waiter is awake and will look at its queues now."""
        with contextlib.suppress(BlockingIOError):
            self.receiver.recv(64)
        self._rung = False

    def close(self) -> None:
        """Give the sockets back."""
        self._send.close()
        self.receiver.close()


class NetworkThread(abc.ABC):
    """Queues what any thread asks for, and runs one connection after the other on a thread of its own."""

    def __init__(self, session: SessionSettings, inbox: Inbox, rng: random.Random | None) -> None:
        self._session, self._inbox = session, inbox
        self._log = get_log("federation.mqtt", connection=session.connection, client=session.client_id)
        # Jitter must differ between nodes that were flashed from one image: seeded by the system unless told.
        self._backoff = Backoff(session, rng if rng is not None else random.SystemRandom())
        self._refusals = Refusals()
        self._outbound = Outbound(
            messages_max=session.queue_messages_max, bytes_max=session.queue_bytes_max, perishable=session.perishable
        )
        self._commands: deque[Callable[[], None]] = deque()
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{session.connection}", daemon=True)
        self._closing, self._stirred = threading.Event(), threading.Event()
        self._rests_until, self._leaves, self._lost = 0.0, False, False
        self._close_by = float("inf")
        self._packet_bytes_max = session.packet_bytes_max
        self._accepted_at: float | None = None
        self._failure: str | None = None

    @property
    def dropped(self) -> int:
        """Messages that were never sent: the queue was full, QoS 0 while offline, or too large for a new broker."""
        return self._outbound.dropped

    @property
    def unanswered(self) -> int:
        """Messages that are queued, or that the broker has not acknowledged."""
        return len(self._outbound)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the current connection."""
        return self._accepted_at is not None

    @property
    def alive(self) -> bool:
        """Whether the network thread runs: False before `open`, after `close`, and after `TransportFailed`."""
        return self._thread.is_alive()

    def open(self) -> None:
        """Start to connect, and stay connected until `close`."""
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish now or after the reconnect; a full queue drops the message and counts it.

        Raises:
            PayloadTooLarge: The packet exceeds the broker's Maximum Packet Size (before the first connection: ours).
        """
        size = publish_packet_bytes(topic, payload, qos=qos)
        if size > self._packet_bytes_max:
            raise PayloadTooLarge(f"{topic}: a packet of {size} B, the broker takes {self._packet_bytes_max} B")
        if self._failure is not None or not (self.connected or self._outbound.survives(topic, qos)):
            self._outbound.refuse()
        elif self._outbound.offer(Outgoing(topic, payload, qos, retain)):
            self._wakeup.ring()
        else:
            self._log.warning("publish_dropped", topic=topic, bytes=len(payload), reason="queue full")

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Subscribe now and after every reconnect."""
        self._command(partial(self._subscribe, topic_filter, qos))

    def unsubscribe(self, topic_filter: str) -> None:
        """Forget a subscription; told to the broker at the reconnect when it is away."""
        self._command(partial(self._unsubscribe, topic_filter))

    def rest(self, seconds: float) -> None:
        """Say what is queued, disconnect without a will, and connect again after so many seconds; 0: connect now."""
        self._rests_until, self._leaves = time.monotonic() + seconds, self._leaves or seconds > 0.0
        self._stirred.set()
        self._wakeup.ring()

    def abandon(self) -> None:
        """Let the broker publish the will when this is closed: who goes on owes more than it has said."""
        self._lost = True

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Send what is queued (at most for ``timeout_s``), disconnect without a will, and join the network thread."""
        self._close_by = time.monotonic() + timeout_s
        self._closing.set()
        self._stirred.set()
        self._wakeup.ring()
        if not self._thread.is_alive():
            self._wakeup.close()
            return
        self._thread.join(timeout_s + INBOX_WAIT_S)
        if self._thread.is_alive():
            self._log.error("network_thread_stuck", seconds=timeout_s)

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wakeup.ring()

    @abc.abstractmethod
    def _live(self) -> None:
        """One connection, from connect to its end."""

    @abc.abstractmethod
    def _subscribe(self, topic_filter: str, qos: int) -> None:
        """On the network thread: remember it, and tell the broker when it is there."""

    @abc.abstractmethod
    def _unsubscribe(self, topic_filter: str) -> None:
        """On the network thread: forget it, and tell the broker when it is there."""

    def _run(self) -> None:
        while self._failure is None and not self._closing.wait(self._backoff.next_s()) and not self._rest():
            self._leaves = False
            try:
                self._live()
            except Exception:  # noqa: BLE001 - the thread outlives any surprise: a dead one looks connected for ever
                self._log.exception("network_thread_error")
        if self._failure is not None:
            self._log.error("transport_failed", reason=self._failure)
            self._tell(TransportFailed(connection=self._session.connection, reason=self._failure))
        if len(self._outbound):
            self._log.warning("messages_unsent", count=len(self._outbound))
        self._wakeup.close()

    def _rest(self) -> bool:
        """Wait until the rest is over, or ends early; whether this transport is being closed."""
        while (left_s := self._rests_until - time.monotonic()) > 0.0 and not self._closing.is_set():
            self._stirred.wait(left_s)
            self._stirred.clear()
        return self._closing.is_set()

    def _blocked(self, event: str, obstacle: Obstacle, **fields: object) -> None:
        """An attempt to connect has failed: say so, and decide how soon the next one is, if there is one."""
        lasting = self._refusals.met(obstacle.outlook)
        if lasting and obstacle.outlook is Outlook.UNFIT:
            self._failure = str(obstacle)
            return
        said = {"remedy": obstacle.remedy} if obstacle.remedy else {}
        if lasting:
            self._backoff.refused()
            said["next"] = f"tried again every {self._session.refused_delay_s_max / 60:.0f} minutes"
        (self._log.error if lasting else self._log.warning)(event, reason=obstacle.reason, **said, **fields)
        self._explain(obstacle)

    def _unheard(self, obstacle: Obstacle) -> None:
        """The broker has taken us, and not all that we want to hear of it: say so."""
        self._log.error("subscribe_refused", reason=obstacle.reason, remedy=obstacle.remedy)
        self._explain(obstacle)

    def _explain(self, obstacle: Obstacle) -> None:
        with contextlib.suppress(queue.Full):  # it only tells: nobody waits for it
            told = TransportBlocked(connection=self._session.connection, reason=obstacle.reason, remedy=obstacle.remedy)
            self._inbox.put_nowait(InboxItem(event=told))

    def _tell(self, event: TransportEvent) -> None:
        """Put an event of ours; it must not be lost, so a full inbox holds this thread until somebody closes it."""
        while True:
            try:
                return self._inbox.put(InboxItem(event=event), timeout=INBOX_WAIT_S)
            except queue.Full:
                self._log.warning("inbox_full", connection=self._session.connection)
                if self._closing.is_set():
                    return None
