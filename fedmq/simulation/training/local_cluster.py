"""A cluster of forked processes of this machine."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from federation.errors import ConfigError, FederationError
from federation.tasks.pool.node_pool import NodePool
from fedmq.simulation.training.cluster import OPTION, Job, Outcome, checked, once_more, run_job
from fedmq.simulation.training.local_trainer import LocalTrainer
from update_codec import Manifest

__all__ = ["LocalCluster"]


class LocalCluster:
    """Processes of this machine, forked: they share the data in memory."""

    name = "local"

    def __init__(self, workers: int) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ConfigError(OPTION, "this system cannot fork: take dask://local", source="command line")
        self._workers = workers
        self._trainer: LocalTrainer | None = None
        self._executor: ProcessPoolExecutor | None = None

    def start(self, pool: NodePool, manifest: Manifest) -> None:
        """See `Cluster`."""
        pool.prepare()
        self._trainer = LocalTrainer(pool, manifest)
        self._executor = self._made()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """See `Cluster`."""
        found: dict[int, Outcome] = {}
        lost = 0
        while len(found) < len(jobs):
            futures: dict[int, Future[Outcome | FederationError]] = {}
            try:
                for index in (index for index in range(len(jobs)) if index not in found):
                    futures[index] = self._running.submit(_inherited_run, jobs[index])
                for index, future in futures.items():
                    found[index] = checked(future.result())
            except BrokenProcessPool:
                # What others had finished by then counts; the rest runs again.
                found |= {index: checked(one.result()) for index, one in futures.items() if _succeeded(one)}
                lost = once_more(lost)
                self.close()
                self._executor = self._made()
        return [found[index] for index in range(len(jobs))]

    def close(self) -> None:
        """See `Cluster`."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    @property
    def _running(self) -> ProcessPoolExecutor:
        assert self._executor is not None  # noqa: S101 - started
        return self._executor

    def _made(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("fork")
        assert self._trainer is not None  # noqa: S101 - started
        # A fork is given what the pool holds as it is: nothing is pickled.
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=partial(_inherit, self._trainer))


_inherited: list[LocalTrainer] = []
"""Of a worker's process."""


def _inherit(trainer: LocalTrainer) -> None:
    _inherited.append(trainer)


def _inherited_run(job: Job) -> Outcome | FederationError:
    try:
        return run_job(_inherited[0], job)
    except (FederationError, OSError) as error:
        return FederationError(str(error))


def _succeeded(future: "Future[Outcome | FederationError]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
