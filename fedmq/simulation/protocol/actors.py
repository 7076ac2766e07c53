"""A participant as a process in virtual time: started from its disk, driven by events, killed between two effects."""

import queue
import random
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from federation.runtime.driver import Driver
from federation.runtime.transport import InboxItem
from fedmq.simulation.world.clock import SkewedClock, World
from fedmq.simulation.world.faults import Dice
from fedmq.simulation.world.transcript import Transcript
from fedmq.simulation.world.transport import SimTransport

__all__ = ["Actor", "Killed", "Life", "Surroundings"]

DOOM_EFFECTS = 8
"""A process that is to be killed dies within so many effects."""

SPINS_MAX = 200
"""A machine whose deadline passes more often than this without time going on is in a busy loop."""


class Killed(BaseException):
    """This process has been killed; no role may catch it."""


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What all participants share.

    Attributes:
        world: Time.
        dice: Faults.
        transcript: What happened.
        seed: Everything random comes from it.
        violations: What must never happen and did.
    """

    world: World
    dice: Dice
    transcript: Transcript
    seed: int
    violations: list[str] = field(default_factory=list)

    def rng(self, name: str) -> random.Random:
        """A generator of one participant's own."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - a simulation, not a secret


class _Executor(Protocol):
    stopped: bool

    def execute(self, effect: Any) -> Iterable[Any]:
        """Run one effect."""


@dataclass(slots=True, kw_only=True)
class Life:
    """One process: everything that is gone when it is killed.

    Attributes:
        machine: The role's own.
        executor: The role's own.
        translate: From inbox items to events.
        transports: Its connections.
        end: Called when it is killed, for what else dies with it.
    """

    machine: Any
    executor: _Executor
    translate: Callable[[object], Any]
    transports: tuple[SimTransport, ...]
    end: Callable[[], None] = lambda: None


