"""What is retained about the coordinator itself: an older twin leaves, and what was wiped or overwritten is said again.

The transport keeps its own words to itself (`MqttTransport`), so whatever arrives here was said by somebody else, by
the broker in our name, or by nobody: an empty payload is a retained message that was cleared.
"""

from coordinator.engine.announcer import Announcer
from coordinator.engine.events import CoordinatorStateReceived
from coordinator.engine.state import MachineState
from federation.protocol.messages import CoordinatorState, Presence
from federation.types import Epoch, Start

__all__ = ["HEAL_PAUSE_S", "Fence"]

HEAL_PAUSE_S = 5.0
"""What was wiped is published again this long after it was last published at the earliest, in seconds."""


class Fence:
    """One machine's view of who coordinates and of what is retained [FED-63, FED-64, FED-90].

    Attributes:
        due: When what is retained is to be published again, in monotonic seconds; None is never.
    """

    def __init__(self, state: MachineState, announcer: Announcer) -> None:
        self._state, self._announcer = state, announcer
        self._healed_at: float | None = None
        self.due: float | None = None

    def observe(self, event: CoordinatorStateReceived) -> bool:
        """Take in what ``srv`` says; True when a newer coordinator leads this run and this one must leave."""
        state, told = self._state, event.state
        if told is not None and told.presence is Presence.ONLINE:
            if told.run != state.run:
                self._another_run(told)
                return False
            theirs = fence_of(told)
            if theirs > state.fence:
                state.note("fenced", epoch=state.epoch, newer_epoch=told.epoch)
                return True
            if theirs == state.fence:
                return False
        # What was retained before we subscribed is replaced by what we have just published.
        if not event.retained:
            self.lost()
        return False

    def lost(self) -> None:
        """Something that is retained is not there any more."""
        state = self._state
        if state.clock.running and self.due is None:
            state.count("retained_lost")
            self.due = state.now if self._healed_at is None else max(state.now, self._healed_at + HEAL_PAUSE_S)

    def heal(self) -> None:
        """Publish everything that is retained again when it is due; the storage must not be paused."""
        state = self._state
        if self.due is None or state.now < self.due or not state.clock.running:
            return
        self.due, self._healed_at = None, state.now
        state.note("retained_lost")
        self._announcer.publish_again(lost=True)

    def disconnected(self) -> None:
        """The next connection publishes everything anyway."""
        self.due = None

    def _another_run(self, told: CoordinatorState) -> None:
        state = self._state
        state.count("other_coordinators")
        if state.counters["other_coordinators"] == 1:
            state.note("other_coordinator", run=told.run, epoch=told.epoch)


def fence_of(told: CoordinatorState) -> tuple[Epoch, Start]:
    """Which start says this; an older coordinator names none, and has the lowest of its epoch."""
    return told.epoch, told.start or Start(0)
