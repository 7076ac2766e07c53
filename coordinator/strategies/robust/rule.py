"""How many of n updates a rule takes for bad, and what every rule has in common."""

import math
from typing import Protocol

from coordinator.strategies.robust.updates import Updates
from update_codec import Vectors

__all__ = ["RobustRule", "assumed_attackers"]


class RobustRule(Protocol):
    """Replaces the weighted mean by something that a few bad updates cannot move far."""

    @property
    def attackers(self) -> float:
        """Share of the updates that may be bad, below 0.5."""

    def members_min(self, attackers: int) -> int:
        """Updates that the rule needs to stand so many bad ones."""

    def combine(self, updates: Updates) -> Vectors:
        """What takes the place of the mean; must not depend on the order of arrival."""


def assumed_attackers(rule: RobustRule, count: int) -> int:
    """The f = ⌊share · n⌋ of the papers; fewer where n updates cannot stand so many (a version that was cut short)."""
    wanted = math.floor(rule.attackers * count + 1e-9)
    while wanted > 0 and rule.members_min(wanted) > count:
        wanted -= 1
    return wanted
