r"""SCAFFOLD (Karimireddy et al., arXiv 1910.06378, algorithm 1, option II) around any task with correctable steps.

N nodes, of which a version has the members S; model x, control variates c and c_i; local rate lr, K local steps::

    node      y_i <- y_i - lr (g_i(y_i) - c_i + c), K times from y_i = x
              c_i+ = c_i - c + (x - y_i) / (K lr),    dc_i = c_i+ - c_i,    c_i <- c_i+
    server    x <- x + eta / |S| sum_S (y_i - x),     c <- c + 1/N sum_S dc_i

Everything rests on c = 1/N sum c_i over all nodes. So that it holds for lost, late, refused and repeated updates too:

- The model carries C = N c, one tensor ``control.NAME`` beside each parameter NAME; its role says that updates are
  summed as they are (`update_codec.Role.CONTROL`). A node divides by N, which the settings bring (``scaffold_nodes``).
- dc_i is the update's `TrainResult.pending`: c_i takes it over when the receipt says ``applied``, and only then. The
  server adds it in the same case. An update of which no word has come yet counts as applied meanwhile; if it was not,
  steps are corrected by a c_i that the server does not know of, and option II holds for any that they were taken with.
- dc_i is rounded to multiples of a power of two before anybody uses it, so that node and server add the same, exactly
  representable numbers. What rounding leaves is part of the next dc_i: c_i+ is computed afresh.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigError, TaskError
from federation.inputs import Describable, Inputs
from federation.protocol.messages import TrainSettings
from federation.task import (
    ADAM_KEY,
    CLIP_KEY,
    Array,
    Correctable,
    Metrics,
    Parameters,
    Stateful,
    Stop,
    Task,
    TrainResult,
    prepare,
)
from update_codec import Manifest, Role, TensorSpec

__all__ = [
    "NODES_KEY",
    "RESOLUTION_DEFAULT",
    "RESOLUTION_KEY",
    "ScaffoldTask",
    "of_scaffold",
    "scaffolded",
    "with_controls",
    "without_controls",
]

NODES_KEY = "scaffold_nodes"
"""Name of N in `TrainSettings.extra`."""

RESOLUTION_KEY = "scaffold_resolution"
"""Name in `TrainSettings.extra`: dc_i is rounded to about this many rms of its tensor; 0 or nothing is a 64th."""

RESOLUTION_DEFAULT = 1 / 64
STEP_MIN = 2.0**-32
"""Nothing finer reaches the server: its sums are multiples of this."""

RANGE = 2.0**16
"""The largest entry of a tensor has at most so many steps: 8 bits of float32 are left for the sum over the nodes."""

_PREFIX = "control."

F32 = NDArray[np.float32]


class ScaffoldTask:
    """A task under SCAFFOLD: its model has a control beside each parameter.

    Raises:
        TaskError: The task's own tensors have names that controls need.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._state: Parameters = {}

    def initial_parameters(self, seed: int) -> Parameters:
        """The task's own, and controls of zero."""
        initial = self._task.initial_parameters(seed)
        roles = self._task.roles()
        if taken := sorted(name for name in initial if name.startswith(_PREFIX)):
            raise TaskError(f"SCAFFOLD needs the names {_PREFIX}*: {taken[0]} is the task's own")
        return {**initial, **{_PREFIX + name: _zeros(initial[name]) for name in _controlled(initial, roles)}}

    def roles(self) -> Mapping[str, Role]:
        """The task's own, and the controls'."""
        # A control per parameter: which those are, only the arrays say; their values do not matter.
        roles = self._task.roles()
        names = _controlled(self._task.initial_parameters(0), roles)
        return {**roles, **{_PREFIX + name: Role.CONTROL for name in names}}

    def prepare(self) -> None:
        """What the task does before its first round."""
        prepare(self._task)

    def inputs(self) -> Inputs:
        """What the task's own inputs mean."""
        return self._task.inputs() if isinstance(self._task, Describable) else Inputs()

    def adopt_inputs(self, wanted: Inputs) -> None:
        """Hand on how the data is read."""
        if isinstance(self._task, Describable):
            self._task.adopt_inputs(wanted)

    def restore(self, state: Parameters) -> None:
        """Take c_i, and hand on what is the task's own."""
        self._state = state
        if isinstance(self._task, Stateful):
            self._task.restore(without_controls(state))

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Corrected steps; the controls of the result are dc_i.

        Raises:
            TaskError: The settings do not fit SCAFFOLD, or what the task itself raises.
        """
        nodes = _check(settings)
        assert isinstance(self._task, Correctable)  # noqa: S101 - `scaffolded` has looked
        correction = self._correction(parameters, nodes)
        model = without_controls(parameters)
        result = self._task.train_corrected(model, settings, stop, correction)
        if result.steps < 1:
            raise TaskError("SCAFFOLD needs the number of local steps, and the task says 0")
        changes = self._changes(model, result, correction, settings)
        return replace(result, parameters={**result.parameters, **changes}, pending={**result.pending, **changes})

    def _correction(self, parameters: Parameters, nodes: float) -> dict[str, F32]:
        """The correction c - c_i by the parameter's name."""
        found = {}
        for name, total in parameters.items():
            if name.startswith(_PREFIX):
                c = (total.astype(np.float64) / nodes).astype(np.float32)
                found[name.removeprefix(_PREFIX)] = c - _f32(self._state.get(name), c)
        return found

    def _changes(
        self, model: Parameters, result: TrainResult, correction: Mapping[str, F32], settings: TrainSettings
    ) -> dict[str, F32]:
        """The changes dc_i by the control's name."""
        unit = float(result.steps) * settings.learning_rate
        resolution = settings.extra.get(RESOLUTION_KEY, 0.0) or RESOLUTION_DEFAULT
        changes = {}
        for name, corrected in correction.items():
            moved = model[name].astype(np.float64) - result.parameters[name].astype(np.float64)
            wanted = moved / unit - corrected  # c_i+ = (x - y) / (K lr) - (c - c_i)
            expected = _f32(self._state.get(_PREFIX + name), corrected)
            changes[_PREFIX + name] = _rounded(wanted, expected, resolution)
        return changes

    def evaluate(self, parameters: Parameters) -> Metrics:
        """The task's own, without the controls."""
        return self._task.evaluate(without_controls(parameters))


