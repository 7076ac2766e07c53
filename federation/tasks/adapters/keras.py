"""Keras 3 models as tasks, on whatever backend Keras runs: the library fits, evaluates and predicts.

```python
import keras
from federation.tasks.adapters.keras import keras_task

def model():
    made = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return made

def build(context):
    x, y = ...
    return keras_task(context, model=model, data=(x, y))
```

Arrays are named by place, layer and weight. Moving statistics are averaged, frozen layers stay at home, and the states
of random generators and optimizers are the node's own and begin anew.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import keras
import numpy as np

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TEST_EXAMPLES, Metrics, Parameters, Stop, TaskContext, TrainResult
from federation.tasks.data.examples import Examples, gap_in
from update_codec import Role

__all__ = ["KerasTask", "keras_task"]

MOVING: Final = ("moving_mean", "moving_variance")
"""Names of the weights that Keras moves without training them."""

_COUNT: Final = re.compile(r"_\d+$")


def keras_task(
    context: TaskContext,
    *,
    model: Callable[[], keras.Model],
    data: Any,
    test_data: Any = None,
) -> "KerasTask":
    """A task around a compiled model.

    Args:
        context: What the factory was given.
        model: Makes the model, built and compiled: its loss, optimizer and metrics are used. The run's learning rate
            takes the place of the optimizer's.
        data: (inputs, targets) of the whole federation, or a function that gives this node's own.
        test_data: The same kinds; None evaluates nothing.
    """
    return KerasTask(Examples(context, data, test_data), model)


@dataclass
class KerasTask:
    """See `keras_task`.

    Attributes:
        examples: What is trained on and evaluated on.
        make: Makes the model.
    """

    examples: Examples
    make: Callable[[], keras.Model]

    def initial_parameters(self, seed: int) -> Parameters:
        """The model's weights, drawn from this seed; where some are frozen from seed 0, so that all have the same."""
        with _told():
            frozen = Role.CONSTANT in self.roles().values()
            model = self._first if frozen else _made(self.make, seed)
            return {name: np.array(weight) for name, weight in _weights(model).items()}

    def roles(self) -> Mapping[str, Role]:
        """Moving statistics are statistics; other weights that are not trained are constants."""
        with _told():
            still = [(name, weight.name) for name, weight in _weights(self._first).items() if not weight.trainable]
        return {name: Role.STATISTIC if last in MOVING else Role.CONSTANT for name, last in still}

    def prepare(self) -> None:
        """Read this node's data and run the model on two rows.

        Raises:
            TaskError: It cannot be used.
        """
        with _told():
            inputs, targets = self.examples.training
            self._model.evaluate(inputs[:2], targets[:2], verbose=0)
            self._begin(0)

    def columns_unsaid(self) -> Sequence[str]:
        """The columns of this node's own data frame, in their order, once it was read."""
        return self.examples.columns_unsaid()

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """``fit`` for ``local_epochs``; ``stop`` is asked after each batch.

        Raises:
            TaskError: The data, the parameters or the settings cannot be used, or the training diverged.
        """
        if settings.proximal_mu:
            raise TaskError("Keras' fit has no proximal term: proximal_mu must be 0, so not fedprox")
        with _told():
            inputs, targets = self.examples.training
            model = self._loaded(parameters)
            self._begin(settings.seed + 7919 * (self.examples.context.node_index or 0))
            with suppress(TypeError):  # a schedule of the user's stays
                model.optimizer.learning_rate = settings.learning_rate
            watch = _Watch(stop, settings.max_steps)
            size = settings.batch_size or len(inputs)
            history = model.fit(
                inputs, targets, batch_size=size, epochs=settings.local_epochs, verbose=0, callbacks=[watch]
            )
            arrays = {name: np.array(weight) for name, weight in _weights(model).items() if name in parameters}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            gap = gap_in((np.asarray(inputs), np.asarray(targets)))
            raise TaskError(f"local training diverged: {gap or f'lower learning_rate ({settings.learning_rate})'}")
        metrics = {name: float(values[-1]) for name, values in history.history.items() if np.isfinite(values[-1])}
        return TrainResult(parameters=arrays, num_examples=len(inputs), metrics=metrics)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """The library's ``evaluate``: ``loss`` and the metrics that the model was compiled with.

        Raises:
            TaskError: The data or the parameters cannot be used.
        """
        with _told():
            found = self.examples.evaluation
            if found is None:
                return {}
            results = self._loaded(parameters).evaluate(*found, verbose=0, return_dict=True)
            metrics = {name: float(value) for name, value in results.items()}
            on_a_node = self.examples.context.node_index is not None
            return metrics | ({TEST_EXAMPLES: float(len(found[0]))} if on_a_node else {})

    def fitted(self, parameters: Parameters) -> keras.Model:
        """The model with these weights, for Keras to predict with or to save.

        Raises:
            TaskError: They are not those of the model.
        """
        with _told():
            return self._loaded(parameters)

    @cached_property
    def _first(self) -> keras.Model:
        """What is drawn from seed 0; nobody trains it."""
        return _made(self.make, 0)

    @cached_property
    def _model(self) -> keras.Model:
        """The one that is trained, round after round: it is compiled once."""
        model = _made(self.make, 0)
        model.optimizer.build(model.trainable_variables)
        return model

    @cached_property
    def _fresh(self) -> list[Any]:
        """The optimizer before any step."""
        return [np.array(variable) for variable in self._model.optimizer.variables]

    def _begin(self, seed: int) -> None:
        """Optimizer and random generators as at the first step of a model with this seed."""
        for variable, value in zip(self._model.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(seed % 2**32)
        for variable in self._model.variables:
            if variable.path.endswith("seed_generator_state"):
                variable.assign(np.array([seed % 2**32, 0], np.uint32))

    def _loaded(self, parameters: Parameters) -> keras.Model:
        weights = _weights(self._model)
        frozen = {name for name, role in self.roles().items() if role is Role.CONSTANT}
        if different := sorted((weights.keys() - frozen) ^ (parameters.keys() - frozen)):
            raise TaskError(f"these are not the model's weights: {', '.join(different[:4])}")
        for name, weight in weights.items():
            if name in parameters:
                weight.assign(np.array(parameters[name]))
        return self._model


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a fit that is stopped, or has taken its steps."""

    def __init__(self, stop: Stop, steps: int) -> None:
        super().__init__()
        self._stop, self._left = stop, steps or np.inf

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Asked after each batch."""
        del batch, logs
        self._left -= 1
        if self._left <= 0 or self._stop():
            self.model.stop_training = True


def _made(make: Callable[[], keras.Model], seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed % 2**32)
    model = make()
    if not model.built or not getattr(model, "compiled", False):
        raise TaskError("the model must be built (give it a keras.Input) and compiled with a loss")
    return model


def _weights(model: keras.Model) -> dict[str, Any]:
    """Weights by place, layer and name (``0.dense.kernel``): the numbers that Keras gives to layers count up."""
    named = [(weight.path.split("/")[-2:-1] or ["model"], weight) for weight in model.weights]
    return {f"{place}.{_COUNT.sub('', layer[0])}.{one.name}": one for place, (layer, one) in enumerate(named)}


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the library or the user's functions raise into `TaskError`."""
    try:
        yield
    except (TaskError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise TaskError(f"the task's model or data failed: {type(error).__name__}: {error}") from error
