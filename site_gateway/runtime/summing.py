"""What a site's nodes and the gateways below it have sent, as one: the exact sum of updates, one report for all."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from coordinator.global_model.update_checks import Examine
from coordinator.records import Member, NodeResult, believable
from federation.errors import DamagedStore
from federation.protocol.limits import CLAIM_BYTES, EXAMPLES_MAX, fit_metrics, fit_text
from federation.protocol.messages import EvaluationReport, Reason
from federation.types import UpdateId
from site_gateway.engine.evaluation import not_evaluated
from site_gateway.engine.events import EvaluationAsked, SumSpoilt
from site_gateway.records import SiteSum
from site_gateway.storage.store import SiteStore
from update_codec import Accumulator, CodecError, FrameInfo, HeadroomError, Manifest, ShapeError, Sums, read_sum

__all__ = ["Summing", "summed_report"]


class Summing:
    """Adds the members of a sum, each of them one node's update, the sum of a gateway below, or its mean.

    Args:
        store: The site's.
        manifest: The model's.
        examine: Describes frames of this model.
        examples_max: The most examples of one node.
    """

    def __init__(self, store: SiteStore, manifest: Manifest, examine: Examine, examples_max: int) -> None:
        self._store, self._manifest, self._examine, self._examples_max = store, manifest, examine, examples_max

    def add(self, made: SiteSum) -> Sums | SumSpoilt:
        """The exact sum of the members, which counts the nodes behind gateways, too; or who has spoilt it."""
        total, nodes, sizes = Accumulator(self._manifest), 0, dict[UpdateId, float]()
        for member in sorted(made.members, key=lambda one: one.update):
            update = member.update
            try:
                frame = self._store.payload(update)
                info = self._examine(frame)
                sizes[update] = member.num_examples * max(info.parameter_abs_max, info.statistic_abs_max)
                self._add(total, frame, member, info)
            except DamagedStore as error:
                return SumSpoilt(culprit=update, reason=Reason.DIGEST_MISMATCH, detail=str(error))
            except HeadroomError as error:
                # All together have no room: whoever has taken most of it is left out.
                largest = max(sizes, key=lambda one: (sizes[one], one))
                return SumSpoilt(culprit=largest, reason=Reason.NORM, detail=str(error))
            except CodecError as error:
                return SumSpoilt(culprit=update, reason=Reason.NORM, detail=str(error))
            nodes += self._nodes(member, info)
        try:
            return replace(total.sums(), members=nodes)
        except ShapeError as error:
            heaviest = max(made.members, key=lambda one: (one.num_examples, one.update)).update
            return SumSpoilt(culprit=heaviest, reason=Reason.BAD_NUM_EXAMPLES, detail=str(error))

    def _add(self, total: Accumulator, frame: bytes, member: Member, info: FrameInfo) -> None:
        if info.weight is None:
            total.add(frame, float(member.num_examples), info=info)
        else:
            total.add_sum(read_sum(frame, self._manifest))

    def _nodes(self, member: Member, info: FrameInfo) -> int:
        """How many nodes an update speaks for; of a mean that names none the fewest that may have its examples."""
        if info.weight is not None:
            return info.members
        named = len(self._store.claims.of([member.update])) // CLAIM_BYTES
        return max(named, -(-member.num_examples // self._examples_max))


def summed_report(asked: EvaluationAsked, results: Iterable[NodeResult]) -> EvaluationReport:
    """What the nodes of a site have found, as one: exact sums of value times examples, each divided once."""
    found = [one for one in results if one.counted]
    having = [one for one in found if one.num_examples > 0]
    if not having:
        reasons = Counter(one.reason for one in found if one.reason)
        why = reasons.most_common(1)[0][0] if reasons else "no node has evaluated it in time"
        return not_evaluated(asked, fit_text(why))
    sums: dict[str, tuple[Fraction, int]] = {}
    for one in having:
        for name, value in believable(one.metrics).items():
            total, weight = sums.get(name, (Fraction(0), 0))
            sums[name] = total + Fraction(value) * one.num_examples, weight + one.num_examples
    return EvaluationReport(
        run=asked.run,
        version=asked.model.version,
        digest=asked.model.digest,
        num_examples=min(EXAMPLES_MAX, sum(one.num_examples for one in having)),
        metrics=fit_metrics({name: float(total / weight) for name, (total, weight) in sorted(sums.items())}),
        evaluate_s=max(one.evaluate_s for one in having),
        nodes=sum(one.nodes for one in having),
    )
