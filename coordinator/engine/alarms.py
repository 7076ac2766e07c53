"""What somebody should know: bytes that are no message, and messages that the broker drops; counted, and said once."""

from coordinator.engine.events import MessageRefused
from coordinator.engine.state import MachineState

__all__ = ["Alarms"]

TOPIC_KINDS = frozenset({"state", "evt", "tel", "up"})
TOPIC_CHARS_MAX = 200


class Alarms:
    """One machine's."""

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._refused_kinds: set[str] = set()
        self._broker_dropped: int | None = None

    def refused(self, event: MessageRefused) -> None:
        """Count, and log the first of each kind of topic."""
        self._state.count("messages_refused")
        kind = next((level for level in reversed(event.topic.split("/")) if level in TOPIC_KINDS), "")
        if kind not in self._refused_kinds:
            self._refused_kinds.add(kind)
            self._state.note("message_refused", topic=event.topic[:TOPIC_CHARS_MAX], reason=event.reason)

    def dropped(self, total: int) -> None:
        """Say that the broker loses messages; what it had dropped before is no news."""
        before, self._broker_dropped = self._broker_dropped, total
        if before is not None and total > before:
            self._state.count("broker_dropped", total - before)
            self._state.note("broker_drops", messages=total - before, total=total)
