"""The invariants of evaluation on the nodes: what was asked, kept, counted and said, and that it comes to an end.

- a version is announced with one share, which is on disk before
- a node has one word on a version, and it was asked for it
- nothing counts that came after the end, and the mean is that of what counts
- a receipt says what is on disk
- the best version's model is there as long as it is the best one
- a run ends early when so many evaluations in a row were no better, and not before
"""

from collections.abc import Callable
from fractions import Fraction

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.records import NodeResult, NodesEvaluation, RoundRecord
from coordinator.storage.store import CoordinatorStore
from federation.errors import StorageError
from federation.protocol.cohort import evaluates
from federation.protocol.messages import EvaluationReceipt, Reason, ReceiptStatus, RoundAnnouncement
from federation.types import ModelVersion, NodeId, RunId

__all__ = ["SurveyChecker"]

TOLERANCE = 1e-9

OF_OTHERS = frozenset({Reason.BASE_MISMATCH, Reason.NOT_ASSIGNED})


class SurveyChecker:
    """Its own ledger of the evaluations.

    Attributes:
        results: Words of nodes that are on disk.
        counted: How many of them count in a mean.
        closed: Evaluations whose mean is made.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._shares: dict[ModelVersion, int] = {}
        self._results: dict[tuple[ModelVersion, NodeId], NodeResult] = {}
        self._closed: dict[ModelVersion, NodesEvaluation] = {}
        self._announced: set[ModelVersion] = set()
        self._copied = False

    def fork(self, say: Callable[[str], None]) -> "SurveyChecker":
        """The ledger of a copy of the store, as it is now."""
        self._copied = True
        other = SurveyChecker(say)
        other._shares, other._results, other._closed = self._shares.copy(), self._results.copy(), self._closed.copy()
        other._announced, other._copied = self._announced.copy(), True
        return other

    @property
    def results(self) -> int:
        """Words of nodes that are on disk."""
        return len(self._results)

    @property
    def counted(self) -> int:
        """Nodes that count in a mean."""
        return sum(made.nodes for made in self._closed.values())

    @property
    def open(self) -> list[ModelVersion]:
        """Evaluations without a mean."""
        return [version for version in self._shares if version not in self._closed]

    def reserved(self, record: RoundRecord) -> None:
        """A round is on disk, with what its announcement asks for."""
        if record.evaluation is not None and record.evaluation != self._shares.setdefault(
            record.version, record.evaluation
        ):
            self._say(f"the evaluation of version {record.version} was reserved twice, with different shares")

    def announced(self, announcement: RoundAnnouncement) -> None:
        """An announcement is said."""
        version, hidden = announcement.model.version, announcement.masked_evaluation
        share = announcement.evaluation if hidden is None else hidden.share
        if announcement.privacy is not None and announcement.evaluation is not None:
            self._say(f"the evaluation of version {version} is asked for in clear beside masks")
        if share is not None and self._shares.get(version) != share:
            self._say(f"save, then say: the evaluation of version {version} is announced and not on disk")
        if share is not None:
            self._announced.add(version)

    def saved(self, run: RunId, result: NodeResult) -> None:
        """A result is on disk."""
        key = (result.version, result.node)
        if self._results.setdefault(key, result) != result:
            self._say(f"{result.node} has two words on version {result.version}")
        if result.counted and result.version in self._closed and self._results[key] is result:
            self._say(f"{result.node} counts in version {result.version} after its mean was made")
        if not evaluates(self._shares.get(result.version), run, result.version, result.node):
            self._say(f"{result.node} was not asked to evaluate version {result.version}")

    def made(self, evaluation: NodesEvaluation) -> None:
        """A mean is on disk."""
        version = evaluation.version
        if self._closed.setdefault(version, evaluation) != evaluation:
            self._say(f"version {version} has two means")
        counting = [
            result
            for (of, _), result in self._results.items()
            if of == version and result.counted and result.num_examples > 0
        ]
        names = {name for result in counting for name in result.metrics}
        if evaluation.nodes != sum(result.nodes for result in counting) or evaluation.metrics.keys() != names:
            self._say(f"the mean of version {version} is over other nodes than those that count")
        for name in names & evaluation.metrics.keys():
            having = [result for result in counting if name in result.metrics]
            total = sum(Fraction(result.metrics[name]) * result.num_examples for result in having)
            exact = float(total / sum(result.num_examples for result in having))
            if abs(evaluation.metrics[name] - exact) > TOLERANCE * max(1.0, abs(exact)):
                self._say(f"the mean {name} of version {version} is {evaluation.metrics[name]}, not {exact}")

    def summed(self, evaluation: NodesEvaluation, least: int) -> None:
        """The means of masked reports are on disk, or that there are none."""
        version = evaluation.version
        if self._closed.setdefault(version, evaluation) != evaluation:
            self._say(f"version {version} has two means")
        counting = [result for (of, _), result in self._results.items() if of == version and result.counted]
        told = [result.node for result in counting if result.num_examples or result.metrics]
        if told:
            self._say(f"{told[0]} has told its own numbers beside masks")
        if evaluation.nodes > len(counting) or 0 < evaluation.nodes < least:
            self._say(f"the mean of version {version} is over {evaluation.nodes} nodes, of {len(counting)} that count")
        if bool(evaluation.metrics) != bool(evaluation.nodes):
            self._say(f"the mean of version {version} is over {evaluation.nodes} nodes and has {evaluation.metrics}")

    def receipted(self, node: NodeId, receipt: EvaluationReceipt) -> None:
        """A receipt is said."""
        if receipt.status is ReceiptStatus.REFUSED:
            # Of a version that another copy of the store has made: this one has not, or another one, for other nodes,
            # or for none.
            unasked = receipt.reason is Reason.UNKNOWN_ROUND and receipt.version not in self._announced
            if self._copied and (unasked or receipt.reason in OF_OTHERS):
                return
            self._say(f"honest work was refused: {node}'s evaluation of version {receipt.version}, {receipt.reason}")
            return
        known = self._results.get((receipt.version, node))
        if known is None:
            self._say(f"save, then say: {node}'s evaluation of version {receipt.version} is receipted and not on disk")
        elif known.counted != (receipt.status is ReceiptStatus.APPLIED):
            self._say(f"save, then say: {node}'s evaluation of version {receipt.version} is receipted {receipt.status}")

    def ended_early(self, store: CoordinatorStore, settings: StoppingSettings) -> None:
        """The run is over before its last version: the evaluations on the disk must say so."""
        recovered = store.recovered(recent=1)
        found = (
            recovered.evaluated
            if settings.source is Source.CENTRAL
            else {one.version: one.metrics for one in recovered.surveyed if one.closed}
        )
        best, waited = None, 0
        for version in sorted(found):
            value = found[version].get(settings.metric)
            if value is not None and settings.goal is Goal.MIN:
                value = -value
            if value is not None and (best is None or value > best):
                best, waited = value, 0
            elif best is not None:
                waited += 1
            if waited >= settings.patience:
                return
        self._say(f"the run ended early, and only {waited} evaluations in a row were no better")

    def close(self, store: CoordinatorStore) -> None:
        """Compare with the store at the end."""
        for version in self.open:
            self._say(f"I6: the evaluation of version {version} has no mean")
        if store.recovered(recent=1).surveyed != tuple(self._closed.values()):
            self._say("the store has other means than those that were made")
        best = store.best()
        if best is not None:
            try:
                store.model(best)
            except StorageError:
                self._say(f"the model of the best version, {best}, is gone")
