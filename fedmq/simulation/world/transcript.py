"""What happened in a simulation: a digest over everything, and the last lines in words."""

from collections import deque
from collections.abc import Iterator
from hashlib import blake2b

from federation.errors import RemoteProtocolError
from federation.protocol.messages import Message
from federation.protocol.wire import decode_message

__all__ = ["Transcript"]

TAIL_LINES = 400
_CHUNK_LEVELS = frozenset({"model", "up"})


_Line = tuple[float, str, str, str, bytes | None]
"""Time, actor, mark, text and payload: a bare tuple, for there is one for each step."""


class Transcript:
    """Records each step; the digest covers all of them, words are only made for the last ones, when they are asked for.

    Args:
        tail: Steps that are kept.
    """

    def __init__(self, *, tail: int = TAIL_LINES) -> None:
        self._hash = blake2b(digest_size=16)
        self._lines: deque[_Line] = deque(maxlen=tail)
        self.steps = 0

    def message(self, time: float, actor: str, mark: str, topic: str, payload: bytes) -> None:
        """One message; ``mark`` is an arrow or what became of it, ``time`` is in virtual seconds."""
        self.steps += 1
        self._hash.update(f"{time!r} {actor} {mark} {topic} ".encode() + payload)
        self._lines.append((time, actor, mark, topic, payload))

    def note(self, time: float, actor: str, text: str) -> None:
        """Something that is no message: a crash, a cut, a commit."""
        self.steps += 1
        self._hash.update(f"{time!r} {actor} {text}\n".encode())
        self._lines.append((time, actor, "*", text, None))

    def digest(self) -> str:
        """32 hexadecimal digits: two runs with the same digest took the same steps with the same bytes."""
        return self._hash.hexdigest()

    def messages(self) -> Iterator[bytes]:
        """The bytes of the messages among the last steps, without chunks and what clears a retained message."""
        for _, _, _, topic, payload in self._lines:
            if payload and not _is_chunk(topic):
                yield payload

    def tail(self) -> Iterator[str]:
        """The last steps, in words."""
        for time, actor, mark, text, payload in self._lines:
            what = "" if payload is None else f" {_describe(text, payload)}"
            yield f"{time:10.3f} {actor} {mark} {text}{what}"


def _is_chunk(topic: str) -> bool:
    return not _CHUNK_LEVELS.isdisjoint(topic.split("/"))


def _describe(topic: str, payload: bytes) -> str:
    if not payload:
        return "(cleared)"
    if _is_chunk(topic):
        return f"({len(payload)} B)"
    try:
        return _words(decode_message(payload))
    except RemoteProtocolError as error:
        return f"unreadable: {error}"


def _words(message: Message) -> str:
    shown = []
    for name in ("presence", "epoch", "round", "update", "status", "reason", "base_version", "version", "activity"):
        value = getattr(message, name, None)
        if value is not None:
            shown.append(f"{name}={value}")
    return " ".join([type(message).__name__, *shown])
