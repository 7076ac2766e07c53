"""What a task gives is judged here, with the same words for real nodes, simulated ones, a coordinator and `check_task`.

A task is asked what it is (`described_model`), gets a model (`given`), and what it returns is looked at before
anything is made of it (`checked_result`, `checked_metrics`).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from federation.errors import TaskError, user_code
from federation.protocol.limits import EXAMPLES_MAX, fit_metrics
from federation.protocol.messages import TrainSettings
from federation.task import Array, Metrics, Parameters, Reader, Resident, Task, TrainResult
from update_codec import CodecError, Manifest, Role, Vectors
from update_codec.manifest import STAYS

__all__ = [
    "Wanted",
    "checked_metrics",
    "checked_result",
    "described_model",
    "given",
    "given_arrays",
    "initial_problems",
    "result_problems",
    "unmoved",
]


class Shaped(Protocol):
    """What an array or a manifest's entry says of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""

    @property
    def dtype(self) -> Any:
        """Its type, or the name of it."""


class Describing(Protocol):
    """The part of `federation.task.Task` that says what the model is."""

    def initial_parameters(self, seed: int) -> Parameters:
        """All tensors of version 0."""

    def roles(self) -> Mapping[str, Role]:
        """Roles of those that are not the default."""


def described_model(task: Describing, seed: int = 0) -> tuple[Parameters, Manifest]:
    """The task's initial parameters, and the manifest of its model.

    Args:
        task: Anybody's: a node's, a coordinator's, all nodes' together.
        seed: Of the initial parameters.

    Raises:
        TaskError: The task cannot make them, or they cannot travel; all problems at once.
    """
    with user_code("the task cannot make its initial model"):
        made, roles = task.initial_parameters(seed), task.roles()
        problems = [*initial_problems(made, roles)]
    if problems:
        raise TaskError("; ".join(problems))
    arrays = dict(made)
    try:
        return arrays, Manifest.of(arrays, roles)
    except CodecError as error:
        raise TaskError(f"the task's model cannot be described: {error}") from error


def initial_problems(made: Any, roles: Any) -> Iterator[str]:
    """What is wrong with the model that a task makes, and with the roles that it says."""
    if not isinstance(made, Mapping):
        yield f"initial_parameters must give a dict of arrays, not {type(made).__name__}"
        return
    if not isinstance(roles, Mapping):
        yield f"roles must give a dict, empty where all have their default, not {type(roles).__name__}"
        return
    if not made:
        yield "initial_parameters is empty"
    yield from (f"a tensor's name must be text, not {name!r}" for name in made if not _is_text(name))
    yield from (found for name in made if (found := _initial_problem(name, made[name], roles.get(name))) is not None)
    yield from (f"roles names {name}, which is no tensor of the model" for name in roles if name not in made)


def _initial_problem(name: str, array: Any, role: Role | None) -> str | None:
    if not isinstance(array, np.ndarray | np.generic):
        return f"{name} must be a NumPy array, not {type(array).__name__}"
    if role in STAYS:
        return None
    if array.dtype.kind not in "fiub":
        return f"{name} must be an array of floats or integers, not {array.dtype}"
    if role is not None and (role is Role.COUNTER) != (array.dtype.kind in "iub"):
        return f"{name} has dtype {array.dtype}, which does not suit the role {role}"
    if np.ma.is_masked(array):
        return f"{name} {_MASKED}"
    return None if _is_finite(array) else f"{name} is not finite at first"


_MASKED = "has masked entries: fill them"


def _is_text(name: Any) -> bool:
    """Whether it can be written in UTF-8."""
    return isinstance(name, str) and not any(0xD800 <= ord(letter) < 0xE000 for letter in name)


def given(task: Task, manifest: Manifest, model: Vectors) -> Parameters:
    """The tensors of a model as this task may get them: views, or copies that it may write to."""
    return manifest.unflatten(model, copies=not _only_reads(task))


