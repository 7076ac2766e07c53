"""scikit-learn's estimators as tasks: the library trains, scores and predicts; its fitted arrays travel by name.

```python
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from federation.tasks.adapters.scikit_learn import sklearn_task

def build(context):
    x, y = load_iris(return_X_y=True)
    estimator = make_pipeline(StandardScaler(), SGDClassifier())
    return sklearn_task(context, estimator=estimator, data=(x[::2], y[::2]), test_data=(x[1::2], y[1::2]))
```

A round is ``local_epochs`` calls of ``partial_fit`` (of `LogisticRegression` one warm ``fit`` of so many iterations).
Everything else is the estimator's own: learning rate and penalty are what it was made with.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as scores
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.protocol.messages import TrainSettings
from federation.task import TEST_EXAMPLES, Array, Metrics, Parameters, ProgramForm, Stop, TaskContext, TrainResult
from federation.tasks.adapters.scikit_learn_models import Passes, fit, fitted_arrays, loaded, parts, unfitted
from federation.tasks.adapters.scikit_learn_scalers import (
    PREFIX,
    scaler_counts,
    scaler_from,
    scaler_roles,
    scaler_zero,
)
from federation.tasks.data.examples import Examples, gap_in
from federation.tasks.data.table_spec import as_names, twice
from update_codec import Role

__all__ = ["SklearnTask", "sklearn_task"]

LOSS_ROWS: Final = 4096
"""Training rows of which the loss is told with an update."""


def sklearn_task(
    context: TaskContext,
    *,
    estimator: Any,
    data: Any,
    test_data: Any = None,
    classes: Sequence[Any] = (),
    features: int = 0,
) -> "SklearnTask":
    """A task around an estimator.

    Args:
        context: What the factory was given.
        estimator: ``SGDClassifier``, ``SGDRegressor``, ``Perceptron``, ``LogisticRegression``, ``MLPClassifier``,
            ``MLPRegressor``; a ``StandardScaler``, ``MinMaxScaler`` or ``MaxAbsScaler``; or a pipeline of such a
            scaler and such a model.
        data: (inputs, targets) of the whole federation, or a function that gives this node's own.
        test_data: The same kinds; None evaluates nothing.
        classes: All labels there are, or the names of the numbers 0, 1, …: the same on every node. Not needed where
            ``data`` is of the whole federation, nor for a regression.
        features: How many columns the inputs have; not needed where ``data`` is of the whole federation.

    Raises:
        TaskError: The estimator is none of these, or the classes are no list of different names.
    """
    if double := twice(as_names(classes, "classes")):
        raise TaskError(f"classes has {double!r} twice")
    scaler, model = parts(estimator)
    return SklearnTask(Examples(context, data, test_data), model, scaler, tuple(classes), features)


@dataclass
class SklearnTask:
    """See `sklearn_task`.

    Attributes:
        examples: What is trained on and evaluated on.
        model: The unfitted model, or None where there is only a scaler.
        scaler: The unfitted scaler, or None.
        classes: Names of the classes, as they were given.
        features: Number of columns; 0 asks the data.
        picture: Inputs are no pictures.
        kept: What of this node's counts is in the scaler already.
    """

    examples: Examples
    model: Any
    scaler: Any = None
    classes: Sequence[Any] = ()
    features: int = 0
    picture: PictureInput | None = field(default=None, init=False)
    kept: Parameters = field(default_factory=dict, init=False, repr=False)
    _fresh: Any = field(default=None, init=False, repr=False)

    def initial_parameters(self, seed: int) -> Parameters:
        """A model that has seen nothing: linear ones begin at zero, networks as the library draws them."""
        with _told():
            arrays = {} if self.scaler is None else dict(scaler_zero(self.scaler, self._columns))
            return (
                arrays
                if self.model is None
                else arrays | fitted_arrays(unfitted(self.model, self._columns, self._names, seed))
            )

    def roles(self) -> Mapping[str, Role]:
        """A scaler's sums are added as they are; ``t_``, how many examples were seen, is a counter."""
        return {} if self.scaler is None else scaler_roles(self.scaler)

    def prepare(self) -> None:
        """Read and check this node's data.

        Raises:
            TaskError: It cannot be used.
        """
        with _told():
            self._checked(self.examples.training)

    def columns_unsaid(self) -> Sequence[str]:
        """The columns of this node's own data frame, in their order, once it was read."""
        return self.examples.columns_unsaid()

    def column_names(self) -> Sequence[str]:
        """The numbers of the inputs' columns.

        Raises:
            TaskError: Nobody has said how many there are.
        """
        return tuple(map(str, range(self._columns)))

    def rows(self) -> Array:
        """This node's inputs, of shape (rows, columns), before any scaling.

        Raises:
            TaskError: They cannot be read.
        """
        with _told():
            return self._checked(self.examples.training)[0]

    def restore(self, state: Parameters) -> None:
        """Take what of this node's counts is in the scaler already."""
        self.kept = state

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Count what the scaler wants to know, and train where it knows enough.

        Raises:
            TaskError: The data or the settings cannot be used, or the training diverged.
        """
        if settings.proximal_mu:
            raise TaskError("scikit-learn's steps have no proximal term: proximal_mu must be 0, so not fedprox")
        with _told():
            inputs, targets = self._checked(self.examples.training)
            arrays, counts = dict(parameters), self._counts(parameters)
            metrics: Metrics = {}
            if self.model is not None and (scaled := self._scaled(parameters, inputs)) is not None:
                model = self._loaded(parameters, settings.seed + self._seed, scaled.dtype)
                fit(model, scaled, targets, Passes(settings, stop, self._names))
                arrays |= fitted_arrays(model)
                metrics = {"loss": self._loss(model, scaled[:LOSS_ROWS], targets[:LOSS_ROWS])}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise TaskError("local training diverged: lower the estimator's learning rate (eta0), or scale the inputs")
        pending = {name: counts[name] for name in self.roles()}
        return TrainResult(parameters={**arrays, **counts}, num_examples=len(inputs), metrics=metrics, pending=pending)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """The library's score: ``accuracy`` of a classifier, ``r2`` of a regression; and the loss.

        Raises:
            TaskError: The data or the parameters cannot be used.
        """
        with _told():
            found = None if self.model is None else self.examples.evaluation
            if found is None:
                return {}
            inputs, targets = self._checked(found)
            if (scaled := self._scaled(parameters, inputs)) is None:
                return {}
            model = self._loaded(parameters, 0, scaled.dtype)
            metrics = {"loss": self._loss(model, scaled, targets)}
            if is_classifier(model):
                metrics["accuracy"] = float(model.score(scaled, targets))
            elif len(targets) > 1:
                metrics["r2"] = float(model.score(scaled, targets))
            on_a_node = self.examples.context.node_index is not None
            return metrics | ({TEST_EXAMPLES: float(len(targets))} if on_a_node else {})

    def fitted(self, parameters: Parameters) -> Any:
        """The estimator as the library would have fitted it: a model, a scaler, or a pipeline of both.

        Raises:
            TaskError: Nothing has been counted yet for the scaler.
        """
        with _told():
            scaler = self._fitted_scaler(parameters)
            if self.scaler is not None and scaler is None:
                raise TaskError("the scaler has counted nothing yet: a round must be committed first")
            model = None if self.model is None else self._loaded(parameters, 0, np.dtype(np.float64))
            if model is not None:
                model.set_params(**self.model.get_params())
        if scaler is None or model is None:
            return scaler if model is None else model
        return Pipeline([("scaler", scaler), ("model", model)])

    def predict(self, parameters: Parameters, inputs: Array) -> Array:
        """Probabilities or scores of the classes where the model has them, else its answers: float32 of shape (n, …).

        The classes are in the order in which they were given; the library's own is that of their names.

        Raises:
            TaskError: The inputs or the parameters cannot be used.
        """
        estimator = self.fitted(parameters)
        with _told():
            for method in ("predict_proba", "decision_function", "predict", "transform"):
                if hasattr(estimator, method):
                    return self._in_given_order(np.asarray(getattr(estimator, method)(inputs), np.float32), method)
        raise TaskError(f"{type(estimator).__name__} predicts nothing")

    def _in_given_order(self, found: Array, method: str) -> Array:
        """Scores of the classes in the order of ``classes``; what is no score of classes stays as it is."""
        if not len(self.classes) or method not in {"predict_proba", "decision_function"}:
            return found
        order = [int(np.flatnonzero(self._names == each)[0]) for each in np.asarray(self.classes)]
        if found.ndim == 2:
            return found[:, order]
        # One score for each row: how much more the second class fits than the first one.
        return found if order[0] == 0 else np.negative(found)

    def export(self, parameters: Parameters, form: ProgramForm, notes: Mapping[str, str]) -> bytes:  # noqa: ARG002 - what is not offered has no use for them
        """Not offered.

        Raises:
            TaskError: Always; it says what to do instead.
        """
        raise TaskError(
            f"a scikit-learn model is not written as {form}: export it as .safetensors, and give its arrays to fitted()"
        )

    def _counts(self, parameters: Parameters) -> Parameters:
        """What this node adds to the sums, and the extremes of everybody so far."""
        if self.scaler is None:
            return {}
        found: dict[str, Array] = {}
        for name, own in self._own_counts.items():
            if name in self.roles():
                before = self.kept.get(name)
                found[name] = own if before is None else np.subtract(own, before)
            else:
                found[name] = np.maximum(own, parameters[name])
        return found

    @cached_property
    def _own_counts(self) -> Parameters:
        return scaler_counts(self.scaler, self._checked(self.examples.training)[0])

    def _fitted_scaler(self, parameters: Parameters) -> Any | None:
        if self.scaler is None:
            return None
        arrays = {name: array for name, array in parameters.items() if name.startswith(PREFIX)}
        return scaler_from(self.scaler, arrays)

    def _scaled(self, parameters: Parameters, inputs: NDArray[Any]) -> NDArray[Any] | None:
        """The inputs as the model takes them; None while the scaler has counted nothing."""
        if self.scaler is None:
            return inputs
        scaler = self._fitted_scaler(parameters)
        return None if scaler is None else np.asarray(scaler.transform(inputs))

    def _loaded(self, parameters: Parameters, seed: int, dtype: np.dtype[Any]) -> Any:
        """A model with these parameters, ready for more of the library's steps."""
        # The library's first call costs more than a small round.
        if self._fresh is None:
            self._fresh = unfitted(self.model, self._columns, self._names, 0)
        model = copy.deepcopy(self._fresh)
        if self.model.random_state is None:
            model.set_params(random_state=seed % 2**32)
        return loaded(model, parameters, dtype)

    def _loss(self, model: Any, inputs: NDArray[Any], targets: NDArray[Any]) -> float:
        if not is_classifier(model):
            return float(scores.mean_squared_error(targets, model.predict(inputs)))
        if hasattr(model, "predict_proba"):
            return float(scores.log_loss(targets, model.predict_proba(inputs), labels=model.classes_))
        return float(scores.hinge_loss(targets, model.decision_function(inputs), labels=model.classes_))

    def _checked(self, pair: tuple[Array, Array]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs of shape (n, columns), float32 or float64; targets of shape (n,)."""
        inputs, targets = pair
        if inputs.ndim != 2 or inputs.shape[1] != self._columns:
            raise TaskError(f"the inputs have the shape {list(inputs.shape)}, and (rows, {self._columns}) is wanted")
        if (gap := gap_in(pair)) is not None:
            raise TaskError(gap)
        if self.model is None:
            return inputs.astype(np.float64), targets
        if targets.size != len(targets):
            raise TaskError(f"one target per row is wanted, and the targets have the shape {list(targets.shape)}")
        targets = targets.reshape(len(targets))
        if is_classifier(self.model):
            targets = self._named(targets)
        return inputs if inputs.dtype in (np.float32, np.float64) else inputs.astype(np.float64), targets

    @property
    def _seed(self) -> int:
        return 7919 * (self.examples.context.node_index or 0)

    @cached_property
    def _columns(self) -> int:
        if self.features:
            return self.features
        known = self.examples.known()
        if known is None:
            raise TaskError("each node has data of its own: say features=, how many columns the inputs have")
        if np.ndim(known[0]) != 2:
            raise TaskError(f"the inputs have the shape {list(np.shape(known[0]))}, and (rows, columns) is wanted")
        return int(np.shape(known[0])[1])

    @cached_property
    def _names(self) -> NDArray[Any] | None:
        """All labels, sorted as the library sorts them; None for a regression."""
        if not is_classifier(self.model):
            return None
        known = self.examples.known()
        if not self.classes and known is None:
            raise TaskError("each node has data of its own: say classes=, all labels there are, the same on every node")
        names = np.unique(np.asarray(self.classes) if self.classes else known[1])  # type: ignore[index]
        if len(names) < 2:
            raise TaskError(f"a classifier needs two classes at least, not {len(names)}")
        return names

    def _named(self, targets: NDArray[Any]) -> NDArray[Any]:
        """The labels by their names: a data set may have the numbers of ``classes`` in their place.

        Raises:
            TaskError: A label is none of the classes.
        """
        names: Any = self._names
        numbered = names.dtype.kind in "US" and targets.dtype.kind in "iu"
        in_order = np.asarray(self.classes) if len(self.classes) else names
        known = np.isin(targets, np.arange(len(names)) if numbered else names)
        if not known.all():
            row, said = int(np.argmin(known)), ", ".join(map(str, range(len(names)) if numbered else names))
            raise TaskError(f"row {row} has the label {targets[row]}, and the classes are {said}")
        return np.asarray(in_order[targets]) if numbered else targets


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the library or the data raise into `TaskError`."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
        raise TaskError(f"scikit-learn or the task's data failed: {type(error).__name__}: {error}") from error
