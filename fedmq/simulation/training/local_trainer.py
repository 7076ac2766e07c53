"""Trains nodes in the process that calls: what is asked of it, and what comes back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Trained, Work
from federation.types import SampledSteps
from update_codec import Accumulator, CodecError, Manifest, Vectors

__all__ = ["LocalTrainer", "Share", "Summed", "TrainedUpdate", "part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Nodes that train from one model, and how much each counts.

    Attributes:
        work: Who trains what.
        weights: One weight per node.
    """

    work: Work
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """What became of one node's update in a sum: its L2 norm and mean loss, or why it failed."""

    node: int
    norm: float = 0.0
    loss: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedUpdate:
    """One node's update; None and a reason where its training failed."""

    node: int
    update: Vectors | None
    num_examples: int
    metrics: dict[str, float]
    pending: Parameters = field(default_factory=dict)
    failure: str | None = None
    spent: SampledSteps | None = None


class LocalTrainer:
    """Does the work in the process that calls.

    Args:
        pool: The nodes.
        manifest: The model.
    """

    def __init__(self, pool: NodePool, manifest: Manifest) -> None:
        self.pool, self._manifest = pool, manifest

    def sum(self, shares: Sequence[Share]) -> tuple[Accumulator, list[Summed]]:
        """The weighted sum of everybody's updates, and what became of each."""
        total, outcomes = Accumulator(self._manifest), list[Summed]()
        for share in shares:
            weights = dict(zip(share.work.nodes, share.weights, strict=True))
            for trained, update in self._updates(share.work):
                outcomes.append(_added(total, trained, update, weights[trained.node]))
        return total, outcomes

    def updates(self, shares: Sequence[Share]) -> list[TrainedUpdate]:
        """Everybody's update."""
        return [
            TrainedUpdate(
                node=trained.node,
                update=update,
                num_examples=trained.num_examples,
                metrics=dict(trained.metrics),
                pending=dict(trained.pending),
                failure=trained.failure,
                spent=trained.spent,
            )
            for share in shares
            for trained, update in self._updates(share.work)
        ]

    def _updates(self, work: Work) -> Iterator[tuple[Trained, Vectors | None]]:
        base = self._manifest.flatten(dict(work.base))
        for trained in self.pool.train([work]):
            failed = trained.failure is not None
            yield trained, None if failed else self._manifest.flatten(dict(trained.parameters)).minus(base)


def _added(total: Accumulator, trained: Trained, update: Vectors | None, weight: float) -> Summed:
    if update is None:
        return Summed(node=trained.node, failure=trained.failure)
    try:
        total.add_vectors(update, weight)
    except CodecError as error:
        return Summed(node=trained.node, failure=str(error))
    norm = float(np.sqrt(np.dot(update.parameters, update.parameters)))
    return Summed(node=trained.node, norm=norm, loss=trained.metrics.get("loss"))


def part(share: Share, place: int, count: int) -> Share:
    """The nodes of a share that train in one worker: always the same one, which has what they keep."""
    own = [
        (node, weight) for node, weight in zip(share.work.nodes, share.weights, strict=True) if node % count == place
    ]
    work = replace(share.work, nodes=tuple(node for node, _ in own))
    return Share(work=work, weights=tuple(weight for _, weight in own))
