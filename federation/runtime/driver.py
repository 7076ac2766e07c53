"""The only loop: waits for the inbox or the machine's deadline, and runs effects in order. The same for both roles."""

import gc
import queue
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from federation.runtime.clock import Clock
from federation.runtime.transport import Inbox, InboxItem

EventT = TypeVar("EventT")
EffectT = TypeVar("EffectT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)
EffectT_co = TypeVar("EffectT_co", covariant=True)
EffectT_contra = TypeVar("EffectT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)


class Machine(Protocol[EventT_contra, EffectT_co]):
    """One role as a value: the same events at the same times give the same effects."""

    def handle(self, event: EventT_contra | None, now: float) -> Sequence[EffectT_co]:
        """Take one event (None: the deadline has passed) and say what must be done, in order."""

    def deadline(self) -> float | None:
        """Monotonic time, in seconds, at which `handle(None, now)` is due; None when nothing is timed."""


class Executor(Protocol[EffectT_contra, EventT_co]):
    """Carries out effects; what a carried-out effect answers comes back as events."""

    @property
    def stopped(self) -> bool:
        """Whether the loop ends."""

    def execute(self, effect: EffectT_contra) -> Iterable[EventT_co]:
        """Run one effect."""


class Driver(Generic[EventT, EffectT]):
    """Runs one machine on one thread until its executor has stopped.

    A message is acknowledged only after all effects of it have run: save, then say.

    Args:
        machine: Decides.
        executor: Does.
        inbox: Where messages, results and signals arrive.
        clock: The time.
        translate: From inbox items to events.
        settle: Called before the messages that were taken together are acknowledged.
        batch_max: Messages that are taken together at most, when so many have arrived.
        follows: Told before each of these whether another one is here: what the machine decides for all of them may
            wait for the last. Where nothing comes of that one, the machine is called without an event.
    """

    def __init__(  # noqa: PLR0913 - the parts of the one loop
        self,
        machine: Machine[EventT, EffectT],
        executor: Executor[EffectT, EventT],
        inbox: Inbox,
        clock: Clock,
        translate: Callable[[object], EventT | None],
        *,
        settle: Callable[[], None] = lambda: None,
        batch_max: int = 1,
        follows: Callable[[bool], None] = lambda _more: None,
    ) -> None:
        self._follows = follows
        self._machine, self._executor, self._inbox, self._clock = machine, executor, inbox, clock
        self._translate, self._settle, self._batch_max = translate, settle, batch_max

    def run(self) -> None:
        """Loop until the executor has stopped."""
        # What was loaded until now stays: the collector need not look at it again and again, on every thread's time.
        gc.freeze()
        self.begin()
        while not self._executor.stopped:
            self.turn()

    def begin(self) -> None:
        """Do what is to be done before the first message."""
        self.step(None)
        self._settle()

    def turn(self) -> None:
        """Wait for a message or the deadline, handle what has arrived, settle, and only then acknowledge."""
        taken = self._take()
        self._settle()
        for item in taken:
            item.acknowledge()

    def step(self, event: EventT | None) -> None:
        """Handle one event, run its effects in order, and handle what they answer."""
        pending: deque[EventT | None] = deque([event])
        while pending:
            for effect in self._machine.handle(pending.popleft(), self._clock.now()):
                pending.extend(self._executor.execute(effect))

    def _take(self) -> list[InboxItem]:
        """Wait for a message or the deadline, and handle it and what has arrived with it."""
        taken, more, waits = list[InboxItem](), False, False
        wait_s = self._wait_s() if self._inbox.empty() else 0.0
        while len(taken) < self._batch_max and not self._executor.stopped:
            try:
                item = self._inbox.get(timeout=wait_s)
            except queue.Empty:
                if not taken:
                    self.step(None)
                break
            event = self._translate(item.event)
            taken.append(item)
            before, more = more, len(taken) < self._batch_max and not self._inbox.empty()
            if more is not before:
                self._follows(more)
            if event is not None:
                self.step(event)
                waits = more
            wait_s = 0.0
        if waits and not self._executor.stopped:
            self.step(None)
        return taken

    def _wait_s(self) -> float | None:
        deadline = self._machine.deadline()
        return None if deadline is None else max(0.0, deadline - self._clock.now())
