"""``coordinator export``: the newest or the best model as a file that other programs read and run."""

import sqlite3
from pathlib import Path

import safetensors.numpy

from coordinator.artifacts.metadata import ModelNotes, TaskSource, exportable
from coordinator.storage.database import DATABASE
from coordinator.storage.evaluations import read_best, read_retained
from coordinator.storage.files import blob_digest, model_file, model_from_bytes, reading
from coordinator.storage.queries import open_read_only
from federation.errors import ConfigError, StorageError
from federation.storage.folder import write_file
from federation.task import Parameters, ProgramForm
from federation.types import ModelVersion
from update_codec import Manifest, Role, Vectors

__all__ = ["BEST", "NEWEST", "export_model", "read_model"]


NEWEST, BEST = "newest", "best"
"""Versions by name."""


def export_model(folder: Path, out: Path, version: str = NEWEST, source: TaskSource | None = None) -> ModelVersion:
    """Write a model of a store, without control variates; the coordinator may be running.

    Args:
        folder: The state folder.
        out: The file to write; its suffix says as what: ``.pt2``, ``.onnx``, and safetensors for every other.
        version: `NEWEST`, `BEST`, or a number: the newest two versions are kept, and the best.
        source: The task; a program cannot be written without it.

    Returns:
        Its version.

    Raises:
        ConfigError: There is no such version, or a program is wanted and no task is given.
        StorageError: There is no model, or it cannot be read or written.
        TaskError: The task cannot write its model so.
    """
    wanted, arrays = read_model(folder, version)
    form = program_form(out)
    if form is None:
        notes = ModelNotes(version=wanted, task="" if source is None else source.label)
        content = safetensors.numpy.save(dict(arrays), metadata=dict(notes.to_texts()))
    else:
        if source is None:
            problem = f"{out.name} is a program, which only the task can write: give --task or --config"
            raise ConfigError("--task", problem, source="command line")
        task = exportable(source)
        notes = ModelNotes.of(wanted, source, task)
        content = task.export(arrays, form, notes.to_texts())
    _write(out, content)
    return wanted


def program_form(path: Path) -> ProgramForm | None:
    """As what kind of program a file of this name is written; None is no program."""
    return next((form for form in ProgramForm if path.suffix.lower() == f".{form}"), None)


def _write(out: Path, content: bytes) -> None:
    """Whole or not at all: a model that is in use may be replaced."""
    try:
        write_file(out, content, durable=False)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error}") from error


def read_model(folder: Path, version: str = NEWEST) -> tuple[ModelVersion, Parameters]:
    """A model of a store by the task's names, and its version; arguments and errors as for `export_model`."""
    database = open_read_only(folder / DATABASE)
    try:
        head = find_version(database, version)
        manifest = database.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
    finally:
        database.close()
    if head is None or manifest is None:
        raise StorageError(f"{folder} has no model yet")
    number = ModelVersion(head["version"])
    with reading(f"model of version {number}"):
        body = (folder / "blobs" / model_file(number)).read_bytes()
    if blob_digest(body) != head["blob_digest"]:
        raise StorageError(f"the model of version {number} is damaged")
    model = model_from_bytes(number, body)
    vectors = Vectors(model.parameters, model.shadow.statistics, model.shadow.counters)
    described = Manifest.from_bytes(manifest["value"])
    controls = {tensor.name for tensor in described.tensors if tensor.role is Role.CONTROL}
    return number, {name: array for name, array in described.unflatten(vectors).items() if name not in controls}


def find_version(database: sqlite3.Connection, version: str) -> sqlite3.Row | None:
    """The row of a version that is kept; None when there is none at all.

    Raises:
        ConfigError: It is not kept, or nothing has been called the best yet.
    """
    query = "SELECT version, blob_digest FROM versions ORDER BY version DESC"
    rows: list[sqlite3.Row] = database.execute(query).fetchall()
    if version == NEWEST or not rows:
        return rows[0] if rows else None
    retained, best = read_retained(database), read_best(database)
    kept = {str(row["version"]): row for row in rows if row["version"] in retained}
    kept |= {str(row["version"]): row for row in rows[:2]}
    if version == BEST and best is None:
        raise ConfigError("--version", "no version has been evaluated, so none is the best", source="command line")
    found = kept.get(str(best) if version == BEST else version)
    if found is None:
        there = ", ".join(sorted(kept, key=int))
        raise ConfigError("--version", f"{version} is not kept; there are {there}", source="command line")
    return found
