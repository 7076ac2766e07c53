"""A label that comes late finds its example by a key: a time, with a tolerance, or an id."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.errors import TaskError

__all__ = ["join_by_id", "join_labels"]


def join_labels(
    times: ArrayLike, label_times: ArrayLike, labels: ArrayLike, *, tolerance_s: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label that is nearest in time to each example.

    Args:
        times: Of the examples, float64 (N,), in any order.
        label_times: float64 (M,), in any order; of two at one time the last one counts.
        labels: float (M,).
        tolerance_s: A label further away is none, in seconds.

    Returns:
        The examples that have a label, int64 (K,), and their labels, float64 (K,).

    Raises:
        TaskError: There are not as many labels as times of them, or the tolerance is no time.
    """
    at, when, what = np.asarray(times, np.float64), np.asarray(label_times, np.float64), np.asarray(labels, np.float64)
    if when.shape != what.shape or when.ndim != 1 or not tolerance_s >= 0:
        raise TaskError(f"labels: {when.shape} times, {what.shape} labels, tolerance {tolerance_s} s")
    good = np.isfinite(when) & np.isfinite(what)
    when, what = when[good], what[good]
    order = np.argsort(when, kind="stable")
    when, what = when[order], what[order]
    if not len(when):
        return np.zeros(0, np.int64), np.zeros(0)
    # The last of equal times is the one that `searchsorted` on the right finds.
    before = np.searchsorted(when, at, side="right") - 1
    after = np.minimum(before + 1, len(when) - 1)
    after = np.searchsorted(when, when[after], side="right") - 1
    before = np.maximum(before, 0)
    nearest = np.where(np.abs(when[before] - at) <= np.abs(when[after] - at), before, after)
    rows = np.flatnonzero(np.abs(when[nearest] - at) <= tolerance_s)
    return rows, what[nearest[rows]]


def join_by_id(
    ids: ArrayLike, label_ids: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label of each example's id; of two labels of one id the last one counts.

    Args:
        ids: Of the examples, (N,): numbers or texts.
        label_ids: (M,).
        labels: float (M,).

    Returns:
        As `join_labels`.

    Raises:
        TaskError: There are not as many labels as ids of them.
    """
    known, keys, what = np.asarray(ids), np.asarray(label_ids), np.asarray(labels, np.float64)
    if keys.shape != what.shape or keys.ndim != 1:
        raise TaskError(f"labels: {keys.shape} ids and {what.shape} labels")
    latest = {key: label for key, label in zip(keys.tolist(), what.tolist(), strict=True) if np.isfinite(label)}
    rows = np.array([row for row, key in enumerate(known.tolist()) if key in latest], np.int64)
    return rows, np.array([latest[known[row].item()] for row in rows], np.float64)
