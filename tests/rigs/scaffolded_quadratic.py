"""The quadratic task under SCAFFOLD, as a task of its own: a simulation makes its models from the task alone."""

from federation.task import TaskContext
from federation.tasks.builtin.synthetic import QuadraticTask
from federation.tasks.scaffold import ScaffoldTask, scaffolded

SIZE = 20


def build(context: TaskContext) -> ScaffoldTask:
    """The factory."""
    return scaffolded(QuadraticTask(context, size=SIZE))
