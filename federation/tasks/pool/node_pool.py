"""Many nodes' training in one process, with one copy of the data: what a simulation trains with.

Arrays go in and out, as everywhere at this boundary. Each node's result is that of its own `TorchTask` in a process of
its own: bit for bit when nodes are trained one after the other, within rounding when they are stacked (`stacked.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from federation.contract import Wanted, checked_metrics, checked_result, given_arrays
from federation.errors import TaskError, user_code
from federation.inputs import Describable, Inputs, agree
from federation.process_state import process_state_kept
from federation.protocol.limits import fit_metrics
from federation.task import Metrics, Parameters, Private, Stateful, Task, TaskContext, TaskFactory, prepare
from federation.tasks.data.partitioners import Rows
from federation.tasks.data.whole_data import WholeData, refuse_another
from federation.tasks.pool.work import Trained, Work
from federation.tasks.scaffold import scaffolded
from federation.tasks.training.torch_task import TorchTask
from federation.types import Digest
from update_codec import Role
from update_codec.manifest import STAYS

if TYPE_CHECKING:
    from federation.tasks.pool.part_training import PartTrainer

__all__ = ["NodePool"]

_never = bool
"""Called without arguments it is False: nobody stops a simulated training."""


class NodePool:
    """All nodes of one federation.

    Args:
        build: The task's factory.
        context: Number of nodes, data, device, seed and partition; its ``node_index`` does not matter.
        stacked: Train several nodes at once where the model, the data and the settings allow it.
        controlled: Train under SCAFFOLD, one node after the other.

    Attributes:
        kept: What tasks keep at their nodes from one training to the next, by index. Who trains in several processes
            hands it on with the node.
    """

    def __init__(
        self, build: TaskFactory, context: TaskContext, *, stacked: bool = True, controlled: bool = False
    ) -> None:
        self._build, self.context, self._stacked, self._controlled = build, context, stacked, controlled
        self._tasks: dict[int, Task] = {}
        self.kept: dict[int, Parameters] = {}

    def __getstate__(self) -> tuple[TaskFactory, TaskContext, bool, bool]:
        """A copy for another process is not prepared: tensors that travel are no longer the module's parameters."""
        return self._build, self.context, self._stacked, self._controlled

    def __setstate__(self, state: tuple[TaskFactory, TaskContext, bool, bool]) -> None:
        build, context, stacked, controlled = state
        self.__init__(build, context, stacked=stacked, controlled=controlled)  # type: ignore[misc]

    @cached_property
    def server(self) -> Task:
        """The coordinator's task: it has the initial model and the test."""
        task = self._build(replace(self.context, node_index=None))
        return scaffolded(task) if self._controlled else task

    @cached_property
    def _shared(self) -> "tuple[TorchTask, WholeData] | None":
        """The task and data that all nodes share; None where each node has its own."""
        task = self._build(replace(self.context, node_index=0))
        if not isinstance(task, TorchTask) or task.local or task.local_norms or task.own_test is not None:
            return None
        data = WholeData.of(task.train_data)
        if data is None:
            return None
        refuse_another(task.train_data, getattr(self.server, "train_data", None))
        return task, data

    @cached_property
    def _parts(self) -> list[Rows] | None:
        if self._shared is None:
            return None
        task, data = self._shared
        return data.parts(task.context, task.split)

    @cached_property
    def _described(self) -> tuple[Digest | None, str | None]:
        """What the inputs mean, as far as the coordinator knows it."""
        server = self.server
        found = server.inputs() if isinstance(server, Describable) else Inputs()
        return (found.digest, found.to_text()) if found.known else (None, None)

    def initial_parameters(self, seed: int) -> Parameters:
        """Version 0."""
        return self.server.initial_parameters(seed)

    def roles(self) -> Mapping[str, Role]:
        """The task's."""
        return self.server.roles()

    def evaluate(self, parameters: Parameters) -> Metrics:
        """Evaluate as the coordinator does."""
        with user_code("the evaluation failed"), process_state_kept():
            return checked_metrics(self.server.evaluate(parameters))

    def num_examples(self, node: int) -> int | None:
        """The node's weight, where it is known before it trains."""
        return None if self._parts is None else len(self._parts[node])

    def private_objection(self) -> str | None:
        """Why nodes cannot train with differential privacy for each example, or None; the first one is looked at.

        Raises:
            TaskError: The data cannot be read.
        """
        if self._controlled:
            return "SCAFFOLD sends controls, too"
        task = self._task(0) if self._shared is None else self._shared[0]
        return task.private_objection() if isinstance(task, Private) else "the task does not know of it"

    def prepare(self) -> None:
        """Read the shared data, and divide it: what is forked later shares it."""
        if self._shared is not None:
            self._trainer.prepare()

    def train(self, work: Iterable[Work]) -> Iterator[Trained]:
        """Train everybody; in an order of its own, a few at a time, so that memory is bounded."""
        for each in work:
            if self._shared is None or self._controlled:
                yield from (self._train_alone(node, each) for node in each.nodes)
            else:
                yield from self._trainer.train(each, stacked=self._stacked)

    @cached_property
    def _trainer(self) -> "PartTrainer":
        assert self._shared is not None  # noqa: S101 - the callers have looked
        assert self._parts is not None  # noqa: S101 - as above
        from federation.tasks.pool.part_training import PartTrainer  # noqa: PLC0415 - torch costs seconds and 200 MB

        return PartTrainer(*self._shared, self._parts, self.kept)

    def _task(self, node: int) -> Task:
        if node not in self._tasks:
            task = self._part(node) if self._shared is not None else self._build(replace(self.context, node_index=node))
            prepare(task)
            agree(task, *self._described)
            self._tasks[node] = scaffolded(task) if self._controlled else task
        return self._tasks[node]

    def _part(self, node: int) -> Task:
        from federation.tasks.pool.part_training import PartTask  # noqa: PLC0415 - as above

        return PartTask(self._trainer, node)

    def _wanted(self, given: Parameters) -> Wanted:
        """What a node that gets these tensors has to give back."""
        return Wanted({name: array for name, array in given.items() if name not in self._stays}, self._stays)

    @cached_property
    def _stays(self) -> frozenset[str]:
        return frozenset(name for name, role in self.roles().items() if role in STAYS)

    def _train_alone(self, node: int, work: Work) -> Trained:
        try:
            with user_code(f"the training of node {node} failed"), process_state_kept():
                task = self._task(node)
                if isinstance(task, Stateful):
                    task.restore({**self.kept.get(node, {}), **work.states.get(node, {})})
                given = {**work.base, **work.controls}
                result = task.train(given_arrays(task, given), work.settings, _never)
            result = checked_result(result, self._wanted(given))
        except TaskError as error:
            return Trained(node=node, parameters={}, num_examples=1, metrics={}, failure=str(error))
        if result.kept:
            self.kept[node] = {**self.kept.get(node, {}), **result.kept}
        return Trained(
            node=node,
            parameters=result.parameters,
            num_examples=result.num_examples,
            metrics=fit_metrics(result.metrics),
            pending={} if self._controlled else result.pending,
            spent=result.spent,
        )
