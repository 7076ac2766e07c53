"""What is kept inside a written model: which version of which task it is, and what its inputs and outputs mean."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from federation.documents import read_json
from federation.errors import ConfigError, TaskError
from federation.inputs import Describable
from federation.picture import PictureInput
from federation.task import Exportable, Parameters
from federation.tasks.sensors.rules import ScoreRule

__all__ = ["NOTES", "ModelNotes", "Scorable", "notes_of"]

NOTES = "fedmq"
"""Under this name the notes are kept, as JSON."""

NOTES_MAX = 1 << 20
"""Characters; a file with more is not ours."""


@runtime_checkable
class Scorable(Protocol):
    """A task whose model scores windows of readings."""

    def score_rule(self, parameters: Parameters) -> ScoreRule:
        """How this model's answers become scores, with this participant's threshold.

        Raises:
            TaskError: The data or the parameters cannot be used.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNotes:
    """The notes.

    Attributes:
        version: Model version.
        task: Label of the task; empty when it was not known.
        classes: Names of the classes in the order of the outputs; empty where they have none.
        picture: How a picture becomes an input; None where inputs are no pictures, or the task was not known.
        features: Names of the inputs, in their order; empty where they have none.
        score: How windows of readings become scores; None where the inputs are no such windows.
    """

    version: int
    task: str = ""
    classes: Sequence[str] = ()
    picture: PictureInput | None = None
    features: Sequence[str] = ()
    score: ScoreRule | None = None

    @classmethod
    def of(cls, version: int, label: str, task: object, parameters: Parameters | None = None) -> Self:
        """What a task's model of a version is kept with.

        Args:
            version: Its version.
            label: The task's name.
            task: The task.
            parameters: The model's, where its threshold is to be known.

        Raises:
            TaskError: The task's data cannot be read.
        """
        known: dict[str, Any] = {}
        if isinstance(task, Exportable):
            known |= {"classes": tuple(task.classes), "picture": task.picture}
        if isinstance(task, Describable):
            inputs = task.inputs()
            known |= {"features": inputs.features, "classes": known.get("classes") or inputs.classes}
        if isinstance(task, Scorable) and parameters is not None:
            known["score"] = task.score_rule(parameters)
        return cls(version=version, task=label, **known)

    def to_dict(self) -> dict[str, object]:
        """As plain data; what is not known of newer parts is left out."""
        known: dict[str, object] = {
            "version": self.version,
            "task": self.task,
            "classes": list(self.classes),
            "picture": None if self.picture is None else self.picture.to_dict(),
        }
        known |= {"features": list(self.features)} if self.features else {}
        return known | ({} if self.score is None else {"score": self.score.to_json()})

    def to_texts(self) -> Mapping[str, str]:
        """As every file format keeps them: texts by name."""
        return {NOTES: json.dumps(self.to_dict())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` made.

        Raises:
            TaskError: It is something else.
        """
        try:
            picture, score = values["picture"], values.get("score")
            return cls(
                version=int(values["version"]),
                task=str(values["task"]),
                classes=tuple(str(name) for name in values["classes"]),
                picture=None if picture is None else PictureInput.from_dict(picture),
                features=tuple(str(name) for name in values.get("features", ())),
                score=None if score is None else ScoreRule.from_json(score),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TaskError(f"a model's notes cannot be read: {error}") from error


def notes_of(texts: Mapping[str, str], where: Path) -> ModelNotes:
    """Read what `ModelNotes.to_texts` made.

    Raises:
        ConfigError: There are no notes, or they cannot be read.
    """
    text = texts.get(NOTES, "")
    try:
        if not text or len(text) > NOTES_MAX:
            raise ValueError("there are none")  # noqa: TRY301 - one way out for all that is wrong
        return ModelNotes.from_dict(read_json(text))
    except (ValueError, TaskError) as error:
        problem = f"{where} was not written by this software: its notes cannot be read ({error})"
        raise ConfigError("--model", problem, source="command line") from error