def given_arrays(task: Task, model: Parameters) -> Parameters:
    """The same of arrays, which others have, too."""
    return dict(model) if _only_reads(task) else {name: np.array(array) for name, array in model.items()}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task must give back.

    Attributes:
        tensors: Those that it was given, by name.
        stays: Names of constants and of second names, which may be there or not.
    """

    tensors: Mapping[str, Shaped]
    stays: Collection[str] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> "Wanted":
        """What a model is."""
        kept = {tensor.name: tensor for tensor in manifest.tensors if tensor.role not in STAYS}
        return cls(kept, [tensor.name for tensor in manifest.tensors if tensor.name not in kept])


def checked_result(result: object, wanted: Wanted) -> TrainResult:
    """What a task's ``train`` has given.

    Args:
        result: Anything.
        wanted: What it should be.

    Raises:
        TaskError: It cannot become an update; all problems at once.
    """
    if problems := [*result_problems(result, wanted)]:
        raise TaskError("; ".join(problems))
    assert isinstance(result, TrainResult)  # noqa: S101 - else that was a problem
    return result


def result_problems(result: object, wanted: Wanted) -> Iterator[str]:
    """What is wrong with it. What has stayed on a device is looked at there."""
    if not isinstance(result, TrainResult):
        yield f"the task's train() must give a TrainResult, not {type(result).__name__}"
        return
    count = result.num_examples
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= EXAMPLES_MAX:
        yield f"num_examples must be a whole number from 1 to {EXAMPLES_MAX}, not {count!r}"
    yield from _metric_problems(result.metrics, "train")
    arrays: Any = result.parameters
    if not isinstance(arrays, Mapping):
        yield f"train must return a dict of arrays, not {type(arrays).__name__}"
    elif not isinstance(arrays, Resident):
        yield from _array_problems(arrays, wanted)


def _array_problems(arrays: Mapping[str, Any], wanted: Wanted) -> Iterator[str]:
    if difference := sorted(map(str, (arrays.keys() ^ wanted.tensors.keys()) - set(wanted.stays))):
        yield f"train must return the tensors that came in; it differs in {difference[:8]}"
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray | np.generic):
            yield f"{name} came back as {type(array).__name__}, which is no NumPy array"
            continue
        before = wanted.tensors.get(name)
        # Of another order of bytes the values are the same.
        found = array.shape, array.dtype.newbyteorder("=")
        if before is not None and found != (tuple(before.shape), np.dtype(before.dtype).newbyteorder("=")):
            yield f"{name} was {_said(before)} and came back as {_said(array)}"
        elif np.ma.is_masked(array):
            yield f"{name} {_MASKED}"
        elif name not in wanted.stays and not _is_finite(array):
            yield f"{name} is not finite after training: lower learning_rate"


def checked_metrics(metrics: object, method: str = "evaluate") -> Metrics:
    """The task's own numbers, as far as a message can carry them; what is no finite number is left out.

    Args:
        metrics: Anything.
        method: Who has given it.

    Raises:
        TaskError: It is no dict.
    """
    if problems := [*_metric_problems(metrics, method)]:
        raise TaskError("; ".join(problems))
    assert isinstance(metrics, Mapping)  # noqa: S101 - else that was a problem
    return fit_metrics(metrics)


def _metric_problems(metrics: object, method: str) -> Iterator[str]:
    if not isinstance(metrics, Mapping):
        yield f"{method}: the metrics must be a dict of numbers by name, not {type(metrics).__name__}"


def unmoved(settings: TrainSettings) -> str:
    """What is said of a training that has changed no parameter, which may be right where a loss is satisfied."""
    return (
        "the training has changed no parameter, in none of its steps: see whether the loss depends on the model (a"
        " factor of 0, rounding, a comparison or a cast in it), whether gradients reach the parameters (detach(), a"
        " ReLU that is never above 0), and whether the optimizer moves them (its rate; train.learning_rate is"
        f" {settings.learning_rate:g})"
    )


def _only_reads(task: Task) -> bool:
    return isinstance(task, Reader) and task.reads_only


def _is_finite(array: Array | np.generic) -> bool:
    """Whether all numbers are; a sum needs no memory, and is finite where the numbers are not too large."""
    if array.dtype.kind not in "fc" or not array.size:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _said(tensor: Shaped) -> str:
    return f"{np.dtype(tensor.dtype).name}{list(tensor.shape)}"
