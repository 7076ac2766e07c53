"""The exact sums of whole sites: what a gateway may claim, and a mean that does not depend on who has added.

    S_b = Σ rint(n_i · value_i · 2^32),  W_b = Σ n_i   over the members with base version b, in integers
    mean = Σ_b rint(s_b · S_b) / (2^32 · Σ_b s_b · W_b)

The weight of the staleness s_b is a multiple of 2^-20, and is applied once for each base: a federation through gateways
has the bits of one without (docs/adr/0063).
"""

from collections.abc import Mapping

from coordinator.records import UpdateRecord
from federation.protocol.limits import CLAIM_BYTES
from federation.protocol.messages import Reason
from federation.types import NodeId
from update_codec import Accumulator, Contexts, FrameInfo, Manifest, Vectors, read_sum

__all__ = ["SiteClaims", "SumsPerBase", "sum_bytes_max"]

_SHARE_UNITS = 1 << 20

_HEADER_BYTES = 65_536
"""A sum's bytes beside its entries: names, counts, and what a stream costs that does not compress."""


def sum_bytes_max(manifest: Manifest) -> int:
    """No honest sum of this model has more bytes: eight for each entry, one bit for its place, a header."""
    entries = manifest.parameter_count + manifest.statistic_count + manifest.counter_count
    return 8 * entries + entries // 8 + _HEADER_BYTES


class SiteClaims:
    """What gateways may say of their sites.

    Args:
        members_max: The most nodes of each gateway; whoever is not in it sends no sums.
        num_examples_max: The most examples of one node.
    """

    def __init__(self, members_max: Mapping[NodeId, int], num_examples_max: int) -> None:
        self._members_max, self._examples_max = members_max, num_examples_max

    def objection(self, record: UpdateRecord, info: FrameInfo) -> tuple[Reason, str] | None:
        """Why what a gateway sends is refused; None where it may be kept, or is of no gateway."""
        most, claimed = self._members_max.get(record.node), len(record.members) // CLAIM_BYTES
        if most is None:
            told = f"{record.node} is no gateway: gateways.members_max does not name it"
            return None if info.weight is None else (Reason.CODEC, told)
        members = claimed if info.weight is None else info.members
        if members > most:
            return Reason.NOT_ASSIGNED, f"a sum of {members} nodes; gateways.members_max: {most}"
        if claimed not in (0, members):
            return Reason.NOT_ASSIGNED, f"a sum of {members} nodes that names {claimed}"
        return None if info.weight is None else self._overweight(record, members, info.weight)

    def _overweight(self, record: UpdateRecord, members: int, weight: float) -> tuple[Reason, str] | None:
        if weight != record.num_examples:
            return Reason.BAD_NUM_EXAMPLES, f"the sum weighs {weight:g}, the offer says {record.num_examples}"
        if weight > members * self._examples_max:
            claim = f"{members} nodes with {weight:g} examples"
            return Reason.BAD_NUM_EXAMPLES, f"{claim}; limits.num_examples_max: {self._examples_max} each"
        return None


class SumsPerBase:
    """Adds updates and sums by the weight of their staleness.

    Args:
        manifest: The model's.
        contexts: The codec's, which frames may need.
        by_count: Divide by all examples; else by the weighed ones.
    """

    def __init__(self, manifest: Manifest, contexts: Contexts, *, by_count: bool) -> None:
        self._manifest, self._contexts, self._by_count = manifest, contexts, by_count
        self._sums: dict[int, Accumulator] = {}

    def add(self, frame: bytes, info: FrameInfo, num_examples: int, staleness_weight: float) -> None:
        """Add one update, or the sum of several.

        Raises:
            CodecError: It is damaged, not finite, or there is no room for it; nothing was added.
        """
        units = max(1, round(staleness_weight * _SHARE_UNITS))
        total = self._sums.setdefault(units, Accumulator(self._manifest, wide=True))
        if info.weight is None:
            total.add(frame, float(num_examples), info=info, context=self._contexts)
        else:
            total.add_sum(read_sum(frame, self._manifest))

    def mean(self) -> Vectors:
        """The mean of all."""
        total, divisor = Accumulator(self._manifest, wide=True), 0.0
        for units, sums in sorted(self._sums.items()):
            share = units / _SHARE_UNITS
            total.merge(sums, share=share)
            divisor += sums.weight_sum * (1.0 if self._by_count else share)
        return total.mean(divisor=divisor)
