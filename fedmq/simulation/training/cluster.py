"""Simulated nodes train on a cluster: processes of this machine, Dask's workers, or Ray's.

The nodes of a round are divided into parts that do not depend on how many workers there are. A part depends on the
model, the settings and what its nodes have kept, all of which travel with it; sums are exact in any order. So a worker
that dies has its part run again elsewhere, and the model is the same, to the bit, on one worker or on many of one kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from federation.errors import FederationError
from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from fedmq.simulation.training.local_trainer import LocalTrainer, Share, part
from update_codec import Manifest

__all__ = [
    "ENDED",
    "LOST_MAX",
    "OPTION",
    "WAIT_S",
    "Cluster",
    "Job",
    "Outcome",
    "checked",
    "divide",
    "once_more",
    "run_job",
]

NODES_PER_PART = 4
PARTS_MAX = 32

LOST_MAX = 20
"""So often may one part lose its worker: with more, the part itself ends it, by its memory for example."""

WAIT_S = 60.0
"""How long the first worker may take to come, and after which time without a result is looked whether one is left."""

OPTION: Final = "--cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One part of a round: the method of `LocalTrainer`, its argument, and what the nodes of it have kept."""

    method: str
    shares: tuple[Share, ...]
    kept: Mapping[int, Parameters]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the method gave, and what the nodes have kept since."""

    result: Any
    kept: Mapping[int, Parameters]


class Cluster(Protocol):
    """Runs parts of rounds somewhere.

    Attributes:
        name: As the user calls it.
    """

    name: str

    def start(self, pool: NodePool, manifest: Manifest) -> None:
        """Find workers, and place the task and its data on each of them once.

        Raises:
            ConfigError: There is none, or its releases differ from those here.
        """
        ...

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All of them, in this order, each run again where its worker died.

        Raises:
            FederationError: A part fails, or takes its worker with it again and again.
        """
        ...

    def close(self) -> None:
        """Leave it; what was started for it ends."""
        ...


def divide(shares: Sequence[Share], method: str, kept: Mapping[int, Parameters]) -> list[Job]:
    """The parts of what is asked: by node, and whatever the number of workers, always the same."""
    asked = sum(len(share.work.nodes) for share in shares)
    count = max(1, min(PARTS_MAX, asked // NODES_PER_PART))
    jobs = []
    for place in range(count):
        own = tuple(found for share in shares if (found := part(share, place, count)).work.nodes)
        nodes = {node for share in own for node in share.work.nodes}
        if own:
            jobs.append(Job(method=method, shares=own, kept={node: kept[node] for node in nodes if node in kept}))
    return jobs


def run_job(trainer: LocalTrainer, job: Job) -> Outcome:
    """Train as if what the job brings were all that its nodes have ever kept."""
    kept = trainer.pool.kept
    kept.clear()
    kept.update(job.kept)
    return Outcome(result=getattr(trainer, job.method)(job.shares), kept=dict(kept))


def checked(found: Outcome | FederationError) -> Outcome:
    """What a worker answers: errors of ours travel as values, because a cluster runs a part again that raises.

    Raises:
        FederationError: It is one.
    """
    if isinstance(found, FederationError):
        raise found
    return found


ENDED: Final = "a worker has ended again and again while it trained the same nodes; is there enough memory?"


def once_more(lost: int) -> int:
    """One more round has lost workers.

    Raises:
        FederationError: That has been so too often.
    """
    if lost + 1 > LOST_MAX:
        raise FederationError(ENDED)
    return lost + 1
