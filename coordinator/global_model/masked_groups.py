"""A version of several masked sums: each group's mean is what a robust rule takes the median or trimmed mean of.

Of a masked sum nobody can say who has spoilt it. With the members in g groups a node spoils the mean of its own group
only, so with fewer than g / 2 bad nodes more than half of the groups are honest, entry by entry (Yin et al., arXiv
1803.01498, over group means as in arXiv 1205.2640). Who is in which group, tickets' digests say.

A group whose sum no honest nodes can have made is left out, as long as more than half of the groups are left.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Combined, Reading, Unusable
from coordinator.global_model.masked import MaskedCombine
from coordinator.records import BatchRecord, Member
from coordinator.strategies.robust.updates import Updates
from coordinator.strategies.strategy import Weights
from federation.privacy.classes import classes
from federation.privacy.tail import TailSums
from federation.protocol.messages import Reason
from federation.types import UpdateId
from update_codec import Vectors

__all__ = ["GroupedCombine", "grouped"]

Entrywise = Callable[[NDArray[np.float32]], NDArray[np.floating]]

_CHUNK = 1 << 18
"""Entries of all groups that are looked at together."""


@dataclass(frozen=True, slots=True)
class _Means:
    """The groups' means, as a robust rule reads updates.

    Attributes:
        vectors: One for each group.
    """

    vectors: Sequence[Vectors]

    @property
    def count(self) -> int:
        return len(self.vectors)

    def coordinatewise(self, combine: Entrywise) -> Vectors:
        """Each entry of the rule."""
        first = self.vectors[0]
        parameters = np.empty(len(first.parameters), np.float32)
        for start in range(0, len(parameters), _CHUNK):
            stacked = np.stack([one.parameters[start : start + _CHUNK] for one in self.vectors])
            parameters[start : start + _CHUNK] = combine(stacked)
        told = np.stack([one.statistics for one in self.vectors])
        found = combine(told) if told.size else first.statistics
        return Vectors(parameters, np.asarray(found, np.float32), first.counters)


class GroupedCombine:
    """A `Combine` for a batch of several groups; needs a rule that looks at every entry alone.

    Args:
        groups: How each is combined, and its members.

    Attributes:
        tail: What the groups' sums say beside the parameters, the middle of them; None before they are combined.
        share: As in `MaskedCombine`: never told here.
    """

    def __init__(self, groups: Sequence[tuple[MaskedCombine, frozenset[UpdateId]]]) -> None:
        self._groups = groups
        self.tail: TailSums | None = None
        self.share: float | None = None

    def __call__(
        self,
        members: Sequence[Member],
        payload: Callable[[UpdateId], bytes],
        weights: Weights,
        how: Reading,
    ) -> Combined | Unusable:
        """The rule's choice of the groups' means."""
        rule, everyone = how.limits.rule, tuple(member.update for member in members)
        if rule is None:
            return Unusable(culprits=everyone, reason=Reason.NORM, detail="groups need strategy.robust")
        means, tails, lost = list[Vectors](), list[TailSums](), list[str]()
        for combine, updates in self._groups:
            group = [member for member in members if member.update in updates]
            found = combine(group, payload, weights, how)
            if isinstance(found, Unusable):
                lost.append(found.detail)
                continue
            means.append(found[0])
            tails += [] if combine.tail is None else [combine.tail]
        if 2 * len(means) <= len(self._groups) or len(means) < rule.members_min(0):
            return Unusable(culprits=everyone, reason=Reason.NORM, detail=f"{len(lost)} groups: {lost[0]}")
        self.tail = _middle(tails)
        return rule.combine(cast("Updates", _Means(means))), {}


def grouped(batch: BatchRecord, sums: Sequence[bytes], counters: NDArray[np.int64]) -> GroupedCombine:
    """How a batch of several groups is combined; its members stand group by group.

    Args:
        batch: The batch.
        sums: What helpers answered, by number.
        counters: The model's.
    """
    made, start = [], 0
    for group, request in enumerate(batch.requests):
        count = len(classes(request.terms.count, request.terms.threshold))
        end = start + len(request.tickets)
        members = frozenset(member.update for member in batch.members[start:end])
        made.append((MaskedCombine(request.terms, sums[group * count : (group + 1) * count], counters), members))
        start = end
    return GroupedCombine(made)


def _middle(tails: Sequence[TailSums]) -> TailSums | None:
    """The groups' tails as one: a few lies move none of its numbers beyond what honest groups say."""
    if not tails:
        return None
    losses = [tail.loss for tail in tails if tail.loss is not None]
    lengths = [tail.length for tail in tails if tail.length is not None]
    return TailSums(
        weight=sum(tail.weight for tail in tails),
        within=sum(tail.within for tail in tails),
        loss=statistics.median(losses) if losses else None,
        length=statistics.median(lengths) if lengths else None,
        statistics=np.median([tail.statistics for tail in tails], axis=0).astype(np.float32),
    )
