"""The demo's saboteur: kills one node with SIGKILL in mid-training, and sees to it that it comes back."""

from dataclasses import dataclass

from fedmq.demo.processes import Exited, Fleet, Line

FIRST_VERSION = 1
"""Kill only once this many versions exist: a federation at work, not one that is starting."""


@dataclass(slots=True)
class Saboteur:
    """Kills once; a kill that came after the training had ended does not count, and is tried again.

    Attributes:
        fleet: The processes.
        enabled: False never kills.
        victim: Who was killed and is not yet back, or None.
        done: Whether a node was killed in mid-training.
        returning: Who was started again and has not yet had an update applied, or None.
    """

    fleet: Fleet
    enabled: bool = True
    victim: str | None = None
    done: bool = False
    returning: str | None = None
    _round: int | None = None

    def hear(self, line: Line, *, version: int) -> str | None:
        """Watch the log lines; returns a sentence when something was done."""
        if line.source == self.victim and line.event == "training_finished":
            # The node was faster than the signal.
            self._round = None
        if line.source == self.returning and line.fields.get("status") == "applied":
            self.returning = None
            return f"chaos: {line.source} is back: version {line.fields.get('version')} has its update"
        wanted = self.enabled and not self.done and self.victim is None and version >= FIRST_VERSION
        if not wanted or line.event != "training_started":
            return None
        self.victim = line.source
        value = line.fields.get("round")
        self._round = value if isinstance(value, int) else None
        self.fleet.kill(line.source)
        return f"chaos: SIGKILL to {line.source} while it trains round {self._round}"

    def notice(self, exited: Exited) -> str | None:
        """A process has ended: start the victim again."""
        if exited.source != self.victim:
            return None
        in_training, self.victim = self._round is not None, None
        self.done = self.done or in_training
        self.fleet.restart(exited.source)
        self.returning = exited.source
        told = "killed in mid-training" if in_training else "killed just after training; chaos will try again"
        return f"chaos: {exited.source} was {told}; started again"
