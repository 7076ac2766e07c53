"""What a node keeps for its task: named arrays, and the changes to them that wait for a receipt. Pure.

Law 9 for a task's own state: an update's ``pending`` change is stored together with the update before it is offered,
and is added to the settled state when the receipt says ``applied``; any other verdict drops it. Changes are added, not
put in place, so that verdicts may come in any order. ``kept`` arrays wait for nobody.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_node.records import StateChange
from federation.errors import TaskError
from federation.task import Array, Parameters, TrainResult

__all__ = ["added", "change_of", "expected_state", "pack_arrays", "unpack_arrays"]


def change_of(result: TrainResult) -> StateChange:
    """What a training wants to be kept, as copies.

    Raises:
        TaskError: An array is not finite, cannot be stored, or one that shall be added is not of floats.
    """
    for name, array in (*result.kept.items(), *result.pending.items()):
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise TaskError(f"the task's state {name} must be finite numbers")
        _check_storable(name, array)
    for name, array in result.pending.items():
        if array.dtype.kind != "f" or name in result.kept:
            raise TaskError(f"the task's state {name} is added on a receipt: it must be floats, and not kept as well")
    return StateChange(kept=_copies(result.kept), pending=_copies(result.pending))


def _check_storable(name: str, array: Array) -> None:
    """Else the store would find it out, where nothing can be refused any more, or the next start."""
    try:
        load(save({name: np.empty(0, array.dtype)}))
    except (SafetensorError, ValueError) as error:
        raise TaskError(f"the task's state {name!a} cannot be stored: {error}") from error


def added(state: Parameters, pending: Parameters) -> Parameters:
    """The state with an applied update's change; an array that is not there, or has another shape, begins at zero."""
    total = dict(state)
    for name, change in pending.items():
        before = total.get(name)
        known = before is not None and before.shape == change.shape
        total[name] = np.asarray(before + change) if known else change  # type: ignore[operator]
    return total


def expected_state(settled: Parameters, under_way: Iterable[Parameters]) -> Parameters:
    """What the task is given: the state as it is if every update under way is applied; read-only.

    An applied update whose receipt is late is already part of the model that comes; one that is refused later makes a
    difference until the next one, which starts from what is settled then.
    """
    for pending in under_way:
        settled = added(settled, pending)
    views = {name: array.view() for name, array in settled.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def pack_arrays(arrays: Parameters) -> bytes:
    """Named arrays as one safetensors body."""
    # Not ascontiguousarray: that makes of a single number a row of one.
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def unpack_arrays(body: bytes | None) -> Mapping[str, Array]:
    """What `pack_arrays` wrote; nothing where it is missing or damaged."""
    if body is None:
        return {}
    try:
        return load(body)
    except (SafetensorError, ValueError, KeyError):
        return {}


def _copies(arrays: Parameters) -> Parameters:
    return {name: np.array(array, order="C") for name, array in arrays.items()}