def scaffolded(task: Task) -> ScaffoldTask:
    """The task under SCAFFOLD.

    Raises:
        ConfigError: The task's steps cannot be corrected.
    """
    if not isinstance(task, Correctable):
        raise ConfigError("strategy.name", "scaffold corrects local steps: the task needs a method train_corrected")
    return ScaffoldTask(task)


def of_scaffold(tensor: TensorSpec) -> bool:
    """Whether the tensor is one of SCAFFOLD's control variates: a task may have sums of its own, of the same role."""
    return tensor.role is Role.CONTROL and tensor.name.startswith(_PREFIX)


def with_controls(manifest: Manifest) -> Manifest:
    """The manifest of the task's model under SCAFFOLD."""
    parameters = (tensor for tensor in manifest.tensors if tensor.role is Role.PARAMETER)
    controls = (TensorSpec(name=_PREFIX + each.name, shape=each.shape, role=Role.CONTROL) for each in parameters)
    return Manifest((*manifest.tensors, *controls))


def without_controls(arrays: Parameters) -> Parameters:
    """The arrays that are the task's own."""
    return {name: array for name, array in arrays.items() if not name.startswith(_PREFIX)}


def _controlled(arrays: Parameters, roles: Mapping[str, Role]) -> list[str]:
    return [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and roles.get(name, Role.PARAMETER) is Role.PARAMETER
    ]


def _zeros(like: Array) -> F32:
    return np.zeros(like.shape, np.float32)


def _check(settings: TrainSettings) -> float:
    nodes = settings.extra.get(NODES_KEY, 0.0)
    if not nodes >= 1:
        raise TaskError(f"SCAFFOLD needs the number of nodes in the settings, under {NODES_KEY}")
    for name in ("momentum", "proximal_mu"):
        if getattr(settings, name):
            raise TaskError(f"SCAFFOLD is plain local SGD: {name} must be 0, not {getattr(settings, name)}")
    if settings.extra.get(ADAM_KEY) or settings.extra.get(CLIP_KEY):
        raise TaskError("SCAFFOLD is plain local SGD: no adam and no clip_norm")
    if not settings.learning_rate > 0:
        raise TaskError("SCAFFOLD divides by the learning rate: it must be above 0")
    return nodes


def _f32(array: Array | None, like: F32) -> F32:
    """The array, or zeros where there is none that fits."""
    fits = array is not None and array.shape == like.shape
    return np.asarray(array, np.float32) if fits else np.zeros_like(like)


def _rounded(wanted: NDArray[np.float64], expected: F32, resolution: float) -> F32:
    """From what c_i will be to what it shall be, as multiples of one power of two.

    Raises:
        TaskError: It is not finite.
    """
    change = wanted - expected
    if not change.size:
        return change.astype(np.float32)
    if not np.isfinite(change).all():
        raise TaskError("SCAFFOLD's control variate is not finite: lower learning_rate")
    rms = math.sqrt(float(np.mean(np.square(change))))
    largest = max(float(np.abs(wanted).max()), float(np.abs(change).max()))
    step = 2.0 ** math.floor(math.log2(max(resolution * rms, largest / RANGE, STEP_MIN)))
    return np.asarray(np.rint(change / step) * step, np.float32)
