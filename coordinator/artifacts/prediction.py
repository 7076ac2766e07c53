"""Ask a model about a picture: an exported one, or one in a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from coordinator.artifacts.export import TaskSource, exportable, program_form, read_model
from federation.errors import ConfigError, StorageError, TaskError
from federation.model_notes import NOTES, ModelNotes, notes_of
from federation.task import Array, Parameters, ProgramForm
from federation.tasks.registry import BUILTIN_TASKS

__all__ = ["Prediction", "predict_with_file", "predict_with_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says about one input.

    Attributes:
        notes: Which model.
        classes: Names of the classes; empty where the model gives a number.
        scores: A probability for each class, or the model's numbers.
        inputs: What it was shown, shape (1, ...).
    """

    notes: ModelNotes
    classes: Sequence[str]
    scores: NDArray[np.float64]
    inputs: Array

    def ranked(self) -> list[tuple[str, float]]:
        """Classes and probabilities, the likeliest first."""
        order = np.argsort(-self.scores, kind="stable")
        return [(self.classes[index], float(self.scores[index])) for index in order] if self.classes else []

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        known = {"task": self.notes.task, "version": self.notes.version}
        if not self.classes:
            return known | {"output": [float(score) for score in self.scores]}
        name, probability = self.ranked()[0]
        shares = dict(zip(self.classes, map(float, self.scores), strict=True))
        return known | {"class": name, "probability": probability, "probabilities": shares}


def predict_with_file(image: Path, model: Path, source: TaskSource | None = None) -> Prediction:
    """Ask an exported model: ONNX needs nothing but itself, safetensors the task that they belong to.

    Raises:
        ConfigError: It is no such file, or its task is needed and unknown.
        StorageError: It cannot be read.
        TaskError: The picture cannot be read, or the model cannot answer.
    """
    form = program_form(model)
    if form is ProgramForm.PT2:
        problem = f"{model.name} runs what it brings along when it is loaded: export as .onnx or .safetensors"
        raise ConfigError("--model", problem, source="command line")
    if form is ProgramForm.ONNX:
        return _ask_onnx(image, model)
    parameters, notes = _read_safetensors(model)
    if source is None:
        if notes.task not in BUILTIN_TASKS:
            named = f" ({notes.task})" if notes.task else ""
            problem = f"{model.name} holds parameters only: name its task{named}"
            raise ConfigError("--task", problem, source="command line")
        source = TaskSource(name=notes.task)
    return _ask_task(image, source, parameters, notes.version)


def predict_with_store(image: Path, folder: Path, version: str, source: TaskSource) -> Prediction:
    """Ask a version of a store.

    Raises:
        ConfigError: There is no such version, or the task reads no pictures.
        StorageError: It cannot be read.
        TaskError: The picture cannot be read, or the model cannot answer.
    """
    number, parameters = read_model(folder, version)
    return _ask_task(image, source, parameters, number, folder)


def _ask_task(
    image: Path, source: TaskSource, parameters: Parameters, version: int, folder: Path | None = None
) -> Prediction:
    task = exportable(source, folder)
    notes = ModelNotes.of(version, source.label, task)
    inputs = _input_of(image, notes, source.label)
    return _prediction(notes, inputs, task.predict(parameters, inputs))


def _ask_onnx(image: Path, path: Path) -> Prediction:
    """With ONNX's own evaluator in NumPy: slow, and there wherever the package is."""
    try:
        import onnx  # noqa: PLC0415 - an extra
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        problem = f"ONNX files need {error.name}: pip install 'fedmq[onnx]'"
        raise ConfigError("--model", problem, source="this environment") from error
    try:
        content = onnx.load_from_string(path.read_bytes())
    except Exception as error:  # the package lets protobuf's own errors through
        raise StorageError(f"{path} cannot be read as ONNX: {error}") from error
    notes = notes_of({prop.key: prop.value for prop in content.metadata_props}, path)
    inputs = _input_of(image, notes, path.name)
    try:
        (answer, *_) = ReferenceEvaluator(content).run(None, {content.graph.input[0].name: inputs})
    except Exception as error:  # whatever an operator's implementation raises
        raise TaskError(f"{path.name} cannot be run on this input: {type(error).__name__}: {error}") from error
    return _prediction(notes, inputs, np.asarray(answer))


def _read_safetensors(path: Path) -> tuple[Parameters, ModelNotes]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            texts: Mapping[str, str] = file.metadata() or {}
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read as safetensors: {error}") from error
    return parameters, notes_of(texts, path) if NOTES in texts else ModelNotes(version=0)


def _input_of(image: Path, notes: ModelNotes, model: str) -> NDArray[np.float32]:
    if notes.picture is None:
        problem = f"{model} says nothing about pictures: give TorchTask(picture=PictureInput(...))"
        raise ConfigError("--image", problem, source="command line")
    return notes.picture.read(image)


def _prediction(notes: ModelNotes, inputs: Array, answer: Array) -> Prediction:
    row = np.asarray(answer, np.float64).reshape(len(answer), -1)[0]
    if not np.isfinite(row).all():
        raise TaskError("the model answers with NaN or infinity")
    if len(row) == 1:
        return Prediction(notes=notes, classes=(), scores=row, inputs=inputs)
    classes = notes.classes or tuple(str(index) for index in range(len(row)))
    if len(classes) != len(row):
        raise TaskError(f"the model has {len(row)} outputs, and its task names {len(classes)} classes")
    shares = np.exp(row - row.max())
    return Prediction(notes=notes, classes=classes, scores=shares / shares.sum(), inputs=inputs)
