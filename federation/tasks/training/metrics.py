"""What an evaluation says of a model: the mean loss, the task's own metrics, and accuracy where it is certain.

Shapes do not say whether whole-number targets are classes: they may be counts. The loss does. For a loss of classes the
gradient by the scores of a wrong answer is lowest at the class that is right, and what the loss leaves out (padding)
has no gradient at all. For one score it is cross-entropy, or no accuracy is reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from federation.errors import TaskError
from federation.task import TEST_EXAMPLES, Metrics
from federation.tasks.training.batches import Reading, num_examples
from federation.tasks.training.local_data import EVALUATION_BATCH, NO_BATCH, LocalData
from federation.tasks.training.spec import TorchTaskSpec, is_stateful
from federation.units import counted

__all__ = ["Answers", "Evaluation", "answers_of", "refuse_miscounted"]

_AGREEMENT = 0.9
"""Share of the wrong answers whose gradient must say that the targets are classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How outputs are compared with targets.

    Attributes:
        axis: The scores' axis in the output; None where there is one score for each answer.
        threshold: From which score on the answer is 1, where there is one.
        left_out: Targets that do not count, besides those that are no class.
    """

    axis: int | None
    threshold: float = 0.0
    left_out: tuple[int, ...] = ()

    def count(self, output: torch.Tensor, target: torch.Tensor) -> tuple[int, int]:
        """How many answers are right, and how many there are."""
        if self.axis is None:
            return int(((output.reshape(-1) > self.threshold) == (target.reshape(-1) > 0)).sum()), target.numel()
        counts = (target >= 0) & (target < output.shape[self.axis])
        for value in self.left_out:
            counts &= target != value
        return int(((output.argmax(self.axis) == target) & counts).sum()), int(counts.sum())


class Evaluation:
    """Evaluates one task's model on test data; how answers are counted is found once.

    Args:
        metrics: The task's own: by name, a function of (output, target) whose mean over the examples is taken, or an
            object with ``update(output, target)``, ``compute()`` and ``reset()``, as torchmetrics has them.
        accuracy: Whether to count right answers.
    """

    def __init__(self, metrics: Mapping[str, Any], *, accuracy: bool) -> None:
        self._own = metrics
        self._wanted = accuracy and "accuracy" not in metrics
        self._answers: Answers | None = None

    def measure(self, reading: Reading, data: LocalData) -> Metrics:
        """All metrics over the data; the model must be in evaluation mode.

        Raises:
            TaskError: There is no batch, or a metric is no number.
        """
        stateful = {name: metric for name, metric in self._own.items() if is_stateful(metric)}
        means = {name: metric for name, metric in self._own.items() if name not in stateful}
        for metric in stateful.values():
            metric.reset()
        examples, right, answers, sums = 0, 0, 0, dict.fromkeys(("loss", *means), 0.0)
        for batch in data.in_order(EVALUATION_BATCH):
            output, loss = reading(batch)
            target, count = reading.target(batch), num_examples(batch)
            counted = self._counted(reading, output, batch)
            right, answers, examples = right + counted[0], answers + counted[1], examples + count
            sums["loss"] += loss.item() * count
            for name, metric in means.items():
                sums[name] += _number(name, metric(output, target)) * count
            for metric in stateful.values():
                _placed(metric, output).update(output, target)
        if not examples:
            raise TaskError(NO_BATCH.format("the test data"))
        computed = {name: value for each, metric in stateful.items() for name, value in _computed(each, metric).items()}
        found = {name: total / examples for name, total in sums.items()} | computed
        return {"loss": found["loss"], "accuracy": right / answers} | found if answers else found

    def _counted(self, reading: Reading, output: Any, batch: Any) -> tuple[int, int]:
        """Right answers, and how many count; the first batch decides how."""
        if self._wanted and self._answers is None:
            self._answers = answers_of(reading, output, batch)
            self._wanted = self._answers is not None
        return (0, 0) if self._answers is None else self._answers.count(output, reading.target(batch))


def answers_of(reading: Reading, output: Any, batch: Any) -> Answers | None:
    """How the outputs of a first batch are compared with its targets; None where that is not certain."""
    target = reading.target(batch)
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor) or not output.is_floating_point():
        return None
    with torch.enable_grad():
        scores = output.detach().clone().requires_grad_()
        try:
            loss = reading.loss(scores, target)
            gradient = torch.autograd.grad(loss, scores)[0]
        except RuntimeError:
            return None
    if _is_one_score(output, target):
        return _one_score(output, target, loss.detach())
    if target.is_floating_point() or target.is_complex():
        return None
    axes = [axis for axis in (1, output.ndim - 1) if 0 < axis < output.ndim and output.shape[axis] > 1]
    fitting = [axis for axis in axes if output.shape[:axis] + output.shape[axis + 1 :] == target.shape]
    found = (_classes(axis, output, target, gradient) for axis in dict.fromkeys(fitting))
    return next((each for each in found if each is not None), None)


def refuse_miscounted(task: TorchTaskSpec, module: nn.Module, batch: Any) -> None:
    """Refuse names of which there are more or fewer than columns go in, or classes come out.

    Args:
        task: Says the names.
        module: The task's model, which is called once, in evaluation mode.
        batch: Two examples.

    Raises:
        TaskError: It says both numbers.
    """
    reading, classes = Reading.of(module, task.loss), len(task.class_names)
    given, named = reading.inputs(batch)
    if task.features and not named and len(given) == 1 and isinstance(given[0], torch.Tensor):
        _refuse_features(len(task.features), given[0].shape[1:])
    if not classes:
        return
    module.eval()
    try:
        with torch.no_grad():
            output = reading.output(batch)
        answers = answers_of(reading, output, batch)
    except Exception:  # noqa: BLE001 - user code; the step, which comes next, says what is wrong with it
        return
    if answers is None:
        return
    scores = 1 if answers.axis is None else output.shape[answers.axis]
    if classes != max(2, scores):
        told = f"gives {scores} scores" if scores > 1 else "gives one score, which tells two classes"
        raise TaskError(f"classes has {counted(classes, 'name')}, and the model {told}: give as many of each")


def _refuse_features(names: int, sides: Sequence[int]) -> None:
    """Of windows either side may be the columns; more sides are no columns at all."""
    if len(sides) in {1, 2} and names not in sides:
        sizes = " by ".join(map(str, sides))
        raise TaskError(
            f"features has {counted(names, 'name')}, and an input of this node has {sizes} numbers: name each column"
        )


def _is_one_score(output: torch.Tensor, target: torch.Tensor) -> bool:
    shapes = [[side for side in tensor.shape if side != 1] for tensor in (output, target)]
    alone = output.ndim == 1 or 1 in {output.shape[1], output.shape[-1]} if output.ndim else False
    return alone and shapes[0] == shapes[1] and bool(((target == 0) | (target == 1)).all())


def _one_score(output: torch.Tensor, target: torch.Tensor, loss: torch.Tensor) -> Answers | None:
    scores, wanted = output.reshape(-1).float(), target.reshape(-1).float()
    if torch.allclose(loss.float(), binary_cross_entropy_with_logits(scores, wanted), rtol=1e-3):
        return Answers(axis=None)
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        return None
    is_probability = torch.allclose(loss.float(), binary_cross_entropy(scores, wanted), rtol=1e-3)
    return Answers(axis=None, threshold=0.5) if is_probability else None


def _classes(axis: int, output: torch.Tensor, target: torch.Tensor, gradient: torch.Tensor) -> Answers | None:
    """The answers along this axis, if the gradient says that the targets are classes there."""
    silent = (gradient == 0).all(axis)
    is_class = (target >= 0) & (target < output.shape[axis])
    if bool((~is_class & ~silent).any()):
        return None
    wrong = is_class & (output.argmax(axis) != target)
    left_out = torch.unique(target[wrong & silent])
    if bool(torch.isin(target[~silent], left_out).any()):
        return None
    heard = wrong & ~silent
    if bool(heard.any()):
        agrees = (gradient.argmin(axis) == target)[heard].float().mean()
        if float(agrees) < _AGREEMENT:
            return None
    return Answers(axis=axis, left_out=tuple(int(value) for value in left_out))


def _placed(metric: Any, output: Any) -> Any:
    """The metric where the output is: torchmetrics keeps its sums on a device."""
    return metric.to(output.device) if hasattr(metric, "to") and isinstance(output, torch.Tensor) else metric


def _computed(name: str, metric: Any) -> Metrics:
    value = metric.compute()
    if isinstance(value, Mapping):
        if taken := sorted({"loss", TEST_EXAMPLES} & {str(each) for each in value}):
            raise TaskError(f"metrics: {name} gives {taken[0]}, which is reported anyway: call it otherwise")
        return {str(each): _number(str(each), number) for each, number in value.items()}
    return {name: _number(name, value)}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TaskError(f"metrics: {name} must give one number, not {type(value).__name__}") from error
