"""A run goes on with the task and the model that it began with: another one is refused before anything is announced."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from coordinator.global_model.initial import InitialRequest, described_apart
from coordinator.global_model.statistics import is_statistics
from federation.errors import ConfigError, TaskError
from federation.inputs import Inputs
from federation.task import task_label
from federation.tasks.registry import is_builtin
from federation.tasks.scaffold import of_scaffold
from update_codec import Manifest, Role, TensorSpec

__all__ = ["check_resumed", "differences"]

PATIENCE_S = 30.0
"""How long a task of the user's may take to make its model again, in seconds: a restart must not wait for its data."""

SHOWN = 3
"""Differences that the message names."""


def check_resumed(
    began: Manifest, known: str | None, request: InitialRequest, folder: Path, described: str | None = None
) -> str:
    """Compare what is configured with what the run in a state folder began with.

    The model of a built-in task follows from its name; that of a user's own task may follow from anything, and is made
    again in another process.

    Args:
        began: The model's manifest in the store.
        known: The task's name in the store; None where an earlier release has made it.
        request: What is configured.
        folder: The state folder.
        described: What the store says of the run's inputs; None where it was not known.

    Returns:
        Why the model could not be compared; empty when it was.

    Raises:
        ConfigError: The configuration is about another task or another model.
    """
    label = task_label(request.task)
    if is_statistics(began) != (request.statistics is not None):
        counted = "only counts (coordinator analyze)" if is_statistics(began) else "trains"
        raise _refused(folder, f"{counted}, and what is started {'trains' if is_statistics(began) else 'only counts'}")
    if known is not None and known != label:
        raise _refused(folder, f"trains {known!r}, with {_size(began)}, and {label!r} is set")
    if known is not None and is_builtin(request.task):
        return ""
    # What SCAFFOLD adds is a matter of the strategy, and has an error of its own.
    plain = replace(request, file=None, controls=False)
    try:
        now, inputs = described_apart(plain, folder, patience_s=PATIENCE_S)
    except TaskError as error:
        return str(error)
    found = list(differences(began, now))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = "; ".join(found[:SHOWN])
        raise _refused(folder, f"began with {_size(began)}, and {label!r} now makes {_size(now)}: {listed}{more}")
    if described and inputs and (other := Inputs.from_text(inputs).contradiction(Inputs.from_text(described))):
        raise _refused(folder, f"goes on with its classes and inputs, and of {label!r} {other}")
    return ""


def differences(began: Manifest, now: Manifest) -> Iterator[str]:
    """What is not the same in two models; control variates are left out.

    A run that began under an earlier release has what never changes among its parameters.
    """
    if _trained(began) == _trained(now.former):
        return
    for before, after in zip_longest(_trained(began), _trained(now)):
        if before != after:
            yield f"{_told(before)} then, {_told(after)} now"


def _refused(folder: Path, problem: str) -> ConfigError:
    remedy = "choose another store.folder for a new run, or set back what has changed"
    return ConfigError("task.name", f"the run {problem}; {remedy}", source=str(folder))


def _trained(manifest: Manifest) -> list[TensorSpec]:
    return [tensor for tensor in manifest.tensors if not of_scaffold(tensor)]


def _size(manifest: Manifest) -> str:
    return f"a model of {sum(tensor.size for tensor in _trained(manifest)):,} values"


def _told(tensor: TensorSpec | None) -> str:
    if tensor is None:
        return "nothing"
    shape = " x ".join(str(side) for side in tensor.shape) or "one value"
    values = f" with the values {tensor.source[:8]}…" if tensor.role is Role.CONSTANT else ""
    return f"{tensor.name} ({shape}, {tensor.dtype}, {tensor.role.value}{values})"
