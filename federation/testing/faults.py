"""What a bad network does to each message: a seeded decision, the same for the same seed and order of questions."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Nothing passes from ``sources`` to ``destinations`` in a time; one way, as real partitions often are.

    Attributes:
        sources: Names of senders; empty means everybody.
        destinations: Names of receivers; empty means everybody.
        start_s: First moment, in seconds.
        end_s: First moment at which messages pass again.
    """

    sources: frozenset[str] = frozenset()
    destinations: frozenset[str] = frozenset()
    start_s: float
    end_s: float

    def cuts(self, source: str, destination: str, now: float) -> bool:
        """Whether a message sent now is lost."""
        return (
            self.start_s <= now < self.end_s
            and (not self.sources or source in self.sources)
            and (not self.destinations or destination in self.destinations)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSettings:
    """Probabilities are per message, in [0, 1].

    Attributes:
        drop: Never arrives.
        duplicate: Arrives a second time, with a delay of its own.
        reorder: Is held back so that later messages overtake it.
        delay_s: Least and greatest ordinary delay, in seconds.
        reorder_s: Greatest additional delay of a message that is held back, in seconds.
        partitions: Times in which nothing passes.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: tuple[float, float] = (0.001, 0.01)
    reorder_s: float = 5.0
    partitions: tuple[Partition, ...] = ()

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, not {getattr(self, name)}")
        if not 0.0 <= self.delay_s[0] <= self.delay_s[1]:
            raise ValueError(f"delay_s is a least and a greatest delay, not {self.delay_s}")


class FaultyNetwork:
    """Decides the fate of messages.

    Without `FaultSettings.reorder`, a delay never lets a message overtake an earlier one between the same two: TCP
    keeps their order.
    """

    def __init__(self, settings: FaultSettings, seed: int) -> None:
        self._settings = settings
        self._rng = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self._latest: dict[tuple[str, str], float] = {}

    def fate(self, source: str, destination: str, now: float) -> list[float]:
        """Delays in seconds after which the message arrives, one for each copy; empty: it is lost."""
        settings = self._settings
        if any(partition.cuts(source, destination, now) for partition in settings.partitions):
            return []
        if self._happens(settings.drop):
            return []
        if self._happens(settings.reorder):
            delays = [self._delay() + self._rng.uniform(0.0, settings.reorder_s)]
        else:
            delays = [self._in_order(source, destination, now)]
        if self._happens(settings.duplicate):
            delays.append(delays[0] + self._delay())
        return delays

    def _happens(self, probability: float) -> bool:
        # No draw for a fault that is off: switching one on must not change the others' sequence more than needed.
        return probability > 0.0 and self._rng.random() < probability

    def _delay(self) -> float:
        return self._rng.uniform(*self._settings.delay_s)

    def _in_order(self, source: str, destination: str, now: float) -> float:
        arrival = max(now + self._delay(), self._latest.get((source, destination), 0.0))
        self._latest[source, destination] = arrival + 4 * math.ulp(arrival)
        # Rounding: `now` plus the difference must not come out earlier than the arrival itself.
        return arrival - now + math.ulp(arrival)
