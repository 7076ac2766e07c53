"""Whether one process of a coordinator may speak: not before it has listened, and not once it knows that it is behind.

- FED-97: no verdict and no announcement before it was heard who leads, or as long as whoever leads had time to say so
- whoever has heard of a later start or a later round of its own run holds, and says so
"""

from collections.abc import Callable

from coordinator.engine import events
from coordinator.engine.effects import Invite, PublishAnnouncement, SendCommand
from federation.protocol.messages import EvaluationReceipt, NodeState, Presence, Receipt
from federation.types import NO_START, Epoch, NodeId, RunId, SeenRun, Start
from fedmq.simulation.protocol.checker import Checker

__all__ = ["Listening"]

ROUNDING_S = 1e-6


class Listening:
    """What one process has heard of who leads its run.

    Args:
        name: Of its actor.
        checker: Knows which rounds are its own.
        fence: Its run, its epoch and its start.
        settle_s: How long it has to listen once the broker has answered what it subscribed to, in seconds.
        signed: Whether a node's word is only a claim.

    Attributes:
        behind: Whether it has heard that it is behind; that lasts as long as the process does.
    """

    def __init__(
        self, name: str, checker: Checker, fence: tuple[RunId, Epoch, Start], *, settle_s: float, signed: bool
    ) -> None:
        self._name, self._checker, self._fence = name, checker, fence
        self._settle_s, self._signed = settle_s, signed
        self._first_round = checker.next_round
        self._since: float | None = None
        self._heard = self._told = self._learns = False
        self._lives: dict[NodeId, tuple[int | None, int]] = {}
        self.behind = False

    def hear(self, event: object, now: float) -> None:
        """The process is about to handle this, in seconds of its own clock; what is due then goes before it."""
        self.behind = self._learns
        match event:
            case events.BrokerConnected(answered=True) if self._since is not None:
                self._since = min(now, self._since)
            case events.BrokerConnected(answered=answered):
                self._since, self._heard = now + (0.0 if answered else events.ANSWER_WAIT_S - self._settle_s), False
            case events.BrokerDisconnected():
                self._since = None
            case events.CoordinatorStateReceived():
                self._heard = True
            case events.NodeStateReceived(node=node, state=state):
                self._born(node, state)
            case events.ProofReceived(proved=proved):
                self._learns = self._learns or any(map(self._is_beyond, proved))
            case _:
                pass

    def says(self, effect: object, now: float, *, finished: Callable[[], bool]) -> None:
        """It is about to do this."""
        match effect:
            case SendCommand(command=Receipt() | EvaluationReceipt()) | PublishAnnouncement() | Invite():
                self._speaks(type(effect).__name__, now, finished=finished)
            case _:
                pass

    def settled(self, knows: Callable[[], bool]) -> None:
        """What it has heard is handled by now: it must know that it is behind."""
        self.behind = self._learns
        if self.behind and not self._told and not knows():
            self._told = True
            self._checker.violations.append(f"{self._name} has heard that it is behind, and does not hold")

    def _speaks(self, what: str, now: float, *, finished: Callable[[], bool]) -> None:
        listened = self._since is not None and (self._heard or now >= self._since + self._settle_s - ROUNDING_S)
        # Nothing follows from the words of a run that is over.
        if not listened and not finished():
            self._checker.violations.append(f"{self._name} has not heard who leads, and does a {what}")
        if self.behind:
            self._checker.violations.append(f"{self._name} has heard that it is behind, and does a {what}")

    def _born(self, node: NodeId, state: NodeState) -> None:
        """What was said by a life that is over may be ignored."""
        life, known = (state.state_id, state.incarnation), self._lives.get(node)
        if state.presence is not Presence.ONLINE or (known is not None and (known[0] != life[0] or life[1] < known[1])):
            return
        self._lives[node] = life
        if state.seen is not None and not self._signed and self._is_beyond(state.seen):
            self._learns = True

    def _is_beyond(self, seen: SeenRun) -> bool:
        run, *fence = self._fence
        earlier = seen.epoch < fence[0] or (seen.epoch == fence[0] and NO_START < seen.start < fence[1])
        unknown = seen.round is not None and seen.round >= self._first_round and earlier
        return seen.run == run and ((seen.epoch, seen.start) > tuple(fence) or unknown)
