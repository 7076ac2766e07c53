"""The one loop: effects in order, answers before the next message, acknowledgement last, deadlines kept."""

import queue
from collections.abc import Callable, Iterable, Sequence

from federation.runtime.clock import MonotonicClock
from federation.runtime.driver import Driver
from federation.runtime.transport import Inbox, InboxItem
from federation.testing import FakeClock


class _Machine:
    """Answers an event `x` with the effects `x.1` and `x.2`, and the deadline with `due`."""

    def __init__(self, *, due: float | None = None) -> None:
        self.due = due
        self.seen: list[tuple[str | None, float]] = []

    def handle(self, event: str | None, now: float) -> Sequence[str]:
        self.seen.append((event, now))
        if event is None:
            if self.due is not None and now >= self.due:
                self.due = None
                return ["due"]
            return ["start"]
        return [] if "." in event else [f"{event}.1", f"{event}.2"]

    def deadline(self) -> float | None:
        return self.due


class _Executor:
    """Says what it does; answers `….1` with an event; stops at `stop_at`."""

    def __init__(self, diary: list[str], stop_at: str) -> None:
        self.stopped = False
        self._diary, self._stop_at = diary, stop_at

    def execute(self, effect: str) -> Iterable[str]:
        self._diary.append(effect)
        self.stopped = self.stopped or effect == self._stop_at
        return [f"{effect}.answer"] if effect.endswith(".1") else []


def _inbox(diary: list[str], *events: object) -> Inbox:
    inbox: Inbox = queue.Queue(100)
    for event in events:
        inbox.put(InboxItem(event=event, acknowledge=lambda event=event: diary.append(f"ack {event}")))  # type: ignore[misc]
    return inbox


def _text(event: object) -> str | None:
    return event if isinstance(event, str) else None


def test_a_message_is_acknowledged_after_all_its_effects() -> None:
    """[FED-12] Save, then acknowledge."""
    diary: list[str] = []
    machine, executor = _Machine(), _Executor(diary, "b.2")
    Driver(machine, executor, _inbox(diary, "a", "b"), FakeClock(), _text).run()
    assert diary == ["start", "a.1", "a.2", "ack a", "b.1", "b.2", "ack b"]
    assert [event for event, _ in machine.seen] == [None, "a", "a.1.answer", "b", "b.1.answer"]


def test_what_translates_to_nothing_is_acknowledged_and_not_handled() -> None:
    diary: list[str] = []
    machine, executor = _Machine(), _Executor(diary, "a.2")
    Driver(machine, executor, _inbox(diary, 17, "a"), FakeClock(), _text).run()
    assert diary[:2] == ["start", "ack 17"]
    assert [event for event, _ in machine.seen] == [None, "a", "a.1.answer"]


def test_an_overdue_deadline_is_handled_without_waiting() -> None:
    diary: list[str] = []
    clock = FakeClock(100.0)
    machine, executor = _Machine(due=99.0), _Executor(diary, "due")
    Driver(machine, executor, _inbox(diary), clock, _text).run()
    assert diary == ["due"]


def test_a_deadline_that_comes_while_waiting_is_handled() -> None:
    diary: list[str] = []
    clock = MonotonicClock()
    machine, executor = _Machine(due=clock.now() + 0.02), _Executor(diary, "due")
    Driver(machine, executor, _inbox(diary), clock, _text).run()
    assert diary == ["start", "due"]
    assert machine.seen[-1][1] >= machine.seen[0][1] + 0.01


def test_messages_that_arrived_together_are_settled_once_and_then_acknowledged() -> None:
    diary: list[str] = []
    machine, executor = _Machine(), _Executor(diary, "c.2")
    driver = Driver(
        machine,
        executor,
        _inbox(diary, "a", 17, "b", "c", "d"),
        FakeClock(),
        _text,
        settle=lambda: diary.append("settle"),
        batch_max=3,
    )
    driver.run()
    together = ["a.1", "a.2", "b.1", "b.2", "settle", "ack a", "ack 17", "ack b"]
    assert diary == ["start", "settle", *together, "c.1", "c.2", "settle", "ack c"]


def test_what_a_deadline_brings_is_settled() -> None:
    diary: list[str] = []
    clock = MonotonicClock()
    machine, executor = _Machine(due=clock.now() + 0.02), _Executor(diary, "due")
    Driver(machine, executor, _inbox(diary), clock, _text, settle=lambda: diary.append("settle")).run()
    assert diary == ["start", "settle", "due", "settle"]


def test_a_machine_is_told_whether_another_message_is_here() -> None:
    diary: list[str] = []
    machine, executor = _Machine(), _Executor(diary, "c.2")
    inbox = _inbox(diary, "a", 17, "b", "c")
    Driver(machine, executor, inbox, FakeClock(), _text, batch_max=3, follows=_tells(diary)).run()
    together = ["more: True", "a.1", "a.2", "more: False", "b.1", "b.2", "ack a", "ack 17", "ack b"]
    assert diary == ["start", *together, "c.1", "c.2", "ack c"]


def test_a_machine_is_called_where_nothing_comes_of_the_last_message() -> None:
    """What it has left to that one is due now."""
    diary: list[str] = []
    machine, executor = _Machine(), _Executor(diary, "start")
    driver = Driver(machine, executor, _inbox(diary, "a", 17), FakeClock(), _text, batch_max=3, follows=_tells(diary))
    driver.turn()
    assert diary == ["more: True", "a.1", "a.2", "more: False", "start", "ack a", "ack 17"]


def _tells(diary: list[str]) -> Callable[[bool], None]:
    return lambda more: diary.append(f"more: {more}")
