"""Train nodes that share one torch model and one data set: one after the other, or several at once.

SCAFFOLD's corrected steps are taken one node after the other (`PartTask`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, TrainResult
from federation.tasks.data.partitioners import Rows
from federation.tasks.data.whole_data import WholeData
from federation.tasks.pool.stacked import Stack, Stacked
from federation.tasks.pool.work import Trained, Work
from federation.tasks.training.local_data import TensorData, as_tensor
from federation.tasks.training.local_sgd import TrainingPlan, is_plain
from federation.tasks.training.local_training import LocalTraining, node_seed
from federation.tasks.training.nonpersistent_state import NonPersistentState
from federation.tasks.training.torch_task import TorchTask
from update_codec import Role

__all__ = ["PartTask", "PartTrainer"]

STACK_BYTES_MAX = 32 << 20
"""Models that are trained at once together take so many bytes at most: what is in the cache is fast."""

NOTHING: Parameters = {}

STACK_NODES_MAX = 256


class PartTrainer:
    """One model, one data set, and the rows of every node.

    Args:
        task: A node's task.
        data: Everybody's data.
        parts: The rows of every node.
        kept: Where what the nodes' tasks keep is held, by node; by default it is ours alone.

    Raises:
        TaskError: The task keeps something at its nodes, which is not simulated.
    """

    def __init__(
        self, task: TorchTask, data: WholeData, parts: Sequence[Rows], kept: dict[int, Parameters] | None = None
    ) -> None:
        if task.local or task.local_norms or task.own_test is not None:
            raise TaskError("the task has layers or test data of each node's own: only real nodes train it")
        self._training, self._parts = LocalTraining(task), parts
        self._task = task
        inputs, targets = data()
        device = self._training.device
        self._inputs, self._targets = (as_tensor(each).detach().to(device) for each in (inputs, targets))
        if not task.gaps:
            TensorData((self._inputs, self._targets), device).refuse_gaps()
        self._rows = [torch.from_numpy(np.ascontiguousarray(rows)).to(device) for rows in parts]
        self._stacked: Stacked | None = None
        self._objection: str | None = None
        self._looked = False
        self._kept: dict[int, Parameters] = {} if kept is None else kept

    def prepare(self) -> None:
        """Everything is loaded already: take a step that is thrown away, as a node does before its first round.

        A node that cannot begin fails alone, where others can.

        Raises:
            TaskError: None can; why the first one cannot.
        """
        first: TaskError | None = None
        for rows in self._rows:
            try:
                self._training.prepare(self._data(rows))
            except TaskError as error:
                first = first or error
            else:
                first = None
                break
        if first is not None:
            raise first
        self._stacked_trainer()

    def _data(self, rows: torch.Tensor) -> TensorData:
        return TensorData((self._inputs[rows], self._targets[rows]), self._training.device)

    def initial_parameters(self, seed: int) -> Parameters:
        """The model's."""
        return self._training.initial_parameters(seed)

    def roles(self) -> dict[str, Role]:
        """The model's."""
        return dict(self._training.roles())

    def train_node(
        self,
        node: int,
        parameters: Parameters,
        settings: TrainSettings,
        correction: Parameters | None = None,
        kept: Parameters = NOTHING,
    ) -> TrainResult:
        """Train as this node's own task does, bit for bit.

        Args:
            node: Its index.
            parameters: The model to begin with.
            settings: The round's.
            correction: SCAFFOLD's.
            kept: What the node keeps for its task.

        Raises:
            TaskError: The parameters or the settings cannot be used, or the training diverged.
        """
        data = self._data(self._rows[node])
        plan = TrainingPlan(settings=settings, seed=0, stop=bool, correction=correction, kept=kept)
        return self._training.train_on(data, node, parameters, plan)

    def train(self, work: Work, *, stacked: bool) -> Iterator[Trained]:
        """Train everybody that this work names."""
        ours = self._task.step is None and self._task.optimizer is None and is_plain(work.settings)
        together = stacked and len(work.nodes) > 1 and ours
        trainer = self._stacked_trainer() if together else None
        if trainer is None:
            yield from (self._one(node, work) for node in work.nodes)
            return
        seeds = [node_seed(work.settings.seed, node) for node in work.nodes]
        rows = [self._rows[node] for node in work.nodes]
        with self._training.guarded(seed=0):
            groups = trainer.groups(rows, work.settings, seeds, self._nodes_at_once(work.base))
            for group in groups:
                if len(group.places) == 1:
                    yield self._one(work.nodes[group.places[0]], work)
                    continue
                with torch.no_grad():  # a loss may have tensors of its own that want a gradient
                    stack = trainer.train(work.base, group, (self._inputs, self._targets), work.settings)
                yield from self._results(work, stack)

    def _nodes_at_once(self, base: Parameters) -> int:
        model_bytes = sum(array.nbytes for array in base.values())
        return max(1, min(STACK_NODES_MAX, STACK_BYTES_MAX // max(1, model_bytes)))

    def _stacked_trainer(self) -> Stacked | None:
        if not self._looked:
            self._looked = True
            with self._training.guarded(seed=0):
                before = NonPersistentState.of(self._training.model.module)
                made = Stacked(self._training.model, self._task.loss)
                self._objection = made.objection(self._inputs[:4], self._targets[:4])
                before.put()  # what a model has kept of it belongs to a transformation that is over
                self._stacked = made if self._objection is None else None
        return self._stacked

    def _results(self, work: Work, stack: Stack) -> Iterator[Trained]:
        for place, index in enumerate(stack.places):
            node = work.nodes[index]
            loss = float(stack.losses[place])
            examples = len(self._parts[node])
            parameters = {name: tensor[place] for name, tensor in stack.parameters.items()}
            finite = np.isfinite(loss) and all(np.isfinite(array).all() for array in parameters.values())
            if finite:
                yield Trained(node=node, parameters=parameters, num_examples=examples, metrics={"loss": loss})
            else:
                why = f"local training diverged: lower learning_rate (it is {work.settings.learning_rate})"
                yield Trained(node=node, parameters={}, num_examples=examples, metrics={}, failure=why)

    def _one(self, node: int, work: Work) -> Trained:
        examples = len(self._parts[node])
        kept = {**self._kept.get(node, {}), **work.states.get(node, {})}
        try:
            result = self.train_node(node, work.base, work.settings, kept=kept)
        except TaskError as error:
            return Trained(node=node, parameters={}, num_examples=examples, metrics={}, failure=str(error))
        self._kept[node] = {**self._kept.get(node, {}), **result.kept}
        return Trained(
            node=node,
            parameters=result.parameters,
            num_examples=examples,
            metrics=result.metrics,
            pending=result.pending,
            spent=result.spent,
        )


class PartTask:
    """One node of it, as a task whose steps can be corrected."""

    reads_only = True

    def __init__(self, trainer: PartTrainer, node: int) -> None:
        self._trainer, self._node = trainer, node

    def initial_parameters(self, seed: int) -> Parameters:
        """See `federation.task.Task`."""
        return self._trainer.initial_parameters(seed)

    def roles(self) -> dict[str, Role]:
        """See `federation.task.Task`."""
        return self._trainer.roles()

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """See `federation.task.Task`; nobody stops a simulated training."""
        del stop
        return self._trainer.train_node(self._node, parameters, settings)

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        """See `federation.task.Correctable`."""
        del stop
        return self._trainer.train_node(self._node, parameters, settings, correction)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """Nothing: a pool evaluates as the coordinator does."""
        del parameters
        return {}
