"""scikit-learn's scalers over all nodes: what each node counts, and the scaler that all counts together make.

`StandardScaler` counts exact sums (exact_sums.py); `MinMaxScaler` and `MaxAbsScaler` take the largest of all nodes, as
counters: a float32 as a whole number in the same order.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

from federation.errors import TaskError
from federation.task import Parameters
from federation.tasks.statistics.exact_sums import COUNT_PIECES, SQUARE_PIECES, SUM_PIECES, Moments
from update_codec import Role

__all__ = ["PREFIX", "is_scaler", "scaler_counts", "scaler_from", "scaler_roles", "scaler_zero"]

PREFIX: Final = "scaler."
"""Before the names of a scaler's arrays."""

_NOTHING: Final = np.float32(-np.inf)


def is_scaler(estimator: Any) -> bool:
    """Whether it is a scaler that can be counted over all nodes."""
    return isinstance(estimator, StandardScaler | MinMaxScaler | MaxAbsScaler)


def scaler_zero(scaler: Any, features: int) -> Parameters:
    """The arrays of a scaler that has counted nothing."""
    if isinstance(scaler, StandardScaler):
        shapes = {"rows": (1, COUNT_PIECES), "sums": (features, SUM_PIECES), "squares": (features, SQUARE_PIECES)}
        return {PREFIX + name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return {PREFIX + name: _ordered(np.full(features, _NOTHING)) for name in _extremes(scaler)}


def scaler_roles(scaler: Any) -> Mapping[str, Role]:
    """Exact sums are added as they are; extremes are counters, as every array of integers."""
    return dict.fromkeys(scaler_zero(scaler, 0), Role.CONTROL) if isinstance(scaler, StandardScaler) else {}


def scaler_counts(scaler: Any, inputs: NDArray[Any]) -> Parameters:
    """What one node counts, by the library itself.

    Raises:
        TaskError: The inputs hold gaps, or values too large.
        ValueError: scikit-learn refuses them.
    """
    if not np.isfinite(inputs).all():
        row, column = np.argwhere(~np.isfinite(inputs))[0]
        raise TaskError(f"row {row}, column {column} of the inputs is no finite number: fill or leave out gaps first")
    if isinstance(scaler, StandardScaler):
        own = StandardScaler().fit(inputs)
        return {PREFIX + name: pieces for name, pieces in Moments.of(len(inputs), own.mean_, own.var_).arrays().items()}
    own = clone(scaler).fit(inputs)
    return {PREFIX + name: _ordered(sign * getattr(own, name)) for name, sign in _extremes(scaler).items()}


def scaler_from(scaler: Any, arrays: Parameters) -> Any | None:
    """The fitted scaler; None while nobody has counted anything."""
    if isinstance(scaler, StandardScaler):
        return _standard(
            scaler, Moments.from_arrays({name.removeprefix(PREFIX): each for name, each in arrays.items()})
        )
    extremes = {name: sign * _floats(arrays[PREFIX + name]) for name, sign in _extremes(scaler).items()}
    rows = np.stack(list(extremes.values())).astype(np.float64)
    return clone(scaler).fit(rows) if np.isfinite(rows).all() else None


def _standard(scaler: Any, moments: Moments) -> Any | None:
    if moments.rows < 1:
        return None
    made, mean, variance = clone(scaler), moments.mean, moments.variance
    made.n_samples_seen_, made.n_features_in_, made.mean_ = moments.rows, len(mean), mean
    made.var_ = made.scale_ = None
    if made.with_std:
        # scikit-learn's own bound: a column whose variance is only rounding is constant, and is not divided.
        error = moments.rows * np.finfo(np.float64).eps
        constant = variance <= error * variance + (error * mean) ** 2
        made.var_, made.scale_ = variance, np.where(constant, 1.0, np.sqrt(variance))
    return made


def _extremes(scaler: Any) -> Mapping[str, int]:
    """The attributes whose largest value over all nodes counts, and their sign: the least is the largest negative."""
    return {"max_abs_": 1} if isinstance(scaler, MaxAbsScaler) else {"data_min_": -1, "data_max_": 1}


def _ordered(values: NDArray[Any]) -> NDArray[np.int64]:
    """Floats as whole numbers of the same order: the bits of a negative one count down."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits + 2**31) - 1, bits)


def _floats(ordered: NDArray[Any]) -> NDArray[np.float32]:
    numbers = ordered.astype(np.int64)
    return np.where(numbers < 0, -numbers - 1 - 2**31, numbers).astype(np.int32).view(np.float32)
