"""A task of a file, trained by the simulator: the machines of production, without a broker."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from fedmq.simulation.experiment.experiment import Result


def train_simulated(task: str, **changes: Any) -> tuple[Mapping[str, Any], Result]:
    """The arrays of the last version, and what the run came to."""
    experiment = build_experiment(TrainOptions(task=task, stacked=False, **changes))
    result = experiment.run()
    return experiment.manifest.unflatten(experiment.coordinator.model), result


def code_block(page: Path, text: str) -> str:
    """The one Python block of a page that has this text."""
    blocks = [part.split("```")[0] for part in page.read_text("utf-8").split("```python\n")[1:]]
    (found,) = [block for block in blocks if text in block]
    return found
