"""What the node knows of each run's rounds and model: one run is at hand, the others wait until they are heard again.

Nothing of a hidden run is said, and nothing of it changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from edge_node.records import Held, RecoveredNode, RecoveredRun
from federation.types import ModelVersion, RoundId, RunId

__all__ = ["RunMemory", "Runs"]


@dataclass(slots=True, kw_only=True)
class RunMemory:
    """What is known of one run.

    Attributes:
        held: The model on disk, as far as it is known to be right.
        last_round: The newest round that is finished or declined.
    """

    held: Held | None = None
    last_round: RoundId | None = None

    def hold(self, held: Held | None) -> None:
        """This is the model on disk, or there is none that can be trusted."""
        self.held = held

    def done(self, round_id: RoundId) -> None:
        """A round is finished or declined."""
        self.last_round = round_id if self.last_round is None else max(self.last_round, round_id)

    def is_beyond(self, round_id: RoundId, version: ModelVersion) -> bool:
        """Whether this node knows newer rounds or versions."""
        newer = self.last_round is not None and self.last_round > round_id
        return newer or (self.held is not None and self.held.version > version)

    def rewind(self, round_id: RoundId, version: ModelVersion) -> None:
        """The coordinator's store has gone back: what is beyond it is no more."""
        if self.held is not None and self.held.version > version:
            self.held = None
        if self.last_round is not None and self.last_round > round_id:
            self.last_round = None


class Runs:
    """The runs, and which of them is at hand.

    Attributes:
        run: The one at hand; None before the first.
        now: What is known of it.
    """

    def __init__(self, recovered: RecoveredNode) -> None:
        self.run: RunId | None = recovered.run
        self.now = _remembered(recovered)
        self._hidden = {one.run: _remembered(one) for one in recovered.hidden}

    def enter(self, run: RunId) -> None:
        """Hide the run at hand, and take another one as it was left."""
        self._hidden[self.run] = self.now
        self.run, self.now = run, self._hidden.pop(run, RunMemory())

    def forget(self, runs: Iterable[RunId]) -> None:
        """The disk has no room for these."""
        for run in runs:
            self._hidden.pop(run, None)


def _remembered(recovered: RecoveredRun) -> RunMemory:
    return RunMemory(held=recovered.held, last_round=recovered.last_round)
