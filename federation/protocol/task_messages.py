"""What a node says of a task that came over the network (PROTOCOL.md, section 16)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from federation.protocol.fields import Choice, Field, Text
from federation.protocol.limits import REASON_BYTES_MAX
from federation.protocol.tables import COUNT, MessageSchema, message

__all__ = ["TASK_SCHEMAS", "TASK_STATE", "TaskReport", "TaskState"]


class TaskState(StrEnum):
    """What has become of a release on a node."""

    WAITING = "waiting"
    """It is for a share of the nodes, and this one is not among them."""
    FETCHING = "fetching"
    TRYING = "trying"
    """It runs, and its first training has not ended."""
    ACTIVE = "active"
    FAILED = "failed"
    """The node runs the one before again."""
    REFUSED = "refused"
    """It has never run here."""
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """``n/{node}/evt``: what has become of a release of the task.

    Attributes:
        number: Which release.
        step: Which statement about it was heard.
        state: What has become of it.
        running: Release that runs here; 0 is the task that the device's owner has installed.
        reason: Why it has failed, or was refused.
    """

    number: int
    step: int
    state: TaskState
    running: int
    reason: str = ""


TASK_STATE: Final = Choice({state: code for code, state in enumerate(TaskState)})

TASK_SCHEMAS: Final[tuple[MessageSchema, ...]] = (
    message(
        40,
        TaskReport,
        Field(2, "number", COUNT),
        Field(3, "step", COUNT),
        Field(4, "state", TASK_STATE),
        Field(5, "running", COUNT),
        Field(6, "reason", Text(REASON_BYTES_MAX)),
    ),
)
"""Their tables, by ascending type code."""
