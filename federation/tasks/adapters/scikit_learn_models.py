"""scikit-learn's models between rounds: fresh, with given arrays, and some of the library's steps further.

The names of the arrays are the library's own: ``coef_``, ``intercept_``, ``t_``; of a network ``coefs_.0`` and on.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Array, Parameters, Stop
from federation.tasks.adapters.scikit_learn_scalers import PREFIX, is_scaler

__all__ = ["Passes", "fit", "fitted_arrays", "loaded", "parts", "unfitted"]

STEP_ROWS: Final = 8192
"""Rows of one call of ``partial_fit``: between two calls the task may be stopped."""

_NO_STEP: Final = 1e-300
"""A learning rate that changes no weight."""

_TRAINED = (SGDClassifier, SGDRegressor, Perceptron, LogisticRegression, MLPClassifier, MLPRegressor)
_NETWORKS = (MLPClassifier, MLPRegressor)


@dataclass(frozen=True)
class Passes:
    """How to train.

    Attributes:
        settings: Passes, rows per step, limit of steps.
        stop: Asked between two calls of the library.
        labels: All classes; None for a regression.
    """

    settings: TrainSettings
    stop: Stop
    labels: NDArray[Any] | None


def parts(estimator: Any) -> tuple[Any, Any]:
    """Scaler and model of an estimator; None where it has none.

    Raises:
        TaskError: It is nothing that can be averaged or counted.
    """
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    scalers, models = [each for each in steps if is_scaler(each)], [each for each in steps if not is_scaler(each)]
    if len(scalers) > 1 or len(models) > 1 or (scalers and models and steps[0] is not scalers[0]):
        raise TaskError("a pipeline is one scaler and one model behind it: do other steps before, in the data function")
    if models:
        _check_model(models[0])
    return (scalers or [None])[0], (models or [None])[0]


def _check_model(model: Any) -> None:
    if isinstance(model, type):
        raise TaskError(f"estimator is the class {model.__name__}: give an object of it, {model.__name__}()")
    if not isinstance(model, _TRAINED) or type(model).__name__.endswith("CV"):
        names = ", ".join(each.__name__ for each in _TRAINED)
        raise TaskError(f"{type(model).__name__} cannot be averaged: there are {names}, and scalers")
    if getattr(model, "average", False):
        raise TaskError("average= keeps a second set of weights, which does not travel: leave it out")
    if isinstance(model, LogisticRegression):
        if model.solver == "liblinear":
            raise TaskError("the solver liblinear cannot go on from given weights: take another, such as lbfgs")
    elif not hasattr(model, "partial_fit"):
        raise TaskError(f"{type(model).__name__} with solver={model.solver!r} has no partial_fit: take adam or sgd")


def fit(model: Any, inputs: NDArray[Any], targets: NDArray[Any], passes: Passes) -> None:
    """Train on, by the library's own steps; inputs are float32 or float64 of shape (n, columns)."""
    settings = passes.settings
    if isinstance(model, LogisticRegression):
        model.set_params(max_iter=settings.max_steps or max(1, settings.local_epochs))
        _fit_warmly(model, *_with_all(inputs, targets, passes.labels))
        return
    batch = 1
    if isinstance(model, _NETWORKS):
        batch = (settings.batch_size or len(inputs)) if model.batch_size == "auto" else model.batch_size
    left = settings.max_steps * batch or max(1, settings.local_epochs) * len(inputs)
    rng = np.random.default_rng(model.random_state)
    while left > 0:
        for rows in _pieces(len(inputs), batch, rng if model.shuffle else None):
            if left <= 0 or passes.stop():
                return
            rows, left = rows[:left], left - len(rows[:left])  # noqa: PLW2901 - the last piece is cut
            if isinstance(model, _NETWORKS):
                model.set_params(batch_size=min(batch, len(rows)))
            known = {} if passes.labels is None else {"classes": passes.labels}
            model.partial_fit(inputs[rows], targets[rows], **known)


