"""What one process in virtual time is made of, and what all participants share."""

import queue
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from federation.identity.helper_keys import PinnedHelper
from federation.protocol.topics import Topics
from federation.runtime.transport import InboxItem
from federation.types import FederationId, NodeId
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.masked_sums import SumsWitness
from fedmq.simulation.protocol.witness import Witness
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.faults import Dice
from fedmq.simulation.world.keys import SimKey, SimKeys
from fedmq.simulation.world.network import SimNetwork
from fedmq.simulation.world.seals import SealWitness
from fedmq.simulation.world.transcript import Transcript
from fedmq.simulation.world.transport import SimTransport

__all__ = ["TOPICS", "Arrived", "Device", "Executor", "Killed", "Life", "Place", "Surroundings", "TimedMachine"]


TOPICS = Topics(FederationId("sim"))
"""The tree of every simulated federation."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor lives.

    Attributes:
        surroundings: What all share.
        network: The broker.
        topics: The federation's tree.
        checker: Watches the coordinator.
        witness: Watches the nodes.
        signed: Whether all messages are signed.
        helpers: The helpers of masked sums; nobody where nothing is masked.
        sums: Watches them; None where nothing is masked.
        seals: Watches the broker; None where nothing is sealed.
        rotate_s: Age at which a coordinator takes another key where it seals, in seconds.
    """

    surroundings: Surroundings
    network: SimNetwork
    topics: Topics
    checker: Checker
    witness: Witness
    signed: bool = False
    helpers: tuple[PinnedHelper, ...] = ()
    sums: SumsWitness | None = None
    seals: SealWitness | None = None
    rotate_s: float = 120.0

    @property
    def keys(self) -> SimKeys | None:
        """Everybody's, where messages are signed."""
        return SimKeys() if self.signed else None

    def key(self, owner: NodeId | None) -> SimKey | None:
        """One participant's own; None is the coordinator's."""
        return SimKey(owner) if self.signed else None


class Device(Protocol):
    """What an actor knows of the disk of its processes; attributes as in `fedmq.simulation.world.disks.Disk`."""

    full: bool
    failing: bool
    passage: Callable[[], None]
    refuses: Callable[[], bool]

    @property
    def failed(self) -> bool:
        """Whether something has failed since it was entered last."""

    def stop(self, power_cut: random.Random | None = None) -> None:
        """The process is gone."""

    def reopen(self) -> object:
        """What the next process finds."""

    def __enter__(self) -> None:
        """Something happens at it now."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No longer."""


class Executor(Protocol):
    """What a driver knows of a role's executor."""

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
        settle: What the driver does before it acknowledges.
        batch_max: So many messages it takes together at most.
        follows: Told before each whether another one comes.
        busy_s: How long it is busy with what it has taken, in virtual seconds; what arrives meanwhile waits.
        end: Called when it is killed, for what else dies with it.
    """

    machine: Any
    executor: Executor
    translate: Callable[[object], Any]
    transports: tuple[SimTransport, ...]
    settle: Callable[[], None] = lambda: None
    batch_max: int = 1
    follows: Callable[[bool], None] = lambda _more: None
    busy_s: Callable[[], float] = lambda: 0.0
    end: Callable[[], None] = lambda: None


class TimedMachine:
    """A machine that says its deadline again without reckoning until something happens to it."""

    def __init__(self, machine: Any) -> None:
        self._machine, self._known = machine, False
        self._deadline: float | None = None

    def handle(self, event: Any, now: float) -> Any:
        """Take one event."""
        self._known = False
        return self._machine.handle(event, now)

    def deadline(self) -> float | None:
        """When it wants to be called, in its own monotonic seconds."""
        if not self._known:
            self._deadline, self._known = self._machine.deadline(), True
        return self._deadline


class Arrived(queue.Queue[InboxItem]):
    """An inbox in which nobody waits: time goes on outside."""

    def get(self, block: bool = True, timeout: float | None = None) -> InboxItem:  # noqa: FBT001, FBT002 - as its base
        """What arrived first."""
        del block, timeout
        if not self.queue:
            raise queue.Empty
        item: InboxItem = self.queue.popleft()
        return item

    def empty(self) -> bool:
        """Whether nothing has arrived."""
        return not self.queue
