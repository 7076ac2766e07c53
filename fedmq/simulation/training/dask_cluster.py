"""The workers of a Dask scheduler as a cluster (the extra ``dask``)."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from federation.errors import ConfigError, FederationError
from federation.tasks.pool.node_pool import NodePool
from fedmq.simulation.training.cluster import OPTION, WAIT_S, Job, Outcome, checked, once_more
from fedmq.simulation.training.shipping import Recipe, check_releases, need, releases, remote_run, thin
from update_codec import Manifest

__all__ = ["DaskCluster"]


class DaskCluster:
    """The workers of a Dask scheduler (the extra ``dask``)."""

    def __init__(self, place: str, workers: int, heard: Callable[[str], None]) -> None:
        self.name = f"dask://{place}"
        self._place, self._workers, self._heard = place, workers, heard
        self._client: Any = None
        self._own: Any = None
        self._recipe = Recipe()
        self._placed: Any = None

    def start(self, pool: NodePool, manifest: Manifest) -> None:
        """See `Cluster`."""
        need("distributed", "dask")
        import distributed  # noqa: PLC0415 - an extra

        self._recipe = Recipe.of(pool, manifest)
        address = self._place
        try:
            if self._place == "local":
                self._own = distributed.LocalCluster(
                    n_workers=self._workers, threads_per_worker=1, dashboard_address=":0", protocol="tcp://"
                )
                address = self._own.scheduler_address
            self._client = distributed.Client(address, timeout=WAIT_S, set_as_default=False)
            self._client.wait_for_workers(1, timeout=WAIT_S)
        except (OSError, TimeoutError) as error:
            self.close()
            how = f"start one with `dask worker {self._place} --nthreads 1`"
            problem = f"no worker has come to {self._place}: {how} ({error})"
            raise ConfigError(OPTION, problem, source="command line") from error
        self._placed = self._place_once(self._recipe.packed)
        for worker, theirs in self._client.run(releases).items():
            check_releases(theirs, worker)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """See `Cluster`."""
        import distributed  # noqa: PLC0415 - an extra

        found: dict[int, Outcome] = {}
        lost = 0
        while len(found) < len(jobs):
            futures = self._submitted({index: job for index, job in enumerate(jobs) if index not in found})
            for future in self._finished(futures):
                if future.status == "finished":
                    found[futures[future]] = checked(future.result())
                elif future.status == "error" and not isinstance(future.exception(), distributed.KilledWorker):
                    raise FederationError(f"{self.name}: {future.exception()!r}")
            if len(found) < len(jobs):
                lost = once_more(lost)
        return [found[index] for index in range(len(jobs))]

    def close(self) -> None:
        """See `Cluster`."""
        for each in (self._client, self._own):
            if each is not None:
                each.close()
        self._client = self._own = self._placed = None

    def _submitted(self, jobs: Mapping[int, Job]) -> dict[Any, int]:
        """Each job's future; models travel to each worker once, whatever the number of its parts."""
        slim = thin(jobs.values())
        models = [self._place_once(model) for model in slim.models]
        task = partial(self._client.submit, remote_run, self._recipe.digest, self._placed, pure=False)
        return {task(job, models): index for index, job in zip(jobs, slim.jobs, strict=True)}

    def _place_once(self, value: Any) -> Any:
        """What workers hand on to each other; where the last one that has it dies, the scheduler still knows it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            return self._client.submit(_same, value, pure=False)

    def _finished(self, futures: Mapping[Any, int]) -> Iterator[Any]:
        """Each when it is done, lost or failed; ends early where workers are there and none of them has any of it."""
        done: SimpleQueue[Any] = SimpleQueue()
        for future in futures:
            future.add_done_callback(done.put)
        left, told = len(futures), False
        while left:
            try:
                yield done.get(timeout=WAIT_S)
                left -= 1
            except Empty:
                if self._client.scheduler_info()["workers"]:
                    working = {str(key) for keys in self._client.processing().values() for key in keys}
                    if working.isdisjoint(str(future.key) for future in futures):
                        return
                elif not told:
                    self._heard(f"no worker is left at {self._place}; waiting for one")
                    told = True


def _same(value: Any) -> Any:
    return value
