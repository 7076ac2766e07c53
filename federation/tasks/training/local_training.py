"""What `TorchTask` does once torch is loaded: one model, reused between rounds, trained and evaluated."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from numbers import Real

import numpy as np
import torch
from torch import nn

from federation.errors import TaskError, user_code
from federation.privacy.budget import turn_of
from federation.privacy.noise import KEY_BYTES
from federation.protocol.messages import TrainSettings
from federation.task import TEST_EXAMPLES, Array, Metrics, Parameters, ProgramForm, Stop, TrainResult
from federation.tasks.data.frames import ByName, by_name, columns_of
from federation.tasks.training.batches import Batch, Reading, inputs_of, output_of
from federation.tasks.training.exporting import Example, two_rows, write_program, zeros_for
from federation.tasks.training.local_data import (
    EVALUATION_BATCH,
    LocalData,
    TensorData,
    as_tensor,
    evaluation_data,
    first_batch,
    held_out,
    local_data,
    own_data,
)
from federation.tasks.training.local_model import LocalModel, arrays_of, choose_device, module_of, seeded
from federation.tasks.training.local_sgd import TrainingPlan, train_locally, try_step
from federation.tasks.training.metrics import Evaluation, refuse_miscounted
from federation.tasks.training.nonpersistent_state import (
    JUDGED,
    NonPersistentState,
    refuse_nonpersistent,
    refuse_unseeded,
)
from federation.tasks.training.own_steps import OwnTraining
from federation.tasks.training.personal import PersonalLayers, local_names
from federation.tasks.training.private_sgd import private_objection, train_privately
from federation.tasks.training.spec import TorchTaskSpec
from federation.tasks.training.tensors import Layout, layout_of
from federation.types import ExamplePrivacy
from update_codec import Role


class LocalTraining:
    """The loaded state of one `TorchTask`; not safe for use by two threads at once."""

    def __init__(self, task: TorchTaskSpec) -> None:
        """Choose the device; model and data are made on first use."""
        self._task = task
        self.device = choose_device(task.context.device)
        self._judged = 0  # trainings that have shown that no prediction depends on what does not travel
        self.secret: Callable[[], bytes] = lambda: os.urandom(KEY_BYTES)  # a private turn's, used once

    def initial_parameters(self, seed: int) -> Parameters:
        """A fresh model's tensors, drawn from the seed alone.

        What never changes must be the same in every run, since nobody sends it. Where it depends on the seed, all of
        the model is drawn from seed 0, so that what belongs together stays together.
        """
        with seeded(seed):
            module = self._made()
        layout = self._layout(module)
        names = local_names(module, layout, self._task.local, norms=self._task.local_norms)
        arrays = arrays_of(module)
        if layout.constants and seed != 0:
            del module
            with seeded(0):
                first = arrays_of(self._made())
            if any(first[name].tobytes() != arrays[name].tobytes() for name in layout.constants):
                arrays = first
        return {name: array for name, array in arrays.items() if layout.tied.get(name, name) not in names}

    def _made(self) -> nn.Module:
        return module_of(self._task)

    def _layout(self, module: nn.Module) -> Layout:
        return layout_of(module, self._task.constant, self._task.changing)

    @property
    def _own(self) -> OwnTraining:
        return OwnTraining(step=self._task.step, optimizer=self._task.optimizer)

    @property
    def keeps_layers(self) -> bool:
        """Whether some of the model never leaves a node."""
        return bool(self._personal.names)

    def roles(self) -> Mapping[str, Role]:
        """Roles of the buffers that travel."""
        local, tied = self._personal.names, self.model.layout.tied
        return {name: role for name, role in self.model.roles().items() if tied.get(name, name) not in local}

    def prepare(self, data: LocalData | None = None) -> None:
        """Make the model, read the data (or take another node's) and run a step on two examples, which is undone."""
        with self.guarded(seed=0):
            batches = (self._train_data if data is None else data).in_order(2)
            batch = first_batch(batches, "the training data of this node")
            with seeded(0):
                predict = partial(output_of, self._task.loss, batch)
                refuse_unseeded(self.model.module, self.model.layout, self._made, predict)
            before = NonPersistentState.of(self.model.module)
            refuse_miscounted(self._task, self.model.module, batch)
            try_step(self.model, self._task.loss, batch, self._own)
            # Other rows, where there are any: what was made of the batch itself would be made of it again.
            self._refuse_nonpersistent(before, next(batches, batch))
            before.put()
            if self._task.own_test is not None:
                first_batch(self._own_test.in_order(1), "the node's own test data")

    def _refuse_nonpersistent(self, before: NonPersistentState, batch: Batch) -> None:
        """Refuse what training has changed and nobody hears of."""
        module = self.model.module.eval()
        with torch.no_grad():
            refuse_nonpersistent(module, before, partial(output_of, self._task.loss, batch, module))

    def forget_data(self) -> None:
        """Read the data again when it is needed."""
        for name in ("_own_split", "_test_data"):
            self.__dict__.pop(name, None)

    def _renew_data(self) -> None:
        if self._task.is_live:
            self.forget_data()

    def read_columns(self) -> tuple[str, ...]:
        """Names of the inputs' columns, where this node's training data is a frame: it is read for them.

        Raises:
            TaskError: It cannot be read.
        """
        train = self._task.train_data
        if isinstance(train, ByName) and "_own_split" not in self.__dict__:
            with self.guarded(seed=0):
                self._train_data  # noqa: B018 - reading it tells them
        return columns_of(train)

    def inputs(self) -> Array:
        """The inputs of this node's training data as they are now, in one array; see `inputs_of`."""
        self._renew_data()
        with self.guarded(seed=0):
            return inputs_of(self._train_data.in_order(EVALUATION_BATCH))

    def train(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters | None = None
    ) -> TrainResult:
        """See `TorchTask.train` and `TorchTask.train_corrected`."""
        seed = node_seed(settings.seed, self._task.context.node_index or 0)
        self._renew_data()
        with self.guarded(seed=0):
            data, correction = self._train_data, self._personal.without_correction(correction)
        plan = TrainingPlan(
            settings=settings, seed=seed, stop=stop, correction=correction, own=self._own, kept=self._task.kept
        )
        return self._train_on(data, parameters, plan)

    def train_on(
        self,
        data: LocalData,
        node: int,
        parameters: Parameters,
        plan: TrainingPlan,
    ) -> TrainResult:
        """Train as the node of this index, on its data; nobody stops it.

        Args:
            data: The node's.
            node: Its index.
            parameters: The model to begin with.
            plan: As for any node; seed and own steps are this node's and task's.
        """
        plan = replace(plan, seed=node_seed(plan.settings.seed, node), own=self._own)
        return self._train_on(data, parameters, plan)

    def private_objection(self) -> str | None:
        """See `TorchTask.private_objection`."""
        with self.guarded(seed=0):
            return self._objection(self._train_data)

    def _objection(self, data: LocalData) -> str | None:
        if self._task.step is not None or self._task.optimizer is not None:
            return "the task has a step or an optimizer of its own, which sees gradients before the noise"
        return private_objection(self.model, self._task.loss, data)

    def _train_privately(
        self, data: LocalData, parameters: Parameters, plan: TrainingPlan, privacy: ExamplePrivacy
    ) -> TrainResult:
        """Nothing of the data leaves beside the update: no metric, no number of examples."""
        personal, task = self._personal, self._task
        with self.guarded(plan.seed):
            objection = self._objection(data)
            if objection is not None or plan.correction is not None:
                raise TaskError(f"no training with differential privacy: {objection or 'SCAFFOLD sends controls, too'}")
            self.model.load(personal.join(parameters, plan.kept))
            outcome = train_privately(self.model, task.loss, data, plan, self.secret())
            arrays = self.model.dump()
        return TrainResult(
            parameters=personal.shared(arrays),
            num_examples=1,
            steps=outcome.steps,
            spent=turn_of(plan.settings, privacy),
            kept=personal.kept(arrays),
        )

    def _train_on(self, data: LocalData, parameters: Parameters, plan: TrainingPlan) -> TrainResult:
        if plan.settings.privacy is not None:
            return self._train_privately(data, parameters, plan, plan.settings.privacy)
        personal, task = self._personal, self._task
        with self.guarded(plan.seed):
            first = personal.join(parameters, plan.kept)
            self.model.load(first)
            before = self._own_metrics("global")
            kept = None if self._judged >= JUDGED else NonPersistentState.of(self.model.module)
            outcome = train_locally(self.model, task.loss, data, plan)
            arrays = self.model.dump()
            if outcome.took_none:
                self.model.refuse_unmoved(first, arrays)
            if kept is not None:
                self._refuse_nonpersistent(kept, first_batch(data.in_order(2), "the training data of this node"))
                self._judged += 1
            after = self._own_metrics("personal", plan)
        return TrainResult(
            parameters=personal.shared(arrays),
            num_examples=max(1, data.num_examples),
            metrics={"loss": outcome.loss, **before, **after},
            steps=outcome.steps,
            kept={**personal.kept(arrays), **outcome.kept},
            pending=outcome.pending,
        )

    def _own_metrics(self, whose: str, finetune: TrainingPlan | None = None) -> Metrics:
        """The model at hand on this node's own test split, after fine-tuning where a plan is given."""
        if self._task.own_test is None or (finetune is not None and not self._finetuned(finetune)):
            return {}
        named = {f"{whose}_{name}": value for name, value in self._measured(self._own_test).items()}
        return named | {TEST_EXAMPLES: float(self._own_test.num_examples)}

    def _finetuned(self, like: TrainingPlan) -> bool:
        """Train on, for this node alone; False where that diverges, which must not cost the update."""
        epochs = self._task.finetune_epochs
        settings = replace(like.settings, local_epochs=max(1, epochs), max_steps=0, proximal_mu=0.0)
        plan = replace(like, settings=settings, seed=like.seed + 1, correction=None, kept={})
        try:
            if epochs and not like.stop():
                train_locally(self.model, self._task.loss, self._train_data, plan)
        except TaskError:
            return False
        return True

    def _measured(self, data: LocalData) -> Metrics:
        self.model.module.eval()
        # Not inference_mode: what a model keeps for later of such a pass could never be trained on.
        with torch.no_grad():
            return self._evaluation.measure(Reading.of(self.model.module, self._task.loss), data)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """See `TorchTask.evaluate`."""
        self._renew_data()
        with self.guarded(seed=0):
            self.model.load(self._personal.join(parameters, self._task.kept))
            data = self._test_data
            if data is None:
                return {}
            on_a_node = self._task.context.node_index is not None
            return {**self._measured(data), **({TEST_EXAMPLES: float(data.num_examples)} if on_a_node else {})}

    def evaluate_own(self, parameters: Parameters) -> Metrics:
        """The same on this node's own test split."""
        self._renew_data()
        with self.guarded(seed=0):
            self.model.load(self._personal.join(parameters, self._task.kept))
            data = self._own_test
            return {**self._measured(data), TEST_EXAMPLES: float(data.num_examples)}

    def predict(self, parameters: Parameters, inputs: Array) -> Array:
        """See `TorchTask.predict`."""
        with self.guarded(seed=0):
            self.model.load(parameters)
            self.model.module.eval()
            with torch.no_grad():
                return np.asarray(self.model.module(as_tensor(inputs, fine=False).to(self.device)).cpu().numpy())

    def module_with(self, parameters: Parameters) -> torch.nn.Module:
        """See `TorchTask.module_with`."""
        with self.guarded(seed=0):
            model = LocalModel(self._made(), torch.device("cpu"), self._task.constant, self._task.changing)
            model.load(parameters)
            return model.module.eval()

    def complete(self, parameters: Parameters) -> Parameters:
        """See `TorchTask.complete`."""
        with self.guarded(seed=0):
            on_a_node = self._task.context.node_index is not None
            self.model.load(self._personal.join(parameters, self._task.kept) if on_a_node else parameters)
            return arrays_of(self.model.module)

    def export(self, parameters: Parameters, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
        """See `TorchTask.export`."""
        if missing := self._personal.names - parameters.keys():
            where = "the whole model is on each node (edge-node model), and what is shared goes to a .safetensors file"
            raise TaskError(f"{', '.join(sorted(missing))}: layers that each node keeps for itself; {where}")
        # A model of its own: whatever tracing leaves in it is gone with it.
        module = self.module_with(parameters)
        with self.guarded(seed=0):
            return write_program(module, self._example(module), form, notes)

    def _example(self, module: torch.nn.Module) -> Example:
        """Two inputs to trace with: one would be taken for the only number there can be."""
        task = self._task
        if task.picture is not None:
            return (torch.zeros(2, *task.picture.shape),), {}
        if task.test_data is not None:
            try:
                # Any two will do: a node may have none of its own to evaluate on.
                batch = first_batch(own_data(task.test_data, torch.device("cpu")).in_order(2), "the test data")
                places, names = Reading.of(module, task.loss).inputs(batch)
                return two_rows(places, names)
            except Exception:  # another machine may have the data
                if task.input_shape is None:
                    raise
        if task.input_shape is None:
            raise TaskError("to export this model its input must be known: give TorchTask(input_shape=...)")
        return (zeros_for(module, task.input_shape),), {}

    @contextmanager
    def guarded(self, seed: int) -> Iterator[None]:
        """Set torch's threads, seed and gradients, and turn what the user's model or data raise into `TaskError`."""
        index = self._task.context.node_index
        where = "" if index is None else f" on node {index}"
        if self._task.threads:
            # OpenMP's setting belongs to the calling thread: the worker that trains must make it itself.
            torch.set_num_threads(self._task.threads)
        with user_code(f"the task's model, data or loss failed{where}"), seeded(seed, self.device):
            yield

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self._task.metrics, accuracy=self._task.accuracy)

    @property
    def model(self) -> LocalModel:
        """The one model that is trained and evaluated, round after round."""
        return self._model_and_personal[0]

    @cached_property
    def _model_and_personal(self) -> tuple[LocalModel, PersonalLayers]:
        """The model, and its local tensors before anything is trained."""
        with seeded(0):
            model = LocalModel(self._made(), self.device, self._task.constant, self._task.changing)
        names = local_names(model.module, model.layout, self._task.local, norms=self._task.local_norms)
        return model, PersonalLayers(names, arrays_of(model.module) if names else {})

    @property
    def _personal(self) -> PersonalLayers:
        return self._model_and_personal[1]

    @property
    def _train_data(self) -> LocalData:
        return self._own_split[0]

    @property
    def _own_test(self) -> LocalData:
        return self._own_split[1]

    @cached_property
    def _own_split(self) -> tuple[LocalData, LocalData]:
        """This node's data to train on, and its own test data (the same where there is none)."""
        task = self._task
        data = self._without_gaps(local_data(task.train_data, task.context, self.device, task.split))
        if task.own_test is None:
            return data, data
        if isinstance(task.own_test, Real):
            return held_out(data, float(task.own_test), task.context.seed)
        test = by_name(task.own_test, columns_of(task.train_data))
        return data, self._without_gaps(local_data(test, task.context, self.device, task.split), "own test ")

    @cached_property
    def _test_data(self) -> LocalData | None:
        task = self._task
        # Both in the order of the training data, where both are frames.
        test = by_name(task.test_data, columns_of(task.train_data))
        data = evaluation_data(test, task.train_data, task.context, self.device, task.split)
        return None if data is None else self._without_gaps(data, "test ")

    def _without_gaps(self, data: LocalData, whose: str = "") -> LocalData:
        """The data, looked at where that costs no pass over what is read lazily."""
        if isinstance(data, TensorData) and not self._task.gaps:
            data.refuse_gaps(whose, columns_of(self._task.train_data))
        return data


def node_seed(seed: int, node_index: int) -> int:
    """A seed of its own for each node and round: a sum would give node 1 of one round node 0's of the next."""
    return int(np.random.SeedSequence([abs(seed), node_index]).generate_state(1, np.uint64)[0] >> 1)
