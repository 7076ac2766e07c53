"""What waits for the broker: a bounded queue, and the window of messages that it has not acknowledged."""

import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One publish on its way."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Outbound:
    """Thread-safe: any thread offers, the network thread takes, sends and settles.

    The queue is ours and not the client library's: it has a bound in bytes, survives a broker with a smaller packet
    limit, and knows what was acknowledged.

    Args:
        messages_max: Messages that the broker has not acknowledged.
        bytes_max: The same in payload bytes.
        perishable: Topics that begin so are as little worth after a reconnect as QoS 0 messages; nothing is none.
    """

    def __init__(self, *, messages_max: int, bytes_max: int, perishable: str = "") -> None:
        self._messages_max, self._bytes_max, self._perishable = messages_max, bytes_max, perishable
        self._lock = threading.Lock()
        self._waiting: deque[Outgoing] = deque()
        self._inflight: dict[int, Outgoing] = {}
        self._bytes = 0
        self.dropped = 0

    def offer(self, message: Outgoing) -> bool:
        """Queue it; False, and counted in ``dropped``, when that would exceed a bound."""
        with self._lock:
            full = len(self._waiting) + len(self._inflight) >= self._messages_max
            if full or self._bytes + len(message.payload) > self._bytes_max:
                self.dropped += 1
                return False
            self._bytes += len(message.payload)
            self._waiting.append(message)
            return True

    def take(self, inflight_max: int) -> Outgoing | None:
        """The next message to send, when the window has room. It counts as queued until `sent` or `drop`."""
        with self._lock:
            if not self._waiting or len(self._inflight) >= inflight_max:
                return None
            return self._waiting.popleft()

    def give_back(self, message: Outgoing) -> None:
        """It could not be sent now: it is next again."""
        with self._lock:
            self._waiting.appendleft(message)

    def sent(self, mid: int, message: Outgoing) -> None:
        """It is in flight under this packet id."""
        with self._lock:
            self._inflight[mid] = message

    def drop(self, message: Outgoing) -> None:
        """It was taken and will never be sent."""
        with self._lock:
            self._bytes -= len(message.payload)
            self.dropped += 1

    def refuse(self) -> None:
        """Count a message that was never queued."""
        with self._lock:
            self.dropped += 1

    def settle(self, mid: int) -> Outgoing | None:
        """The broker has answered, or a QoS 0 message has left; None when the id is not ours."""
        with self._lock:
            message = self._inflight.pop(mid, None)
            if message is not None:
                self._bytes -= len(message.payload)
            return message

    def survives(self, topic: str, qos: int) -> bool:
        """Whether a message is still wanted after a reconnect."""
        return qos > 0 and not (self._perishable and topic.startswith(self._perishable))

    def forget_unreliable(self) -> int:
        """The connection is gone: QoS 0 and perishable messages are lost, and counted in ``dropped``.

        Returns:
            How many of them were in flight at QoS 1: the client library would send those again.
        """
        with self._lock:
            before = [*self._inflight.values(), *self._waiting]
            inflight = self._inflight
            self._inflight = {mid: kept for mid, kept in inflight.items() if self.survives(kept.topic, kept.qos)}
            self._waiting = deque(kept for kept in self._waiting if self.survives(kept.topic, kept.qos))
            after = [*self._inflight.values(), *self._waiting]
            self._bytes = sum(len(message.payload) for message in after)
            self.dropped += len(before) - len(after)
            return sum(lost.qos > 0 for mid, lost in inflight.items() if mid not in self._inflight)

    def rewind(self) -> None:
        """Everything in flight waits again, in its order, in front."""
        with self._lock:
            self._waiting.extendleft(reversed(self._inflight.values()))
            self._inflight.clear()

    def __len__(self) -> int:
        """Messages that the broker has not acknowledged."""
        with self._lock:
            return len(self._waiting) + len(self._inflight)
