"""Check a task against the contract of federation/task.py: call it from a test of your own task.

```python
from federation.task import TaskContext
from federation.tasks.check import check_task
from my_task import build

check_task(build(TaskContext(node_index=0, node_count=2)))
```
"""

import math
from collections.abc import Iterator
from numbers import Real

import numpy as np

from federation.contract import Wanted, checked_metrics, checked_result, described_model, given_arrays, unmoved
from federation.errors import TaskError, user_code
from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Task, TrainResult, prepare
from update_codec import Manifest, Role

_TWO_STEPS = TrainSettings(local_epochs=2, max_steps=2)
"""What follows the weights, such as a teacher, has not moved after one."""


def check_task(task: Task, settings: TrainSettings = _TWO_STEPS, *, may_stand: bool = False) -> None:
    """Prepare, train twice and evaluate, as a node does; what a node refuses is refused with the same words.

    Some of what a node puts up with is refused, too: initial parameters that differ from call to call, arrays that a
    later training changes, metrics that are no finite numbers, which a node leaves out, and a training that moves no
    parameter, which a node says in its log.

    Args:
        task: A node's task: its context has a ``node_index``.
        settings: How to train; by default two steps.
        may_stand: Whether these steps may move nothing, as where a pretrained model satisfies a hinge loss.

    Raises:
        TaskError: Lists what breaks the contract; or what the task itself raised.
    """
    with user_code("the task cannot be prepared"):
        prepare(task)
    initial, manifest = described_model(task)
    if not _same_bits(initial, described_model(task)[0]):
        raise TaskError("initial_parameters gives other bits for the same seed")
    wanted = Wanted.of(manifest)
    model = {name: initial[name] for name in wanted.tensors}
    first = _trained(task, model, settings, wanted)
    kept = {name: np.array(array) for name, array in first.parameters.items()}
    second = _trained(task, model, settings, wanted)
    problems = [f"train: {problem}" for result in (first, second) for problem in _metric_problems(result.metrics)]
    if not _same_bits(kept, first.parameters):
        problems.append("the second training changed the arrays that the first returned: return copies")
    if not may_stand and _stood(model, kept, manifest, first.steps):
        problems.append(unmoved(settings))
    with user_code("the evaluation failed"):
        metrics = task.evaluate(given_arrays(task, model))
    checked_metrics(metrics)
    problems += [f"evaluate: {problem}" for problem in _metric_problems(metrics)]
    if problems:
        raise TaskError("; ".join(dict.fromkeys(problems)))


def _trained(task: Task, model: Parameters, settings: TrainSettings, wanted: Wanted) -> TrainResult:
    with user_code("the training failed"):
        result = task.train(given_arrays(task, model), settings, bool)
    return checked_result(result, wanted)


def _stood(before: Parameters, after: Parameters, manifest: Manifest, steps: int) -> bool:
    """Whether there are parameters, and none has changed; a task that says no steps may count before it trains."""
    roles = {tensor.name: tensor.role for tensor in manifest.tensors if tensor.size and tensor.name in before}
    moved = {roles[name] for name in roles if not np.array_equal(before[name], after[name])}
    return Role.PARAMETER in roles.values() and Role.PARAMETER not in moved and bool(steps or not moved)


def _metric_problems(metrics: Metrics) -> Iterator[str]:
    for name, value in metrics.items():
        if not _is_finite(value):
            yield f"the metric {name} must be a finite number, not {value!r}"


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(float(value))
    except OverflowError:  # a whole number beyond every float
        return False


def _same_bits(some: Parameters, other: Parameters) -> bool:
    return some.keys() == other.keys() and all(
        np.asarray(some[name]).tobytes() == np.asarray(other[name]).tobytes() for name in some
    )
