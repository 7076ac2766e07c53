"""What is kept inside an exported model: which version of which task it is, and how a picture becomes its input."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.errors import ConfigError, TaskError
from federation.picture import PictureInput
from federation.task import Exportable, Task, TaskContext, task_label
from federation.tasks.registry import load_task

__all__ = ["NOTES", "ModelNotes", "TaskSource", "exportable", "notes_of"]

NOTES = "fedmq"
"""Under this name the notes are kept, as JSON."""

NOTES_MAX = 1 << 20
"""Characters; a file with more is not ours."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNotes:
    """The notes.

    Attributes:
        version: Model version.
        task: Label of the task; empty when it was not known.
        classes: Names of the classes in the order of the outputs; empty where they have none.
        picture: How a picture becomes an input; None where inputs are no pictures, or the task was not known.
    """

    version: int
    task: str = ""
    classes: Sequence[str] = ()
    picture: PictureInput | None = None

    @classmethod
    def of(cls, version: int, source: TaskSource, task: Exportable) -> "ModelNotes":
        """What this task's model of a version is kept with."""
        return cls(version=version, task=source.label, classes=tuple(task.classes), picture=task.picture)

    def to_texts(self) -> Mapping[str, str]:
        """As every file format keeps them: texts by name."""
        picture = None if self.picture is None else self.picture.to_dict()
        values = {"version": self.version, "task": self.task, "classes": list(self.classes), "picture": picture}
        return {NOTES: json.dumps(values)}


def notes_of(texts: Mapping[str, str], where: Path) -> ModelNotes:
    """Read what `ModelNotes.to_texts` made.

    Raises:
        ConfigError: There are no notes, or they cannot be read.
    """
    text = texts.get(NOTES, "")
    try:
        if not text or len(text) > NOTES_MAX:
            raise ValueError("there are none")  # noqa: TRY301 - one way out for all that is wrong
        values = json.loads(text)
        picture = values["picture"]
        return ModelNotes(
            version=int(values["version"]),
            task=str(values["task"]),
            classes=tuple(str(name) for name in values["classes"]),
            picture=None if picture is None else PictureInput.from_dict(picture),
        )
    except (ValueError, KeyError, TypeError, AttributeError, TaskError) as error:
        problem = f"{where} was not written by coordinator export: its notes cannot be read ({error})"
        raise ConfigError("--model", problem, source="command line") from error


def exportable(source: TaskSource) -> Exportable:
    """A task that can write its model, and answer.

    Raises:
        ConfigError: The task has no way to do so.
    """
    task = source.build()
    if not isinstance(task, Exportable):
        problem = f"{source.label} has no export and predict (see federation.task.Exportable)"
        raise ConfigError("--task", problem, source="command line")
    return task
