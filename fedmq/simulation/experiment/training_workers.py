"""Where simulated nodes train: in this process, or divided among forked ones that share the data in memory."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from federation.errors import ConfigError, FederationError
from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Trained, Work
from federation.types import SampledSteps
from update_codec import Accumulator, CodecError, Manifest, Vectors

__all__ = ["Failures", "Share", "Summed", "TrainedUpdate", "Trainers"]

STOP_S = 10.0
"""How long a worker may take to end, in seconds."""


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


@dataclass(slots=True)
class Failures:
    """Trainings that came to nothing.

    Attributes:
        last: Why each node's last one did, by index; nobody's whose last one served.
        count: How many there were.
        by_node: How often each reason was met, by node.
        news: What has not been told yet: each node and reason once.
    """

    last: dict[int, str] = field(default_factory=dict)
    count: int = 0
    by_node: dict[int, Counter[str]] = field(default_factory=dict)
    news: list[tuple[int, str]] = field(default_factory=list)

    def add(self, node: int, reason: str) -> None:
        """One more."""
        self.last[node], self.count = reason, self.count + 1
        known = self.by_node.setdefault(node, Counter())
        if reason not in known:
            self.news.append((node, reason))
        known[reason] += 1

    def served(self, node: int) -> None:
        """A training of this node came to something."""
        self.last.pop(node, None)


class Trainers:
    """Trains and sums; use it as a context manager.

    Args:
        pool: The nodes.
        manifest: The model.
        workers: Processes; with 1 there is no other.

    Raises:
        ConfigError: This system cannot fork.
    """

    def __init__(self, pool: NodePool, manifest: Manifest, workers: int = 1) -> None:
        if workers > 1 and "fork" not in multiprocessing.get_all_start_methods():
            raise ConfigError("--workers", "this system cannot fork: use 1", source="command line")
        self._local, self._count = _Local(pool, manifest), workers
        self._pool, self._manifest = pool, manifest
        self._workers: list[tuple[Any, Connection]] = []

    def __enter__(self) -> Self:
        """Load the data, and start the processes."""
        self._pool.prepare()
        if self._count > 1:
            context = multiprocessing.get_context("fork")
            for _ in range(self._count):
                here, there = context.Pipe()
                # A fork inherits this side of all pipes; while it holds one, that worker never sees it close.
                inherited = [connection for _, connection in self._workers] + [here]
                process = context.Process(target=_serve, args=(self._local, there, inherited), daemon=True)
                process.start()
                there.close()
                self._workers.append((process, here))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        for process, connection in self._workers:
            connection.close()
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers = []

    def sum(self, shares: Sequence[Share]) -> tuple[Accumulator, list[Summed]]:
        """The weighted sum of everybody's updates, exact in any order, and what became of each."""
        total, outcomes = Accumulator(self._manifest), list[Summed]()
        for part, told in self._everywhere("sum", shares):
            total.merge(part)
            outcomes += told
        return total, outcomes

    def updates(self, work: Work) -> list[TrainedUpdate]:
        """Everybody's update."""
        shares = [Share(work=work, weights=tuple(1.0 for _ in work.nodes))]
        return [update for found in self._everywhere("updates", shares) for update in found]

    def _everywhere(self, method: str, shares: Sequence[Share]) -> list[Any]:
        if not self._workers:
            return [getattr(self._local, method)(shares)]
        asked = []
        for place, (_, connection) in enumerate(self._workers):
            part = [_part(share, place, len(self._workers)) for share in shares]
            part = [share for share in part if share.work.nodes]
            if part:
                _ask(connection, (method, part))
                asked.append(connection)
        return [_answer(connection) for connection in asked]


class _Local:
    """Does the work in the process that calls."""

    def __init__(self, pool: NodePool, manifest: Manifest) -> None:
        self._pool, self._manifest = pool, manifest

    def sum(self, shares: Sequence[Share]) -> tuple[Accumulator, list[Summed]]:
        total, outcomes = Accumulator(self._manifest), list[Summed]()
        for share in shares:
            weights = dict(zip(share.work.nodes, share.weights, strict=True))
            for trained, update in self._updates(share.work):
                outcomes.append(_added(total, trained, update, weights[trained.node]))
        return total, outcomes

    def updates(self, shares: Sequence[Share]) -> list[TrainedUpdate]:
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
        for trained in self._pool.train([work]):
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


def _part(share: Share, place: int, count: int) -> Share:
    """The nodes of a share that train in one worker: always the same one, which has what they keep."""
    own = [
        (node, weight) for node, weight in zip(share.work.nodes, share.weights, strict=True) if node % count == place
    ]
    work = replace(share.work, nodes=tuple(node for node, _ in own))
    return Share(work=work, weights=tuple(weight for _, weight in own))


_ENDED = "a process that trains has ended; is there enough memory?"


def _ask(connection: Connection, question: object) -> None:
    try:
        connection.send(question)
    except OSError:
        raise FederationError(_ENDED) from None


def _answer(connection: Connection) -> Any:
    try:
        found = connection.recv()
    except (EOFError, OSError):
        raise FederationError(_ENDED) from None
    if isinstance(found, FederationError):
        raise found
    return found


def _serve(local: _Local, connection: Connection, inherited: Sequence[Connection]) -> None:
    """A worker's life: answer until the other end is closed."""
    for other in inherited:
        other.close()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            method, shares = connection.recv()
            connection.send(_done(local, method, shares))


def _done(local: _Local, method: str, shares: Sequence[Share]) -> object:
    try:
        return getattr(local, method)(shares)
    except (FederationError, OSError) as error:
        return FederationError(str(error))
