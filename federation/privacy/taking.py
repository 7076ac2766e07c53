"""One node's account of noised sums; apart from what prices them, which few of those who read accounts need."""

from dataclasses import dataclass

__all__ = ["NOBODY_YET", "Taking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """One node's part in the noised sums of a run.

    Attributes:
        releases: In how many it was.
        last: Number of the newest of them, from 0.
        spent: What they have cost it, as mu^2.
    """

    releases: int
    last: int
    spent: float


NOBODY_YET = Taking(releases=0, last=-1, spent=0.0)
"""Of a node that was in none."""