def _pieces(count: int, batch: int, rng: np.random.Generator | None) -> Iterator[NDArray[np.int64]]:
    """The rows of one pass; few enough rows go at once, in the order that the library then shuffles itself."""
    size = max(batch, STEP_ROWS // batch * batch)
    order = np.arange(count) if rng is None or count <= size else rng.permutation(count)
    yield from (order[start : start + size] for start in range(0, count, size))


def _with_all(inputs: NDArray[Any], targets: NDArray[Any], labels: Any) -> tuple[Any, Any, Any]:
    """With one row of no weight for each class that this node has no row of: all classes have weights then."""
    missing = np.setdiff1d(labels, targets)
    weights = np.concatenate([np.ones(len(inputs)), np.zeros(len(missing))])
    zeros = np.zeros((len(missing), inputs.shape[1]), inputs.dtype)
    return np.concatenate([inputs, zeros]), np.concatenate([targets, missing]), weights


def _fit_warmly(model: Any, inputs: Any, targets: Any, weights: Any = None) -> None:
    with warnings.catch_warnings():
        # A round is a few iterations on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, targets, weights)


def _draw_network(model: Any, inputs: Any, targets: Any, labels: Any) -> None:
    """The library draws the weights in its first step, which changes nothing here; the next has a fresh optimizer."""
    rate, size = model.learning_rate_init, model.batch_size
    model.set_params(learning_rate_init=_NO_STEP, batch_size=len(inputs))
    model.partial_fit(inputs, targets, **({} if labels is None else {"classes": labels}))
    model.set_params(learning_rate_init=rate, batch_size=size)
    del model._optimizer  # noqa: SLF001 - the library has no other way to begin anew, and fails where this is gone
    model.t_ = 0


def unfitted(model: Any, columns: int, labels: NDArray[Any] | None, seed: int) -> Any:
    """A model that has seen nothing, with arrays of the right shapes and all else that the library's first call makes.

    Args:
        model: What is copied.
        columns: Of the inputs.
        labels: All classes; None for a regression.
        seed: Of what the library draws, where the model has no ``random_state`` of its own.
    """
    made = clone(model)
    if made.random_state is None:
        made.set_params(random_state=seed % 2**32)
    targets = np.zeros(1) if labels is None else labels
    inputs = np.zeros((len(targets), columns))
    if isinstance(made, _NETWORKS):
        _draw_network(made, inputs, targets, labels)
        return made
    if isinstance(made, LogisticRegression):
        made.set_params(warm_start=True, max_iter=1)
        _fit_warmly(made, inputs, targets)
    else:
        made.partial_fit(inputs, targets, **({} if labels is None else {"classes": labels}))
        made.t_ = 1.0
    made.coef_, made.intercept_ = np.zeros_like(made.coef_), np.zeros_like(made.intercept_)
    return made


def loaded(model: Any, parameters: Parameters, dtype: np.dtype[Any]) -> Any:
    """The model of `unfitted` with these arrays, in the type of the inputs that it will be trained on."""
    for name, values in _grouped(parameters).items():
        one = values if isinstance(values, int) else _typed(values, dtype)
        setattr(model, name, one)
    return model


def _typed(values: Any, dtype: np.dtype[Any]) -> Any:
    return [each.astype(dtype) for each in values] if isinstance(values, list) else values.astype(dtype)


def fitted_arrays(model: Any) -> dict[str, Array]:
    """The fitted arrays by the library's names; those of a list with their place."""
    arrays: dict[str, Array] = {}
    for name in ("coefs_", "intercepts_") if isinstance(model, _NETWORKS) else ("coef_", "intercept_"):
        found = getattr(model, name)
        named = (
            {f"{name}.{place}": each for place, each in enumerate(found)} if isinstance(found, list) else {name: found}
        )
        with np.errstate(over="ignore"):  # infinity, which is refused as diverged
            arrays |= {key: np.array(each, np.float32) for key, each in named.items()}
    if hasattr(model, "t_"):
        arrays["t_"] = np.array(int(model.t_), np.int64)
    return arrays


def _grouped(parameters: Parameters) -> dict[str, Any]:
    """The library's attributes: the other way round, without the scaler's."""
    found: dict[str, Any] = {}
    own = [name for name in parameters if not name.startswith(PREFIX)]
    # In a file the names may stand in another order.
    for name in sorted(own, key=lambda name: int(name.partition(".")[2] or 0)):
        attribute, dot, _ = name.partition(".")
        if dot:
            found.setdefault(attribute, []).append(parameters[name])
        else:
            found[name] = int(parameters[name].item()) if name == "t_" else parameters[name]
    return found
