"""What is retained about the coordinator itself: an older twin leaves, and what was wiped or overwritten is said again.

The transport keeps its own words to itself (`MqttTransport`), so whatever arrives here was said by somebody else, by
the broker in our name, or by nobody: an empty payload is a retained message that was cleared.
"""

from coordinator.engine.announcer import Announcer
from coordinator.engine.heard import CoordinatorStateHeard
from coordinator.engine.state import Desk
from federation.protocol.messages import CoordinatorState, Presence

__all__ = ["HEAL_PAUSE_S", "Fence"]

HEAL_PAUSE_S = 5.0
"""What was wiped is published again this long after it was last published at the earliest, in seconds."""


class Fence:
    """One machine's view of who coordinates and of what is retained [FED-63, FED-64, FED-90].

    Attributes:
        due: When what is retained is to be published again, in monotonic seconds; None is never.
    """

    def __init__(self, desk: Desk, announcer: Announcer) -> None:
        self._desk, self._announcer = desk, announcer
        self._healed_at: float | None = None
        self.due: float | None = None

    def heard(self, event: CoordinatorStateHeard) -> bool:
        """Take in what ``srv`` says; True when a newer coordinator leads this run and this one must leave."""
        desk, state = self._desk, event.state
        if state is not None and state.presence is Presence.ONLINE:
            if state.run != desk.run:
                self._another_run(state)
                return False
            if state.epoch > desk.epoch:
                desk.note("fenced", epoch=desk.epoch, newer_epoch=state.epoch)
                return True
            if state.epoch == desk.epoch:
                return False
        # What was retained before we subscribed is replaced by what we have just published.
        if not event.retained:
            self.lost()
        return False

    def lost(self) -> None:
        """Something that is retained is not there any more."""
        desk = self._desk
        if desk.clock.running and self.due is None:
            desk.count("retained_lost")
            self.due = desk.now if self._healed_at is None else max(desk.now, self._healed_at + HEAL_PAUSE_S)

    def heal(self) -> None:
        """Publish everything that is retained again when it is due; the storage must not be paused."""
        desk = self._desk
        if self.due is None or desk.now < self.due or not desk.clock.running:
            return
        self.due, self._healed_at = None, desk.now
        desk.note("retained_lost")
        self._announcer.publish_again(lost=True)

    def disconnected(self) -> None:
        """The next connection publishes everything anyway."""
        self.due = None

    def _another_run(self, state: CoordinatorState) -> None:
        desk = self._desk
        desk.count("other_coordinators")
        if desk.counters["other_coordinators"] == 1:
            desk.note("other_coordinator", run=state.run, epoch=state.epoch)
