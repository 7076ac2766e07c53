"""A participant as a process in virtual time: started from its disk, driven by events, killed between two steps."""

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from federation.errors import StorageError, TransportError
from federation.runtime.driver import Driver
from federation.runtime.transport import InboxItem
from fedmq.simulation.protocol.processes import Arrived, Device, Executor, Killed, Life, Surroundings, TimedMachine
from fedmq.simulation.world.clock import SkewedClock

__all__ = ["POWER_CUT", "Actor"]

DOOM_PASSAGES = 12
"""A process that is to be killed dies at one of so many places: effects, failpoints, waits for the disk, publishes."""

POWER_CUT = 0.3
"""So many crashes also cost what was not synchronised."""

FAILING_SYNC = 0.1
"""So many times the disk fails to synchronise a file instead."""

RESTART_S = (0.5, 20.0)
SPINS_MAX = 200
"""A machine whose deadline passes more often than this without time going on is in a busy loop."""


class Actor:
    """One participant over all of its processes.

    Args:
        name: For the transcript.
        surroundings: What all share.
        disk: All that stays of a process.
        crash: Probability of a crash per handled event.

    Attributes:
        alive: Whether there is a process.
        crashes: How often it was killed.
        power_cuts: How often its power was cut: what it had not synchronised is gone.
        gone: It will not be started again.
        gave_up: Its process has ended because another client has its id.
    """

    def __init__(self, name: str, surroundings: Surroundings, disk: Device, *, crash: float) -> None:
        self.name, self.crashes, self.power_cuts = name, 0, 0
        self.gone = self.gave_up = False
        self.surroundings = surroundings
        self._storage, self._crash = disk, crash
        disk.passage = self.passage
        disk.refuses = partial(surroundings.dice.happens, surroundings.dice.plan.failed_commit)
        self._world, self._dice = surroundings.world, surroundings.dice
        skew_s = surroundings.dice.plan.skew_s
        self.clock = SkewedClock(self._world, surroundings.rng(f"{name}/clock").uniform(0.0, skew_s))
        self._life: Life | None = None
        self._driver: Driver[Any, Any] | None = None
        self._timed: TimedMachine | None = None
        self._arrived = Arrived()
        self._stopped = False
        self._busy_until = 0.0
        self._wake_at: float | None = None
        self._doom: int | None = None
        self._processes = 0
        self._spins = 0
        self._last_wake = -1.0
        self._freezes = 0

    # --- for a role to fill in --------------------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT client ids."""
        raise NotImplementedError

    def build(self) -> Life:
        """Make a process from what is on the disk."""
        raise NotImplementedError

    def stop_request(self) -> object:
        """What a signal tells the process."""
        raise NotImplementedError

    def before(self, effect: Any) -> None:
        """An effect is about to run."""

    def after(self, effect: Any, events: list[Any]) -> None:
        """An effect has run."""

    def rests(self) -> None:
        """No process has the disk: the next one is about to find what the last one has left."""

    # --- life and death ---------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._life is not None

    @property
    def machine(self) -> Any:
        """The living process's machine."""
        return None if self._life is None else self._life.machine

    def set_full(self, *, full: bool) -> None:
        """Its disk runs full, or has space again."""
        self._storage.full = full

    def start(self) -> None:
        """Start a process, unless one is running or none may."""
        if self._life is not None or self.gone:
            return
        self._note("started")
        self._arrived, self._stopped, self._busy_until = Arrived(), False, 0.0
        self._doom, self._wake_at, self._spins = None, None, 0
        if self._processes:
            cut = self._dice.happens(POWER_CUT)
            self.power_cuts += cut
            self._storage.stop(self._dice.rng if cut else None)
            self.rests()
        with self._storage:
            self._guarded(self._begin)
        if self._life is not None:
            self._attend()

    def _begin(self) -> None:
        if self._processes:
            self._storage.reopen()
        self._processes += 1
        life = self._life = self.build()
        self._timed = TimedMachine(life.machine)
        self._driver = Driver(
            self._timed,
            _Mortal(life.executor, self),
            self._arrived,
            self.clock,
            self._translate,
            settle=life.settle,
            batch_max=life.batch_max,
            follows=life.follows,
        )
        for transport in life.transports:
            transport.open()
        self._driver.begin()

    def revive(self) -> None:
        """Somebody starts it again, whatever has ended it."""
        self.gone = self.gave_up = False
        self.start()

    def terminate(self) -> None:
        """``SIGTERM``: it ends in order, and is not started again."""
        self.gone = True
        self.receiver()(self.stop_request(), None)

    def end(self) -> None:
        """Nobody starts it again."""
        self.gone = True
        self.kill(None)

    def kill(self, restart_after_s: float | None) -> None:
        """``kill -9``; None is for ever."""
        life, self._life, self._driver = self._life, None, None
        if life is None:
            return
        self.crashes += 1
        self._note("killed")
        life.end()
        for transport in life.transports:
            transport.kill()
        if restart_after_s is None:
            self.gone = True
        else:
            self._world.after(restart_after_s, self.start)

    def freeze(self, seconds: float) -> bool:
        """``SIGSTOP``, and ``SIGCONT`` after a time; what happens meanwhile waits. False: there is nobody to stop."""
        if self._life is None or self._stopped:
            return False
        self._note(f"stopped for {seconds:.1f} s")
        self._stopped, self._wake_at = True, None
        self._freezes += 1
        self._world.after(seconds, partial(self._continue, self._life, self._freezes))
        return True

    def thaw(self) -> None:
        """Go on at once."""
        if self._life is not None:
            self._continue(self._life, self._freezes)

    def _continue(self, life: Life, freeze: int) -> None:
        if self._stopped and self._life is life and self._freezes == freeze:
            self._note("goes on")
            self._stopped = False
            self._attend()

    # --- events -----------------------------------------------------------------------------------------------------

    def receiver(self) -> Callable[[object, Callable[[], None] | None], None]:
        """Takes what happens to the process that is being built, and to no later one."""
        process = self._processes

        def receive(event: object, acknowledge: Callable[[], None] | None = None) -> None:
            if self._life is None or self._processes != process:
                return
            acknowledged = _unheard if acknowledge is None else partial(self._acknowledge, acknowledge)
            self._arrived.queue.append(InboxItem(event=event, acknowledge=acknowledged))
            if not self._stopped:
                self._attend()

        return receive

    def passage(self) -> None:
        """A place at which this process may die.

        Raises:
            Killed: It does.
        """
        if self._doom is not None:
            if self._doom == 0:
                raise Killed
            self._doom -= 1

    def execute(self, executor: Executor, effect: Any) -> list[Any]:
        """Run one effect, unless the process dies before it."""
        self.passage()
        self.before(effect)
        events = list(executor.execute(effect))
        self.after(effect, events)
        return events

    def _translate(self, item: object) -> Any:
        assert self._life is not None  # noqa: S101 - a driver has one
        event = self._life.translate(item)
        if event is not None and self._doom is None and self._dice.happens(self._crash):
            if self._dice.rng.random() < FAILING_SYNC:
                self._storage.failing = True
            else:
                self._doom = self._dice.rng.randrange(DOOM_PASSAGES)
        return event

    def _acknowledge(self, acknowledge: Callable[[], None]) -> None:
        self.passage()
        acknowledge()

    def _attend(self) -> None:
        """Take what has arrived, unless the process is busy."""
        while self._arrived.queue and self._life is not None and self._world.now >= self._busy_until:
            self._turn()
        if self._life is not None:
            self._arm()

    def _turn(self) -> None:
        """One turn of the driver."""
        driver, life = self._driver, self._life
        assert driver is not None  # noqa: S101 - there is a process
        assert life is not None  # noqa: S101 - there is a process
        with self._storage:
            self._guarded(driver.turn)
        if self._life is not life:
            return
        if life.executor.stopped:
            self._leave(life)
        elif self._doom is not None:
            self.kill(self._dice.rng.uniform(*RESTART_S))
        else:
            self._busy_until = self._world.now + life.busy_s()

    def _leave(self, life: Life) -> None:
        self._note("stopped")
        self._life = self._driver = None
        self.gone = True
        life.end()
        for transport in life.transports:
            transport.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run something of the process; whatever it raises ends the process, and is a violation unless we did that."""
        try:
            action()
        except Killed:
            pass
        except TransportError as error:
            self._give_up(error)
            return
        except StorageError as error:
            if not self._storage.full and not self._storage.failed:
                self._blame(error)
        except Exception as error:  # noqa: BLE001 - a bug in a role must not end the simulation
            self._blame(error)
        else:
            return
        restart_s = self._dice.rng.uniform(*RESTART_S)
        if self._life is None:
            self._note("could not start")
            self._world.after(restart_s, self.start)
        self.kill(restart_s)

    def _give_up(self, error: Exception) -> None:
        self._note(f"gave up: {error}")
        self.gave_up = True
        if self._life is not None:
            self._leave(self._life)

    def _blame(self, error: Exception) -> None:
        where = traceback.format_exception(error)[-1].strip()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"uncaught exception in {self.name}: {where} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
        self.surroundings.violations.append(text)
        self._note(text)

    def _note(self, text: str) -> None:
        self.surroundings.transcript.note(self._world.now, self.name, text)

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        life, timed = self._life, self._timed
        if life is None or timed is None:
            return
        if self._arrived.queue:
            at = self._busy_until
        elif (deadline := timed.deadline()) is not None:
            at = max(self.clock.world_time(deadline), self._world.now, self._busy_until)
        else:
            self._wake_at = None
            return
        if self._wake_at is None or at < self._wake_at or self._wake_at < self._world.now:
            self._wake_at = at
            self._world.at(at, partial(self._wake, life, at))

    def _wake(self, life: Life, at: float) -> None:
        timed = self._timed
        if self._life is not life or timed is None or self._wake_at != at or self._stopped:
            return
        self._wake_at = None
        if self._arrived.queue:
            self._attend()
            return
        deadline = timed.deadline()
        if deadline is not None and self.clock.now() >= deadline:
            self._spins = self._spins + 1 if at == self._last_wake else 0
            self._last_wake = at
            self._turn()
            if self._spins > SPINS_MAX:
                self.surroundings.violations.append(f"busy loop in {self.name} at {at:.3f} s")
                self.kill(1.0)
        if self._life is life:
            self._arm()


def _unheard() -> None:
    """Nobody waits for this."""


class _Mortal:
    """Stands between driver and executor: a place where a process dies, and where it is watched."""

    def __init__(self, executor: Executor, actor: Actor) -> None:
        self._executor, self._actor = executor, actor
        self.stopped = executor.stopped

    def execute(self, effect: Any) -> list[Any]:
        """Run one effect."""
        events = self._actor.execute(self._executor, effect)
        self.stopped = self._executor.stopped
        return events
