"""Writes the ONNX program that all nodes of the demo fill: ``python -m fedmq.demo.sensors FILE``.

Twelve tracings at once, of one program, would take most of a short demo's time on two cores.
"""

import sys
from pathlib import Path

from federation.storage.folder import write_file
from federation.task import Exportable, ProgramForm, TaskContext
from federation.tasks.registry import load_task
from fedmq.demo.sensors.plan import TASK

__all__ = ["main"]


def main() -> None:
    """Build the task without data, and write its first model."""
    task = load_task(TASK)(TaskContext(node_index=None, node_count=1, device="cpu"))
    if isinstance(task, Exportable):
        write_file(Path(sys.argv[1]), task.export(task.initial_parameters(0), ProgramForm.ONNX, {}), durable=False)


if __name__ == "__main__":
    main()
