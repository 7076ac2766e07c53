"""What one turn of private training costs, what a node has spent, and whether a turn still fits.

The unit is an example, one row of the node's data; two data sets are neighbours if one has a row more. What a turn
costs is fixed by the announcement alone: how many steps there are must not depend on how many rows a node has.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from federation.privacy.accountant import DELTA_MAX, DELTA_MIN, renyi_epsilon, sampled_epsilon
from federation.protocol.limits import INT32_MAX, SPENT_KINDS_MAX
from federation.protocol.messages import TrainSettings
from federation.types import ExamplePrivacy, SampledSteps

__all__ = ["DELTA_MAX", "DELTA_MIN", "epsilon_of", "fits", "greatest", "ledger_of", "merged", "turn_of"]


def turn_of(settings: TrainSettings, privacy: ExamplePrivacy) -> SampledSteps:
    """The steps of one turn: an epoch has 1 / sampling_rate of them, as a row is then drawn once on average."""
    steps = math.ceil(settings.local_epochs / privacy.sampling_rate - 1e-9)
    count = min(settings.max_steps or steps, steps)
    return SampledSteps(sampling_rate=privacy.sampling_rate, noise=privacy.noise, steps=min(max(1, count), INT32_MAX))


def merged(steps: Iterable[SampledSteps]) -> tuple[SampledSteps, ...]:
    """The same steps, those of one kind added up as far as a message can say, in an order of their own."""
    counts: dict[tuple[float, float], int] = {}
    for each in steps:
        kind = (each.sampling_rate, each.noise)
        counts[kind] = counts.get(kind, 0) + each.steps
    return tuple(_kind(kind, count) for kind, count in sorted(counts.items()) if count)


def greatest(*ledgers: Iterable[SampledSteps]) -> tuple[SampledSteps, ...]:
    """Of each kind the highest count that any of the ledgers has: two that know of the same node."""
    counts: dict[tuple[float, float], int] = {}
    for ledger in ledgers:
        for each in merged(ledger):
            kind = (each.sampling_rate, each.noise)
            counts[kind] = max(counts.get(kind, 0), each.steps)
    return tuple(_kind(kind, count) for kind, count in sorted(counts.items()) if count)


def ledger_of(steps: Iterable[SampledSteps]) -> tuple[SampledSteps, ...]:
    """The same steps as a ledger that a message can say, and that costs no less [FED-317].

    Of more than `SPENT_KINDS_MAX` kinds, which no honest node has, the last ones are counted as one kind with the
    highest rate and the least noise of them.
    """
    kinds = merged(steps)
    if len(kinds) <= SPENT_KINDS_MAX:
        return kinds
    kept, rest = kinds[: SPENT_KINDS_MAX - 1], kinds[SPENT_KINDS_MAX - 1 :]
    dearest = (max(each.sampling_rate for each in rest), min(each.noise for each in rest))
    return (*kept, _kind(dearest, sum(each.steps for each in rest)))


def epsilon_of(steps: Iterable[SampledSteps], delta: float) -> float:
    """Epsilon after all of them; see `sampled_epsilon`."""
    return _epsilon(merged(steps), delta)


def fits(spent: Sequence[SampledSteps], turn: SampledSteps, *, epsilon: float, delta: float) -> bool:
    """Whether a node that has spent this stays within ``epsilon`` if it takes this turn, too."""
    after = merged((*spent, turn))
    # The looser bound costs next to nothing, and is enough for most turns of a run.
    return renyi_epsilon(after, delta) <= epsilon or _epsilon(after, delta) <= epsilon


def _kind(kind: tuple[float, float], count: int) -> SampledSteps:
    return SampledSteps(sampling_rate=kind[0], noise=kind[1], steps=min(count, INT32_MAX))


@lru_cache(maxsize=256)
def _epsilon(steps: tuple[SampledSteps, ...], delta: float) -> float:
    return sampled_epsilon(steps, delta)
