"""Which helper knows which seed: one class of helpers for each subset of h - t + 1 of them, in a fixed order.

A seed is known to all helpers of its class (replicated sharing: Ito, Saito, Nishizeki 1987). Any t of h helpers know
all seeds, since only t - 1 are outside of a class of h - t + 1. A helper answers for one batch only, so two sets of one
update could both be revealed only by two disjoint groups of helpers that each know the classes which the coordinator
lacks. With c helpers on its side each group needs t - c of the h - c others: there are no two if 2 * (t - c) > h - c.
So c helpers may be bad as long as c < min(t, 2 * t - h).
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import combinations

from federation.protocol.limits import HELPERS_MAX

__all__ = ["assign_classes", "check_threshold", "classes", "classes_of", "tolerated"]


def tolerated(count: int, threshold: int) -> int:
    """How many of ``count`` helpers may be on the coordinator's side before one update can be revealed."""
    return min(threshold, 2 * threshold - count) - 1


def check_threshold(count: int, threshold: int) -> None:
    """Refuse numbers of helpers that protect nothing.

    Args:
        count: Helpers, h.
        threshold: Helpers without which nothing is revealed, t.

    Raises:
        ValueError: They are out of range, or a single one of several helpers would be enough to reveal an update.
    """
    if not 1 <= threshold <= count <= HELPERS_MAX:
        raise ValueError(f"{threshold} of {count} helpers: at most {HELPERS_MAX}, and at least one must answer")
    bad = tolerated(count, threshold)
    if bad < min(1, count - 1):
        needed = next(t for t in range(threshold, count + 1) if tolerated(count, t) >= 1)
        raise ValueError(
            f"{threshold} of {count} helpers is not safe with one bad helper: let at least {needed} answer"
        )


@lru_cache(64)
def classes(count: int, threshold: int) -> tuple[tuple[int, ...], ...]:
    """The classes as tuples of places: the helpers' places in the order of their identity keys, from 0."""
    return tuple(combinations(range(count), count - threshold + 1))


def classes_of(place: int, count: int, threshold: int) -> tuple[int, ...]:
    """The numbers of the classes that the helper at this place belongs to, ascending."""
    return tuple(number for number, members in enumerate(classes(count, threshold)) if place in members)


def assign_classes(
    wanted: Collection[int], available: Collection[int], *, count: int, threshold: int
) -> Mapping[int, tuple[int, ...]]:
    """Who is asked for which class: each class its least burdened helper that is there.

    Args:
        wanted: Numbers of the classes whose sum is still missing.
        available: Places of the helpers that can answer.
        count: Helpers, h.
        threshold: Helpers without which nothing is revealed, t.

    Returns:
        Ascending class numbers by place. Classes of which no helper is there are left out.
    """
    asked: dict[int, list[int]] = {}
    for number in sorted(wanted):
        there = [place for place in classes(count, threshold)[number] if place in available]
        if there:
            least = min(there, key=lambda place: (len(asked.get(place, ())), place))
            asked.setdefault(least, []).append(number)
    return {place: tuple(numbers) for place, numbers in sorted(asked.items())}
