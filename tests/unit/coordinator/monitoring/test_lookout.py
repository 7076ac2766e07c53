"""What is told outside of the process is told also when nothing happens any more."""

from coordinator.engine.effects import Effect, Stop
from coordinator.engine.events import Event
from coordinator.monitoring.lookout import WatchedMachine


class Machine:
    due: float | None = 50.0

    def handle(self, event: Event | None, now: float) -> list[Effect]:
        return [Stop(reason=f"{event} at {now:g}")]

    def deadline(self) -> float | None:
        return self.due


class Watcher:
    def __init__(self) -> None:
        self.looks: list[float] = []
        self.written = 0
        self.wanted: float | None = None

    def look(self, now: float) -> None:
        self.looks.append(now)

    def due(self) -> float | None:
        return self.wanted

    def write(self) -> None:
        self.written += 1


def test_a_watcher_that_has_something_left_to_say_wakes_the_driver() -> None:
    machine, one, two = Machine(), Watcher(), Watcher()
    watched = WatchedMachine(machine, lambda: None, lambda: 7.0, (one, two))
    assert watched.deadline() == 50.0
    two.wanted = 8.0
    assert watched.deadline() == 8.0
    machine.due = two.wanted = None
    assert watched.deadline() is None
    assert watched.handle(None, 3.0) == [Stop(reason="None at 3")]


def test_watchers_look_after_what_was_settled_and_write_at_the_end() -> None:
    one, settled = Watcher(), list[int]()
    watched = WatchedMachine(Machine(), lambda: settled.append(len(one.looks)), lambda: 7.0, (one,))
    watched.settle()
    watched.close()
    assert (settled, one.looks, one.written) == ([0], [7.0], 1)
