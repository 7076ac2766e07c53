"""What this node has spent under differential privacy, run by run, and whether another turn fits (FED-180 to FED-184).

A turn is counted when its update is made; the disk counts it in the transaction that puts the update into the outbox.
What never came there has told nobody anything.
"""

from collections.abc import Mapping, Sequence

from edge_node.engine.settings import Hindrance, NodeSettings
from federation.privacy.budget import fits, greatest, ledger_of, merged, turn_of
from federation.protocol.limits import SPENT_KINDS_MAX
from federation.protocol.messages import RoundAnnouncement
from federation.types import ExamplePrivacy, RunId, SampledSteps

__all__ = ["BUDGET", "Budget"]

BUDGET = "budget"
"""Why a round is declined: the run's budget, or the node's own, has no room for its turn [FED-182]."""

_LEDGER = "ledger"
"""Why a node without a ledger declines once: the coordinator may know what its lost state had spent [FED-184]."""


class Budget:
    """The ledgers of all runs.

    Args:
        settings: The owner's own bound.
        spent: What the disk has, by run.
    """

    def __init__(self, settings: NodeSettings, spent: Mapping[RunId, Sequence[SampledSteps]]) -> None:
        self._settings, self._waited = settings, set[RunId]()
        self._spent = {run: ledger_of(steps) for run, steps in spent.items()}

    def of(self, run: RunId | None) -> tuple[SampledSteps, ...] | None:
        """What was spent in a run, to be said; None where nothing was."""
        return None if run is None else self._spent.get(run) or None

    def hindrance(self, announcement: RoundAnnouncement) -> Hindrance | None:
        """Why this round's turn may not be taken, or None."""
        bounds, privacy = self._settings.bounds, announcement.settings.privacy
        if privacy is None:
            if bounds.epsilon_max is None:
                return None
            return self._not("without differential privacy no epsilon is kept")
        if not self._settings.private:
            return self._not("the task cannot keep differential privacy")
        if self.of(announcement.run) is None and announcement.run not in self._waited:
            self._waited.add(announcement.run)
            return Hindrance(reason=_LEDGER, retry_after_s=0.0)
        return None if self._fits(announcement, privacy) else self._not(BUDGET)

    def charge(self, run: RunId, turn: SampledSteps | None) -> None:
        """A turn has become an update."""
        if turn is not None:
            self._spent[run] = ledger_of((*self._spent.get(run, ()), turn))

    def adopt(self, run: RunId | None, known: Sequence[SampledSteps]) -> bool:
        """Take over what the coordinator knows better; says whether anything was new [FED-183]."""
        if run is None:
            return False
        before = self._spent.get(run, ())
        self._spent[run] = ledger_of(greatest(before, known))
        return self._spent[run] != before

    def _fits(self, announcement: RoundAnnouncement, privacy: ExamplePrivacy) -> bool:
        turn, bounds = turn_of(announcement.settings, privacy), self._settings.bounds
        here = self._spent.get(announcement.run, ())
        if len(merged((*here, turn))) > SPENT_KINDS_MAX:
            return False
        if not fits(here, turn, epsilon=privacy.epsilon, delta=privacy.delta):
            return False
        everywhere = [each for steps in self._spent.values() for each in steps]
        own = bounds.epsilon_max
        return own is None or fits(everywhere, turn, epsilon=own, delta=bounds.epsilon_delta)

    def _not(self, reason: str) -> Hindrance:
        return Hindrance(reason=reason, retry_after_s=self._settings.incompatible_retry_s)
