"""``python -m coordinator.global_model.initial``: makes the initial model in a process of its own, and ends.

The coordinator then never loads what the task needs, such as torch: it stays small, and a restart is fast.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from federation.contract import described_model
from federation.documents import read_json
from federation.errors import ConfigError, FederationError, TaskError, user_code
from federation.inputs import Describable, Inputs
from federation.task import Parameters, Task, TaskContext
from federation.tasks.registry import load_task
from federation.tasks.scaffold import of_scaffold, scaffolded
from federation.tasks.set_order import environment_for
from federation.tasks.statistics.task import StatisticsRequest, counting
from update_codec import CodecError, Manifest, Role, Vectors, constant_digest

__all__ = [
    "InitialModel",
    "InitialRequest",
    "as_requested",
    "described_apart",
    "initial_model",
    "initial_model_apart",
    "model_arrays",
    "model_of_arrays",
]

PATIENCE_S = 300.0
"""The process may take this long, in seconds: a task may read its data first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialRequest:
    """Which model.

    Attributes:
        task: The task's name.
        data: Its data folder, or None.
        seed: Seed of the initial parameters and of the partition.
        file: safetensors file with the parameters instead of the task's own, or None.
        controls: Whether SCAFFOLD's control variates are beside the parameters.
        statistics: What is counted, where the task is not trained.
    """

    task: str
    data: str | None = None
    seed: int = 0
    file: str | None = None
    controls: bool = False
    statistics: StatisticsRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialModel:
    """Version 0 before anybody has it.

    Attributes:
        manifest: Names, shapes, types and roles.
        vectors: The parameters.
        seed: The seed from which a node can make them itself; None when they come from a file.
        inputs: What its inputs and targets mean; None where nothing is known here.
    """

    manifest: Manifest
    vectors: Vectors
    seed: int | None
    inputs: str | None = None


def initial_model(request: InitialRequest, task: Task | None = None) -> InitialModel:
    """Make the initial model in this process.

    Args:
        request: Which one.
        task: The task, when it has been built already (with the controls, where the request wants them).

    Raises:
        ConfigError: There is no such task, its steps cannot be corrected, or the file does not fit its model.
        TaskError: The task cannot be built, or its model cannot travel.
    """
    with user_code(f"the initial model of {request.task} cannot be made"):
        if task is None:
            data = None if request.data is None else Path(request.data)
            context = TaskContext(node_index=None, node_count=1, data=data, device="cpu", seed=request.seed)
            task = load_task(request.task)(context)
            task = as_requested(task, request)
        arrays, manifest = described_model(task, request.seed)
        # What is counted, and within which bounds, only the coordinator knows: nobody can make it from the seed.
        own, file = request.file is None and request.statistics is None, request.file
        vectors = manifest.flatten(arrays) if file is None else _from_file(file, arrays, manifest)
        return InitialModel(
            manifest=manifest, vectors=vectors, seed=request.seed if own else None, inputs=_inputs_of(task)
        )


def as_requested(task: Task, request: InitialRequest) -> Task:
    """The task as its run has it: counted, or with control variates, or as it is.

    Raises:
        ConfigError: It has no columns, or its steps cannot be corrected.
    """
    if request.statistics is not None:
        return counting(task, request.statistics)
    return scaffolded(task) if request.controls else task


def initial_model_apart(request: InitialRequest, folder: Path) -> InitialModel:
    """Make the initial model in another process.

    Args:
        request: Which one.
        folder: Where the processes may exchange a file.

    Raises:
        TaskError: The other process failed; its words are repeated.
    """
    return model_of_arrays(request, _made_apart(request, folder, PATIENCE_S, values=True))


def model_of_arrays(request: InitialRequest, tensors: Mapping[str, NDArray[Any]]) -> InitialModel:
    """What `model_arrays` has made arrays of."""
    return InitialModel(
        manifest=Manifest.from_bytes(tensors["manifest"].tobytes()),
        vectors=Vectors(tensors["parameters"], tensors["statistics"], tensors["counters"]),
        seed=request.seed if request.file is None and request.statistics is None else None,
        inputs=tensors["inputs"].tobytes().decode() or None,
    )


def described_apart(
    request: InitialRequest, folder: Path, *, patience_s: float = PATIENCE_S
) -> tuple[Manifest, str | None]:
    """What the initial model is, without its values, and what is known of its inputs; made in another process.

    Args:
        request: Which model.
        folder: Where the processes may exchange a file.
        patience_s: How long it may take, in seconds.

    Raises:
        TaskError: The other process failed; its words are repeated.
    """
    made = _made_apart(request, folder, patience_s, values=False)
    return Manifest.from_bytes(made["manifest"].tobytes()), made["inputs"].tobytes().decode() or None


def _made_apart(
    request: InitialRequest, folder: Path, patience_s: float, *, values: bool
) -> Mapping[str, NDArray[Any]]:
    out = folder / "initial.safetensors"
    fields = asdict(request) | {"out": str(out), "values": values}
    command = [sys.executable, "-m", "coordinator.global_model.initial", json.dumps(fields)]
    try:
        environment = environment_for(request.task)
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=patience_s, env=environment)
        tensors: Mapping[str, NDArray[Any]] = safetensors.numpy.load_file(out)
    except subprocess.CalledProcessError as error:
        raise TaskError(error.stderr.strip() or f"the initial model's process ended with {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"the initial model of {request.task} took longer than {patience_s:.0f} s") from error
    finally:
        out.unlink(missing_ok=True)
    return tensors


def main(text: str) -> int:
    """Make what the JSON ``text`` asks for and write it to its ``out``; returns the exit code."""
    fields = read_json(text)
    out, values, counted = Path(fields.pop("out")), fields.pop("values"), fields.pop("statistics")
    statistics = None if counted is None else StatisticsRequest.from_json(counted)
    try:
        made = initial_model(InitialRequest(**fields, statistics=statistics))
    except FederationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    tensors = model_arrays(made)
    safetensors.numpy.save_file(tensors if values else {name: tensors[name] for name in ("manifest", "inputs")}, out)
    return 0


def model_arrays(made: InitialModel) -> dict[str, NDArray[Any]]:
    """An initial model as arrays, for another process."""
    return {
        "manifest": np.frombuffer(made.manifest.to_bytes(), np.uint8),
        "parameters": made.vectors.parameters,
        "statistics": made.vectors.statistics,
        "counters": made.vectors.counters,
        "inputs": np.frombuffer((made.inputs or "").encode(), np.uint8),
    }


def _inputs_of(task: Task) -> str | None:
    found = task.inputs() if isinstance(task, Describable) else Inputs()
    return found.to_text() if found.known else None


def _from_file(file: str, made: Parameters, manifest: Manifest) -> Vectors:
    """The file's parameters; SCAFFOLD's controls are in no file, and begin as the task has made them: at zero."""
    controls = {tensor.name: made[tensor.name] for tensor in manifest.tensors if of_scaffold(tensor)}
    try:
        given = safetensors.numpy.load_file(file)
        _check_constants(manifest, given)
        return manifest.flatten({**controls, **given})
    except (OSError, ValueError, SafetensorError, CodecError) as error:
        raise ConfigError("task.initial", f"{file} does not fit the task's model: {error}") from error


def _check_constants(manifest: Manifest, given: Parameters) -> None:
    for tensor in manifest.tensors:
        there = tensor.role is Role.CONSTANT and tensor.name in given
        if there and constant_digest(given[tensor.name]) != tensor.source:
            raise ValueError(f"{tensor.name} never changes, and the file has other values than the task's model")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
