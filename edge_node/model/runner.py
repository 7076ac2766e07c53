"""A written model that answers: an ONNX program by ONNX Runtime, without torch; arrays by the task that made them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors import SafetensorError

from federation.errors import ConfigError, StorageError, TaskError
from federation.model_notes import NOTES, ModelNotes, notes_of
from federation.task import Array, Exportable, Parameters, TaskContext, task_label
from federation.tasks.registry import load_task

__all__ = ["Answering", "load_model"]

TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
"""What ONNX Runtime calls the types that inputs of numbers have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """A model that can be asked.

    Attributes:
        notes: What it is.
        ask: From inputs (n, ...) to answers (n, ...); raises `TaskError`.
        shape: Shape of one input; -1 is any number. None where that is not known.
        kind: Type of the inputs.
    """

    notes: ModelNotes
    ask: Callable[[Array], NDArray[Any]]
    shape: tuple[int, ...] | None = None
    kind: type[np.generic] = np.float32


def load_model(path: Path, task: str | None = None, data: Path | None = None) -> Answering:
    """Open a written model.

    Args:
        path: ``.onnx``, or ``.safetensors`` with its task.
        task: The task's name, for arrays.
        data: Its data folder, where building it needs one.

    Raises:
        ConfigError: It is no such file, or what runs it is not installed, or its task is not known.
        StorageError: It cannot be read.
        TaskError: The task cannot be built.
    """
    match path.suffix.lower():
        case ".onnx":
            return _onnx(path)
        case ".safetensors":
            return _arrays(path, task, data)
        case ".pt2":
            problem = f"{path.name} runs what it brings along when it is loaded: set model.form to onnx or safetensors"
        case _:
            problem = f"{path.name} is no .onnx and no .safetensors"
    raise ConfigError("--model", problem, source="command line")


def _onnx(path: Path) -> Answering:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        problem = "ONNX programs are run by onnxruntime: pip install 'fedmq[score]'"
        raise ConfigError("--model", problem, source="this environment") from error
    options = onnxruntime.SessionOptions()
    # One thread: a window is small, and a pool would spin on the cores that the device needs.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        body = path.read_bytes()
        session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # the package has errors of its own for each kind of damage
        raise StorageError(f"{path} cannot be run: {error}") from error
    notes = notes_of(session.get_modelmeta().custom_metadata_map, path)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TYPES:
        named = ", ".join(f"{each.name} {each.type}" for each in inputs)
        raise ConfigError(
            "--model", f"{path.name} takes {named}: only one input of numbers can be given", source="file"
        )
    name = inputs[0].name

    def ask(given: Array) -> NDArray[Any]:
        try:
            return np.asarray(session.run(None, {name: given})[0])
        except Exception as error:  # as above
            raise TaskError(f"{path.name} cannot be run on this input: {error}") from error

    shape = tuple(each if isinstance(each, int) else -1 for each in inputs[0].shape[1:])
    return Answering(notes=notes, ask=ask, shape=shape, kind=TYPES[inputs[0].type])


def _arrays(path: Path, name: str | None, data: Path | None) -> Answering:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            texts: Mapping[str, str] = file.metadata() or {}
            parameters: Parameters = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read as safetensors: {error}") from error
    notes = notes_of(texts, path) if NOTES in texts else ModelNotes(version=0)
    if name is None or (notes.task and task_label(name) != notes.task):
        problem = f"{path.name} holds arrays of the task {notes.task or '?'}: name it with --task, or --config"
        raise ConfigError("--task", problem, source="command line")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    task = load_task(name)(TaskContext(node_index=None, node_count=1, data=data, device="cpu"))
    if not isinstance(task, Exportable):
        raise ConfigError("--task", f"{name} has no predict (see federation.task.Exportable)", source="command line")
    return Answering(notes=notes, ask=lambda inputs: np.asarray(task.predict(parameters, inputs)))


def as_input(rows: Sequence[Sequence[float]], model: Answering) -> Array:
    """Rows as the model takes them, (n, ...).

    Raises:
        ConfigError: A row has another length than the model's input.
    """
    table = np.asarray(rows, model.kind)
    if model.shape is None:
        return table
    size = int(np.prod(model.shape)) if -1 not in model.shape else -1
    if size not in (-1, table.shape[1]):
        problem = f"rows have {table.shape[1]} numbers, and the model takes {size} (shape {list(model.shape)})"
        raise ConfigError("rows", problem, source="input")
    return table.reshape((len(table), *model.shape))
