"""Which cluster ``--cluster`` names."""

from collections.abc import Callable
from typing import Final

from federation.errors import ConfigError
from fedmq.simulation.training.cluster import OPTION, Cluster
from fedmq.simulation.training.dask_cluster import DaskCluster
from fedmq.simulation.training.local_cluster import LocalCluster
from fedmq.simulation.training.ray_cluster import RayCluster

__all__ = ["open_cluster"]

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