class Actor:
    """One participant over all of its processes.

    Args:
        name: For the transcript.
        surroundings: What all share.
        crash: Probability of a crash per handled event.

    Attributes:
        alive: Whether there is a process.
        crashes: How often it was killed.
        gone: It will not be started again.
    """

    def __init__(self, name: str, surroundings: Surroundings, *, crash: float) -> None:
        self.name, self.crashes, self.gone = name, 0, False
        self.surroundings = surroundings
        self._crash = crash
        self._world, self._dice = surroundings.world, surroundings.dice
        skew_s = surroundings.dice.plan.skew_s
        self.clock = SkewedClock(self._world, surroundings.rng(f"{name}/clock").uniform(0.0, skew_s))
        self._life: Life | None = None
        self._driver: Driver[Any, Any] | None = None
        self._wake_at: float | None = None
        self._doom: int | None = None
        self._processes = 0
        self._spins = 0
        self._last_wake = -1.0
        self._freezes = 0
        self._held: deque[Callable[[], None]] | None = None

    # --- for a role to fill in --------------------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT client ids."""
        raise NotImplementedError

    def set_full(self, *, full: bool) -> None:
        """Its disk runs full, or has space again."""
        raise NotImplementedError

    def build(self) -> Life:
        """Make a process from what is on the disk."""
        raise NotImplementedError

    def before(self, effect: Any) -> None:
        """An effect is about to run."""

    def after(self, effect: Any, events: list[Any]) -> None:
        """An effect has run."""

    # --- life and death ---------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._life is not None

    @property
    def machine(self) -> Any:
        """The living process's machine."""
        return None if self._life is None else self._life.machine

    def start(self) -> None:
        """Start a process, unless one is running or none may."""
        if self._life is not None or self.gone:
            return
        self.surroundings.transcript.note(self._world.now, self.name, "started")
        self._processes += 1
        life = self._life = self.build()
        self._doom, self._wake_at, self._spins, self._held = None, None, 0, None
        self._driver = Driver(life.machine, _Mortal(life.executor, self), queue.Queue(1), self.clock, life.translate)
        for transport in life.transports:
            transport.open()
        self._guarded(lambda: self._step(None))

    def kill(self, restart_after_s: float | None) -> None:
        """``kill -9``; None is for ever."""
        life, self._life, self._driver = self._life, None, None
        if life is None:
            return
        self.crashes += 1
        self.surroundings.transcript.note(self._world.now, self.name, "killed")
        life.end()
        for transport in life.transports:
            transport.kill()
        if restart_after_s is None:
            self.gone = True
        else:
            self._world.after(restart_after_s, self.start)

    def freeze(self, seconds: float) -> bool:
        """``SIGSTOP``, and ``SIGCONT`` after a time; what happens meanwhile waits. False: there is nobody to stop."""
        if self._life is None or self._held is not None:
            return False
        self.surroundings.transcript.note(self._world.now, self.name, f"stopped for {seconds:.1f} s")
        self._held, self._wake_at = deque(), None
        self._freezes += 1
        self._world.after(seconds, partial(self._continue, self._life, self._freezes))
        return True

    def thaw(self) -> None:
        """Go on at once."""
        if self._life is not None:
            self._continue(self._life, self._freezes)

    def _continue(self, life: Life, freeze: int) -> None:
        held = self._held
        if held is None or self._life is not life or self._freezes != freeze:
            return
        self.surroundings.transcript.note(self._world.now, self.name, "goes on")
        self._held = None
        for receive in held:
            receive()
        if self._life is life and self._driver is not None:
            self._arm()

    # --- events -----------------------------------------------------------------------------------------------------

    def receiver(self) -> Callable[[object, Callable[[], None] | None], None]:
        """Takes what happens to the process that is being built, and to no later one."""
        process = self._processes

        def receive(event: object, acknowledge: Callable[[], None] | None = None) -> None:
            if self._life is None or self._processes != process:
                return
            if self._held is not None:
                self._held.append(partial(receive, event, acknowledge))
            else:
                item = (
                    InboxItem(event=event) if acknowledge is None else InboxItem(event=event, acknowledge=acknowledge)
                )
                self._guarded(lambda: self._take(item))

        return receive

    def execute(self, executor: _Executor, effect: Any) -> list[Any]:
        """Run one effect, unless the process dies before it."""
        if self._doom is not None:
            if self._doom == 0:
                raise Killed
            self._doom -= 1
        self.before(effect)
        events = list(executor.execute(effect))
        self.after(effect, events)
        return events

    def _take(self, item: InboxItem) -> None:
        life = self._life
        assert life is not None  # noqa: S101 - the receiver has looked
        event = life.translate(item.event)
        if event is not None:
            if self._dice.happens(self._crash):
                self._doom = self._dice.rng.randrange(DOOM_EFFECTS)
            self._step(event)
            if self._doom is not None:
                raise Killed
        item.acknowledge()

    def _step(self, event: Any) -> None:
        assert self._driver is not None  # noqa: S101 - there is a process
        self._driver.step(event)
        life = self._life
        if life is not None and life.executor.stopped:
            self._leave(life)
        else:
            self._arm()

    def _leave(self, life: Life) -> None:
        self.surroundings.transcript.note(self._world.now, self.name, "stopped")
        self._life = self._driver = None
        self.gone = True
        life.end()
        for transport in life.transports:
            transport.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run something of the process; whatever it raises ends the process, and is a violation unless we killed it."""
        try:
            action()
        except Killed:
            self.kill(self._dice.rng.uniform(0.5, 20.0))
        except Exception as error:  # noqa: BLE001 - a bug in a role must not end the simulation
            where = traceback.format_exception(error)[-1].strip()
            frame = traceback.extract_tb(error.__traceback__)[-1]
            text = f"uncaught exception in {self.name}: {where} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
            self.surroundings.violations.append(text)
            self.surroundings.transcript.note(self._world.now, self.name, text)
            self.kill(1.0)

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        life = self._life
        deadline = None if life is None else life.machine.deadline()
        if deadline is None:
            self._wake_at = None
            return
        at = max(self.clock.world_time(deadline), self._world.now)
        if self._wake_at is None or at < self._wake_at or self._wake_at < self._world.now:
            self._wake_at = at
            self._world.at(at, lambda: self._wake(life, at))

    def _wake(self, life: Life | None, at: float) -> None:
        if life is None or self._life is not life or self._wake_at != at or self._held is not None:
            return
        self._wake_at = None
        deadline = life.machine.deadline()
        if deadline is not None and self.clock.now() >= deadline:
            self._spins = self._spins + 1 if at == self._last_wake else 0
            self._last_wake = at
            self._guarded(lambda: self._step(None))
            if self._spins > SPINS_MAX:
                self.surroundings.violations.append(f"busy loop in {self.name} at {at:.3f} s")
                self.kill(1.0)
        else:
            self._arm()


class _Mortal:
    """Stands between driver and executor: the place where a process dies, and where it is watched."""

    stopped = False  # asked of the role's own executor, after each step

    def __init__(self, executor: _Executor, actor: Actor) -> None:
        self._executor, self._actor = executor, actor

    def execute(self, effect: Any) -> list[Any]:
        """Run one effect."""
        return self._actor.execute(self._executor, effect)
