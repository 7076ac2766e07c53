"""Who is asked to train: a selector is a pure function of the candidates, what is known of them, and random numbers.

Candidates are online, compatible, idle, within their quota, and neither resting after a decline nor silent.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import import_module
from typing import Protocol, overload, runtime_checkable

from federation.errors import ConfigError
from federation.types import PRIVATE_EXAMPLES, NodeId

Rng = Callable[[], float]
"""A source of uniform numbers in [0, 1)."""

WHOLE_MAX = 2_048
"""Candidates of which each one is looked at before some are chosen."""

DRAWN_EACH = 16
"""Of more than those, so many are drawn at random for each place."""


class Pool(Sequence[NodeId]):
    """A set of nodes with O(1) add, discard and access by position; its order depends on its history only."""

    def __init__(self) -> None:
        self._nodes: list[NodeId] = []
        self._places: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._places

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._nodes)

    @overload
    def __getitem__(self, index: int) -> NodeId: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NodeId]: ...
    def __getitem__(self, index: int | slice) -> NodeId | Sequence[NodeId]:
        return self._nodes[index]

    def add(self, node: NodeId) -> None:
        """Put a node in; nothing happens where it is in."""
        if node not in self._places:
            self._places[node] = len(self._nodes)
            self._nodes.append(node)

    def discard(self, node: NodeId) -> None:
        """Take a node out; nothing happens where it is not in."""
        place = self._places.pop(node, None)
        if place is None:
            return
        last = self._nodes.pop()
        if last != node:
            self._nodes[place] = last
            self._places[last] = place


class Selector(Protocol):
    """Chooses nodes for a round."""

    def select(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> tuple[NodeId, ...]:
        """Choose at most ``count`` different candidates; the same input gives the same choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What the coordinator has seen of a node since it started.

    Attributes:
        asked: Assignments.
        delivered: Updates that came for them.
        train_s: How long the last training took, in seconds; 0 is unknown.
        payload_bytes: How large its last update was; 0 is unknown.
        capabilities: What the node says that it has (PROTOCOL.md, section 10).
    """

    asked: int = 0
    delivered: int = 0
    train_s: float = 0.0
    payload_bytes: int = 0
    capabilities: Mapping[str, float] = field(default_factory=dict)

    @property
    def expected_s(self) -> float:
        """How long its next update will probably take, in seconds: training, and the way up as far as it is known."""
        link = self.capabilities.get("link_bytes_s", 0.0)
        return self.train_s + (self.payload_bytes / link if link > 0 else 0.0)


Records = Callable[[NodeId], NodeRecord]


@runtime_checkable
class Informed(Protocol):
    """A selector that looks at what is known of the candidates."""

    def inform(self, records: Records) -> None:
        """Say where it looks; once, before the first selection."""


class UniformSelector:
    """Every candidate is equally likely; costs O(count), however many candidates there are."""

    def select(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> tuple[NodeId, ...]:
        """Choose ``min(count, len(candidates))`` different candidates (a sparse Fisher-Yates shuffle)."""
        total = len(candidates)
        moved: dict[int, int] = {}
        chosen: list[NodeId] = []
        for position in range(min(count, total)):
            pick = position + min(int(rng() * (total - position)), total - position - 1)
            chosen.append(candidates[moved.get(pick, pick)])
            moved[pick] = moved.get(position, position)
        return tuple(chosen)


class _Knowing:
    """Draws in a random order, so that equals are equally likely, and looks at each node's record."""

    def __init__(self) -> None:
        self._records: Records = lambda _node: NodeRecord()

    def inform(self, records: Records) -> None:
        """Say where it looks."""
        self._records = records

    def _drawn(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> list[NodeId]:
        """All of them in a random order; of many as many at random as are enough to choose well from."""
        enough = max(WHOLE_MAX, DRAWN_EACH * count)
        return self._shuffled(candidates, min(len(candidates), enough), rng)

    def _shuffled(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> list[NodeId]:
        return list(UniformSelector().select(candidates, count, rng))


class FairSelector(_Knowing):
    """Those that were asked least often: of nodes that are always free, no two counts differ by more than one.

    Of more than `WHOLE_MAX` candidates the least asked of some that are drawn: the time does not grow with the fleet.
    """

    def select(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> tuple[NodeId, ...]:
        """Choose the candidates with the fewest assignments; at random among equals."""
        drawn = self._drawn(candidates, count, rng)
        return tuple(sorted(drawn, key=lambda node: self._records(node).asked)[:count])


class ReliableSelector(_Knowing):
    """By availability: likelier the more of its assignments a node has answered (Laplace's rule for unknown ones).

    Weighted sampling without replacement (Efraimidis and Spirakis, doi 10.1016/j.ipl.2005.11.003).
    """

    def select(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> tuple[NodeId, ...]:
        """Choose candidates with probabilities in proportion to (delivered + 1) / (asked + 2)."""

        def key(node: NodeId) -> float:
            record = self._records(node)
            share = (min(record.delivered, record.asked) + 1.0) / (record.asked + 2.0)
            return math.log(max(rng(), 1e-300)) / share

        some = candidates if len(candidates) <= WHOLE_MAX else self._drawn(candidates, count, rng)
        return tuple(sorted(some, key=key, reverse=True)[:count])


class CapableSelector(_Knowing):
    """By measured speed of device and link: the faster of two nodes drawn for each place; unknown ones count as fast.

    Nodes with too little memory, charge or bandwidth are no candidates at all (``round.needs``), and a node declines
    by itself what its owner does not want (``[eligibility]`` and ``[bounds]``). The slower a node, the seldomer it is
    asked; the slowest of all waits until there are few others.
    """

    def select(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> tuple[NodeId, ...]:
        """Choose by pairs, as far as there are two for a place."""
        drawn = self._shuffled(candidates, 2 * count, rng)
        first, second = drawn[:count], drawn[count:]
        pairs = zip(first, second, strict=False)
        faster = [min(pair, key=lambda node: self._records(node).expected_s) for pair in pairs]
        return (*faster, *first[len(faster) :])


def is_able(capabilities: Mapping[str, float] | None, needs: Mapping[str, float]) -> bool:
    """Whether a node has what is needed; what it does not say is not held against it, and mains power is any charge.

    Privacy is not assumed: a node that does not say it may never have heard of it [FED-185].
    """
    has = {PRIVATE_EXAMPLES: 0.0, **({} if capabilities is None else capabilities)}
    charged = has.get("mains", 0.0) > 0
    return all(has.get(name, least) >= least or (name == "battery" and charged) for name, least in needs.items())


class RepeatableSelector:
    """The same nodes in every run of a fleet: each selection ranks the candidates by a hash of its number and the name.

    For experiments: a simulation and real processes ask the same nodes. A restart begins with the first number again.
    """

    def __init__(self) -> None:
        self._number = 0

    def select(self, candidates: Sequence[NodeId], count: int, rng: Rng) -> tuple[NodeId, ...]:
        """Choose the ``count`` candidates of the lowest rank; neither their order nor ``rng`` matters."""
        del rng
        self._number += 1
        return tuple(sorted(candidates, key=self._rank)[:count])

    def _rank(self, node: NodeId) -> tuple[bytes, NodeId]:
        return blake2b(f"{self._number}/{node}".encode(), digest_size=8).digest(), node


SELECTORS: Mapping[str, Callable[[], Selector]] = {
    "uniform": UniformSelector,
    "fair": FairSelector,
    "reliable": ReliableSelector,
    "capable": CapableSelector,
    "repeatable": RepeatableSelector,
}


def make_selector(name: str) -> Selector:
    """Make the selector of a built-in name, or of a dotted path ``package.module:factory``.

    Raises:
        ConfigError: There is no such selector.
    """
    if name in SELECTORS:
        return SELECTORS[name]()
    module, colon, factory = name.partition(":")
    if not colon:
        known = ", ".join(sorted(SELECTORS))
        raise ConfigError("round.selector", f"{name!r} is neither one of {known} nor a path package.module:factory")
    try:
        selector: Selector = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("round.selector", f"{name!r} cannot be loaded: {error}") from error
    return selector
