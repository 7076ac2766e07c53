"""What travels to a worker in another process: the task once, unprepared; models once a round; parts without them."""

import hashlib
import pickle
import sys
import sysconfig
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np

from federation.errors import ConfigError, FederationError
from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from fedmq.simulation.training.cluster import OPTION, Job, Outcome, run_job
from fedmq.simulation.training.local_trainer import LocalTrainer, Share
from update_codec import Manifest

__all__ = ["Recipe", "Thin", "check_releases", "need", "releases", "remote_run", "thin"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The nodes and the model as bytes, not prepared, and their digest: a worker keeps what it has made of them."""

    packed: bytes = b""
    digest: str = ""

    @classmethod
    def of(cls, pool: NodePool, manifest: Manifest) -> "Recipe":
        """Of these nodes; a task in a file of the user's travels as code."""
        import cloudpickle  # noqa: PLC0415 - comes with Dask and with Ray

        build = pool.__getstate__()[0]
        module = sys.modules.get(getattr(build, "__module__", ""))
        alone = module is not None and _is_only_here(module)
        if alone:
            cloudpickle.register_pickle_by_value(module)
        try:
            packed = cloudpickle.dumps((pool, manifest))
        finally:
            if alone:
                cloudpickle.unregister_pickle_by_value(module)
        return cls(packed, hashlib.sha256(packed).hexdigest())


@dataclass(frozen=True, slots=True)
class Thin:
    """Jobs without their models, and each model once: ``base`` has its place under this name."""

    jobs: list[Job]
    models: list[Parameters]


_PLACE: Final = ""
"""No tensor has this name; the number under it is the model's place."""


def thin(jobs: Iterable[Job]) -> Thin:
    """Take the models out."""
    places: dict[int, int] = {}
    models: list[Parameters] = []
    thin = []
    for job in jobs:
        shares = []
        for share in job.shares:
            place = places.setdefault(id(share.work.base), len(models))
            if place == len(models):
                models.append(share.work.base)
            shares.append(Share(work=replace(share.work, base={_PLACE: np.array(place)}), weights=share.weights))
        thin.append(replace(job, shares=tuple(shares)))
    return Thin(thin, models)


def _whole(job: Job, models: Sequence[Parameters]) -> Job:
    shares = [
        Share(work=replace(share.work, base=models[int(share.work.base[_PLACE])]), weights=share.weights)
        for share in job.shares
    ]
    return replace(job, shares=tuple(shares))


_trainers: dict[str, LocalTrainer] = {}
"""Of a worker's process: what it has made of the newest recipe."""

_one_at_a_time = threading.Lock()
"""A worker with several threads has one model."""


def remote_run(
    digest: str, packed: bytes, job: Job, models: Sequence[Parameters] | None, *more: Parameters
) -> Outcome | FederationError:
    """What a worker of Dask or Ray does; errors of ours are told as values, because others would be tried again."""
    with _one_at_a_time:
        try:
            trainer = _trainers.get(digest)
            if trainer is None:
                pool, manifest = pickle.loads(packed)  # noqa: S301 - from the program that started this run
                pool.prepare()
                _trainers.clear()
                trainer = _trainers[digest] = LocalTrainer(pool, manifest)
            return run_job(trainer, _whole(job, more if models is None else models))
        except (FederationError, OSError) as error:
            return FederationError(str(error))


def need(module: str, extra: str) -> None:
    """Look whether an extra is installed.

    Raises:
        ConfigError: It is not.
    """
    if util.find_spec(module) is None:
        problem = f"needs {module}: pip install 'fedmq[{extra}]'"
        raise ConfigError(OPTION, problem, source="command line")


def _is_only_here(module: ModuleType) -> bool:
    """Whether it is a file of the user's: neither of a package nor installed, so that a worker need not have it."""
    file, name = getattr(module, "__file__", None), module.__name__
    if file is None or "." in name or name == "__main__":
        return False
    return not any(Path(file).is_relative_to(folder) for folder in sysconfig.get_paths().values())


def releases() -> dict[str, str]:
    """Of what the bits of a model depend on."""
    return {name: metadata.version(name) for name in ("fedmq", "numpy", "torch")}


def check_releases(theirs: Mapping[str, str], worker: str) -> None:
    """Another release of what computes gives other bits.

    Raises:
        ConfigError: A worker has one.
    """
    for name, ours in releases().items():
        if theirs.get(name) != ours:
            problem = f"{worker} has {name} {theirs.get(name)}, and here it is {ours}: install the same on both"
            raise ConfigError(OPTION, problem, source="command line")
