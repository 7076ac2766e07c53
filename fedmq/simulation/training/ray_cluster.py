"""The workers of a Ray cluster (the extra ``ray``)."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from federation.errors import ConfigError, FederationError
from federation.tasks.pool.node_pool import NodePool
from fedmq.simulation.training.cluster import ENDED, LOST_MAX, OPTION, Job, Outcome, checked
from fedmq.simulation.training.shipping import Recipe, check_releases, need, releases, remote_run, thin
from update_codec import Manifest

__all__ = ["RayCluster"]


class RayCluster:
    """The workers of a Ray cluster (the extra ``ray``)."""

    def __init__(self, place: str, workers: int) -> None:
        self.name = f"ray://{place}"
        self._place, self._workers = place, workers
        self._recipe = Recipe()
        self._placed: Any = None
        self._remote: Any = None

    def start(self, pool: NodePool, manifest: Manifest) -> None:
        """See `Cluster`."""
        need("ray", "ray")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
        import ray  # noqa: PLC0415 - an extra

        self._recipe = Recipe.of(pool, manifest)
        place: dict[str, Any] = {"address": "auto" if self._place == "auto" else self.name}
        if self._place == "local":
            place = {"address": "local", "num_cpus": self._workers, "include_dashboard": False}
        try:
            ray.init(**place, log_to_driver=False, logging_level="error")
        except (OSError, ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ConfigError(
                OPTION, f"there is no Ray cluster at {self._place}: {error}", source="command line"
            ) from (error)
        # The reference keeps what was placed: without it Ray forgets the data.
        self._placed = ray.put(self._recipe.packed)
        self._remote = ray.remote(max_retries=LOST_MAX, num_cpus=1)(remote_run)
        check_releases(ray.get(ray.remote(releases).remote()), self.name)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """See `Cluster`."""
        import ray  # noqa: PLC0415 - an extra

        slim = thin(jobs)
        models = [ray.put(model) for model in slim.models]
        asked = [self._remote.remote(self._recipe.digest, self._placed, job, None, *models) for job in slim.jobs]
        try:
            return [checked(found) for found in ray.get(asked)]
        except ray.exceptions.WorkerCrashedError as error:
            raise FederationError(ENDED) from error
        except ray.exceptions.RayError as error:
            raise FederationError(f"{self.name}: {error}") from error

    def close(self) -> None:
        """See `Cluster`."""
        self._placed = None
        if (ray := sys.modules.get("ray")) is not None:
            ray.shutdown()
