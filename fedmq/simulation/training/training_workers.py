"""Divides the training of simulated nodes: this process, forked ones that share the data in memory, or a cluster."""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

from federation.errors import ConfigError, FederationError
from federation.runtime.log import said_while_slow
from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work
from fedmq.simulation.training.cluster import OPTION, Cluster, Job, divide
from fedmq.simulation.training.dask_cluster import DaskCluster
from fedmq.simulation.training.local_cluster import LocalCluster
from fedmq.simulation.training.local_trainer import LocalTrainer, Share, Summed, TrainedUpdate, part
from fedmq.simulation.training.ray_cluster import RayCluster
from update_codec import Accumulator, Manifest

__all__ = ["Failures", "Trainers", "open_cluster"]

STOP_S = 10.0
"""How long a worker may take to end, in seconds."""


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
        cluster: Trains in our place, whatever ``workers`` says.

    Raises:
        ConfigError: This system cannot fork.
    """

    def __init__(self, pool: NodePool, manifest: Manifest, workers: int = 1, cluster: Cluster | None = None) -> None:
        if cluster is None and workers > 1 and "fork" not in multiprocessing.get_all_start_methods():
            raise ConfigError("--workers", "this system cannot fork: use 1", source="command line")
        self._local, self._count = LocalTrainer(pool, manifest), workers
        self._pool, self._manifest, self._cluster = pool, manifest, cluster
        self._kept: dict[int, Parameters] = {}
        self._workers: list[tuple[Any, Connection]] = []

    def __enter__(self) -> Self:
        """Load the data, and start the processes."""
        if self._cluster is not None:
            try:
                self._cluster.start(self._pool, self._manifest)
            except BaseException:
                self._cluster.close()
                raise
            return self
        with said_while_slow("loading the task's data"):
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
        if self._cluster is not None:
            self._cluster.close()
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
        for subtotal, told in self._everywhere("sum", shares):
            total.merge(subtotal)
            outcomes += told
        return total, outcomes

    def updates(self, work: Work) -> list[TrainedUpdate]:
        """Everybody's update."""
        shares = [Share(work=work, weights=tuple(1.0 for _ in work.nodes))]
        return [update for found in self._everywhere("updates", shares) for update in found]

    def _everywhere(self, method: str, shares: Sequence[Share]) -> list[Any]:
        if self._cluster is not None:
            return self._on_cluster(self._cluster, divide(shares, method, self._kept))
        if not self._workers:
            return [getattr(self._local, method)(shares)]
        asked = []
        for place, (_, connection) in enumerate(self._workers):
            own = [part(share, place, len(self._workers)) for share in shares]
            own = [share for share in own if share.work.nodes]
            if own:
                _ask(connection, (method, own))
                asked.append(connection)
        return [_answer(connection) for connection in asked]

    def _on_cluster(self, cluster: Cluster, jobs: Sequence[Job]) -> list[Any]:
        """What nodes keep comes back with each part; one that is lost has kept nothing."""
        outcomes = cluster.run(jobs)
        for outcome in outcomes:
            self._kept.update(outcome.kept)
        return [outcome.result for outcome in outcomes]


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


def _serve(local: LocalTrainer, connection: Connection, inherited: Sequence[Connection]) -> None:
    """A worker's life: answer until the other end is closed."""
    for other in inherited:
        other.close()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            method, shares = connection.recv()
            connection.send(_done(local, method, shares))


def _done(local: LocalTrainer, method: str, shares: Sequence[Share]) -> object:
    try:
        return getattr(local, method)(shares)
    except (FederationError, OSError) as error:
        return FederationError(str(error))


_SCHEMES: Final = "local, dask://HOST:PORT, dask://local, ray://HOST:PORT, ray://auto or ray://local"


def open_cluster(address: str, workers: int, heard: Callable[[str], None]) -> Cluster:
    """The cluster of ``--cluster``; nothing is started yet.

    Args:
        address: ``local``, ``dask://HOST:PORT``, ``ray://HOST:PORT``, ``ray://auto``; ``dask://local`` and
            ``ray://local`` start one on this machine.
        workers: How many processes a cluster on this machine has.
        heard: Hears in words what is waited for.

    Raises:
        ConfigError: There is no such kind.
    """
    kind, separator, place = address.partition("://")
    if address == "local":
        return LocalCluster(workers)
    if separator and place and kind == "dask":
        return DaskCluster(place, workers, heard)
    if separator and place and kind == "ray":
        return RayCluster(place, workers)
    raise ConfigError(OPTION, f"{address!r} is none of {_SCHEMES}", source="command line")
