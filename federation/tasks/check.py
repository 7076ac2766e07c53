"""Check a task against the contract of federation/task.py: call it from a test of your own task.

```python
from federation.task import TaskContext
from federation.tasks.check import check_task
from my_task import build

check_task(build(TaskContext(node_index=0, node_count=2)))
```
"""

from collections.abc import Iterator, Mapping
from numbers import Real

import numpy as np

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Array, Metrics, Parameters, Task, TrainResult
from update_codec import Role
from update_codec.manifest import STAYS

_ONE_STEP = TrainSettings(max_steps=1)


def check_task(task: Task, settings: TrainSettings = _ONE_STEP) -> None:
    """Build, train twice and evaluate.

    Args:
        task: A node's task: its context has a ``node_index``.
        settings: How to train; by default one step.

    Raises:
        TaskError: Lists everything that breaks the contract; or what the task itself raised.
    """
    initial = task.initial_parameters(0)
    roles = task.roles()
    problems = [*_initial_problems(initial, task.initial_parameters(0), roles), *_role_problems(initial, roles)]
    stays = {name for name, role in roles.items() if role in STAYS}
    initial = {name: array for name, array in initial.items() if name not in stays}
    given = {name: _read_only(array) for name, array in initial.items()}
    first = task.train(given, settings, _never)
    kept = {name: np.array(array) for name, array in first.parameters.items()}
    problems += _result_problems(initial, first)
    second = task.train(given, settings, _never)
    problems += _result_problems(initial, second)
    if not _same_bits(kept, first.parameters):
        problems.append("the second training changed the arrays that the first returned: return copies")
    problems += [f"evaluate: {problem}" for problem in _metric_problems(task.evaluate(given))]
    if problems:
        raise TaskError("; ".join(dict.fromkeys(problems)))


def _initial_problems(initial: Parameters, again: Parameters, roles: Mapping[str, Role]) -> Iterator[str]:
    if not initial:
        yield "initial_parameters is empty"
    for name, array in initial.items():
        if roles.get(name) in STAYS:
            continue
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            yield f"{name} must be an array of floats or integers"
        elif not np.isfinite(array).all():
            yield f"{name} is not finite at first"
    if not _same_bits(initial, again):
        yield "initial_parameters gives other bits for the same seed"


def _role_problems(initial: Parameters, roles: Mapping[str, Role]) -> Iterator[str]:
    for name, role in roles.items():
        if name not in initial:
            yield f"roles names {name}, which is no tensor of the model"
        elif role not in STAYS and (role is Role.COUNTER) != (initial[name].dtype.kind in "iub"):
            yield f"{name} has dtype {initial[name].dtype}, which does not suit the role {role}"


def _result_problems(initial: Parameters, result: TrainResult) -> Iterator[str]:
    if isinstance(result.num_examples, bool) or not isinstance(result.num_examples, int) or result.num_examples < 1:
        yield f"num_examples must be a whole number of at least 1, not {result.num_examples!r}"
    if result.parameters.keys() != initial.keys():
        difference = sorted(result.parameters.keys() ^ initial.keys())
        yield f"train must return the tensors that came in; it differs in {difference}"
    for name, array in result.parameters.items():
        before = initial.get(name)
        if before is not None and (array.shape, array.dtype) != (before.shape, before.dtype):
            yield f"{name} was {before.dtype}{list(before.shape)} and came back as {array.dtype}{list(array.shape)}"
        elif not np.isfinite(array).all():
            yield f"{name} is not finite after training"
    yield from (f"train: {problem}" for problem in _metric_problems(result.metrics))


def _metric_problems(metrics: Metrics) -> Iterator[str]:
    for name, value in metrics.items():
        if not isinstance(value, Real) or not np.isfinite(float(value)):
            yield f"the metric {name} must be a finite number, not {value!r}"


def _read_only(array: Array) -> Array:
    """What a node gives a task: a view that must not be written to."""
    view = np.array(array)
    view.flags.writeable = False
    return view


def _same_bits(some: Parameters, other: Parameters) -> bool:
    return some.keys() == other.keys() and all(some[name].tobytes() == other[name].tobytes() for name in some)


def _never() -> bool:
    return False
