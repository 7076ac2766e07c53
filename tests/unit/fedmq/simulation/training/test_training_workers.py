"""The processes that train: each ends with the one that started it."""

import multiprocessing
from multiprocessing.process import BaseProcess

import pytest

from federation.errors import FederationError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work
from federation.tasks.registry import load_task
from fedmq.simulation.training.training_workers import Trainers
from update_codec import Manifest

LIMIT_S = 30.0
NODES = 4


@pytest.fixture(name="pool")
def _pool() -> NodePool:
    return NodePool(load_task("quadratic"), TaskContext(node_index=None, node_count=NODES, device="cpu"))


def make(pool: NodePool) -> Trainers:
    return Trainers(pool, Manifest.of(dict(pool.initial_parameters(0)), pool.roles()), workers=2)


def started(before: list[BaseProcess]) -> list[BaseProcess]:
    return [process for process in multiprocessing.active_children() if process not in before]


def test_each_ends_by_itself_when_the_pipe_is_closed(pool: NodePool) -> None:
    before = multiprocessing.active_children()
    with make(pool) as trainers:
        work = Work(nodes=tuple(range(NODES)), base=pool.initial_parameters(0), settings=TrainSettings())
        assert sorted(update.node for update in trainers.updates(work)) == [0, 1, 2, 3]
        workers = started(before)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_none_is_kept_alive_by_another_that_is_stuck_or_killed(pool: NodePool) -> None:
    before = multiprocessing.active_children()
    with make(pool) as trainers:
        first, second = started(before)
        first.kill()
        first.join(LIMIT_S)
        work = Work(nodes=tuple(range(NODES)), base=pool.initial_parameters(0), settings=TrainSettings())
        with pytest.raises(FederationError, match="a process that trains has ended"):
            trainers.updates(work)
    assert {first.exitcode, second.exitcode} == {-9, 0}
