"""One node's account of noised sums, and their noise; apart from what prices them, which few readers need."""

from dataclasses import dataclass

__all__ = ["NOBODY_YET", "NOT_DRAWN", "Drawn", "Participation", "Plan", "Taking"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """How often one node's updates may enter releases.

    Attributes:
        releases: How many releases the run has at most.
        separation: A node is in two releases only if their numbers are at least this far apart, at least 1.
        participations: In how many releases a node is at most.
    """

    releases: int
    separation: int
    participations: int

    def allows(self, before: tuple[int, ...], release: int) -> bool:
        """Whether a node that was in the releases ``before`` (ascending) may be in this one, too."""
        if len(before) >= self.participations or not 0 <= release < self.releases:
            return False
        return not before or release - before[-1] >= self.separation


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Of noise that is correlated from sum to sum: one mechanism for all of a run (see sum_noise.py).

    Attributes:
        bandwidth: Each sum's noise depends on that of so many sums, its own among them.
        participation: What nodes keep to.
    """

    bandwidth: int
    participation: Participation


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The noise on the sums of a run.

    Attributes:
        noise: Least standard deviation that one helper or the coordinator has added, in units of the sum's clip; None:
            there was no sum.
        clip: Largest clip of any of them.
        here: The same as ``noise`` of what the coordinator itself adds, or did before; None: it adds none.
        plan: How it is correlated; None: each sum's is drawn anew, or an earlier release has not said.
    """

    noise: float | None = None
    clip: float | None = None
    here: float | None = None
    plan: Plan | None = None


NOT_DRAWN = Drawn()
"""Of a run without noise."""
