"""``coordinator export``: the newest or the best model as a file that other programs read and run."""

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy

from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import ConfigError, StorageError
from federation.inputs import Describable, Inputs
from federation.model_notes import ModelNotes
from federation.out_files import check_file
from federation.storage.folder import write_file
from federation.task import Completable, Exportable, Parameters, ProgramForm, Task, TaskContext, task_label
from federation.tasks.registry import load_task
from federation.tasks.scaffold import of_scaffold
from federation.types import ModelVersion
from update_codec import Vectors

__all__ = ["BEST", "NEWEST", "TaskSource", "constants_of", "export_model", "exportable", "kept_line", "read_model"]


ARRAYS = ".safetensors"
ENDINGS: Mapping[str, str] = {
    ARRAYS: "the arrays, by the task's names",
    f".{ProgramForm.PT2}": "a program for torch.export.load",
    f".{ProgramForm.ONNX}": "a program for any ONNX runtime",
}
"""What a model is written as, by the ending of its file's name."""

NEWEST, BEST = "newest", "best"
"""Versions by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    """Where a task comes from.

    Attributes:
        name: Its name, or ``file.py:function``.
        data: Its data folder, or None.
        node_count: Parts of the data, where the task asks.
    """

    name: str
    data: Path | None = None
    node_count: int = 1

    @property
    def label(self) -> str:
        """Its name without folders."""
        return task_label(self.name)

    def build(self) -> Task:
        """Make the task as a coordinator does."""
        return load_task(self.name)(
            TaskContext(node_index=None, node_count=self.node_count, data=self.data, device="cpu")
        )


def exportable(source: TaskSource, folder: Path | None = None) -> Exportable:
    """A task that can write its model, and answer.

    Args:
        source: Where it comes from.
        folder: The state folder whose model it is, where it is of one.

    Raises:
        ConfigError: The task has no way to do so, or means other classes or inputs than the run.
    """
    task = source.build()
    if folder is not None and isinstance(task, Describable):
        with ReadOnlyStore(folder) as store:
            began = store.inputs()
        if began is not None and (other := task.inputs().contradiction(Inputs.from_text(began))):
            raise ConfigError("--task", f"{source.label} is not what the run trains: {other}", source="command line")
    if not isinstance(task, Exportable):
        problem = f"{source.label} has no export and predict (see federation.task.Exportable)"
        raise ConfigError("--task", problem, source="command line")
    return task


def export_model(folder: Path, out: Path, version: str = NEWEST, source: TaskSource | None = None) -> ModelVersion:
    """Write a model of a store, without control variates; the coordinator may be running.

    What never changes is in no store: a file of parameters has it where the task is given.

    Args:
        folder: The state folder.
        out: The file to write; its suffix says as what: ``.safetensors``, ``.pt2`` or ``.onnx``.
        version: `NEWEST`, `BEST`, or a number: the newest two versions are kept, and the best.
        source: The task; a program cannot be written without it.

    Returns:
        Its version.

    Raises:
        ConfigError: The suffix is none of these, there is no such version, or a program is wanted and no task is given.
        StorageError: There is no model, or it cannot be read or written.
        TaskError: The task cannot write its model so.
    """
    check_export(folder, out, version, source)
    form = program_form(out)
    wanted, arrays = read_model(folder, version)
    if form is None:
        notes = ModelNotes(version=wanted, task="" if source is None else source.label)
        # Only what never changes needs the task: all other parameters are written without its libraries.
        built = source.build() if source is not None and constants_of(folder) else None
        arrays = built.complete(arrays) if isinstance(built, Completable) else arrays
        content = safetensors.numpy.save(dict(arrays), metadata=dict(notes.to_texts()))
    else:
        source = _needed(source, out)
        task = exportable(source, folder)
        notes = ModelNotes.of(wanted, source.label, task)
        content = task.export(arrays, form, notes.to_texts())
    _write(out, content)
    return wanted


def check_export(folder: Path, out: Path, version: str, source: TaskSource | None) -> None:
    """Ask all that can be asked before the task is loaded; arguments and errors as for `export_model`."""
    form = program_form(out)
    if form is None and out.suffix.lower() != ARRAYS:
        problem = f"{out.name} says not as what: its ending must be {', '.join(sorted(ENDINGS))}{_near(out.suffix)}"
        raise ConfigError("FILE", problem, source="command line")
    check_file("FILE", out)
    if form is not None:
        _needed(source, out)
    with ReadOnlyStore(folder) as store:
        if find_version(store, version) is None:
            raise StorageError(f"{folder} has no model yet")


def _needed(source: TaskSource | None, out: Path) -> TaskSource:
    if source is None:
        problem = f"{out.name} is a program, which only the task can write: give --task or --config"
        raise ConfigError("--task", problem, source="command line")
    return source


def kept_line(folder: Path, task: str) -> str:
    """Where a run is kept, and what can be done with it: a line for a person, and one to be pasted, for every task."""
    state, named = shlex.quote(str(folder)), shlex.quote(task)
    more = f"for status, plot, predict and export (a torch model also as model.onnx, with --task {named})"
    return f"kept in {folder}, {more}:\ncoordinator export model.safetensors --state {state}"


def program_form(path: Path) -> ProgramForm | None:
    """As what kind of program a file of this name is written; None is no program."""
    return next((form for form in ProgramForm if path.suffix.lower() == f".{form}"), None)


def _near(suffix: str) -> str:
    """The ending that was meant, where it can be guessed; and what is for other programs' endings."""
    if suffix.lower() in {".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npz", ".h5"}:
        return f" (for weights: {ARRAYS}, which torch, NumPy and others read)"
    near = difflib.get_close_matches(suffix.lower(), ENDINGS, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _write(out: Path, content: bytes) -> None:
    """Whole or not at all: a model that is in use may be replaced."""
    try:
        write_file(out, content, durable=False)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error}") from error


def read_model(folder: Path, version: str = NEWEST) -> tuple[ModelVersion, Parameters]:
    """A model of a store by the task's names, and its version; arguments and errors as for `export_model`."""
    with ReadOnlyStore(folder) as store:
        number = find_version(store, version)
        if number is None:
            raise StorageError(f"{folder} has no model yet")
        model, described = store.model(number), store.manifest()
    vectors = Vectors(model.parameters, model.shadow.statistics, model.shadow.counters)
    controls = {tensor.name for tensor in described.tensors if of_scaffold(tensor)}
    return number, {name: array for name, array in described.unflatten(vectors).items() if name not in controls}


def constants_of(folder: Path) -> tuple[str, ...]:
    """Names of what never changes in a store's model: its values are with the task alone."""
    with ReadOnlyStore(folder) as store:
        return store.manifest().constants


def find_version(store: ReadOnlyStore, version: str) -> ModelVersion | None:
    """A version that is kept; None when there is none at all.

    Raises:
        ConfigError: It is not kept, or nothing has been called the best yet.
    """
    kept, best = store.kept_models(), store.best()
    if version == NEWEST or not kept:
        return store.head()
    if version == BEST and best is None:
        raise ConfigError("--version", "no version has been evaluated, so none is the best", source="command line")
    found = {str(one): one for one in kept}.get(str(best) if version == BEST else version)
    if found is None:
        there = ", ".join(map(str, kept))
        raise ConfigError("--version", f"{version} is not kept; there are {there}", source="command line")
    return found
