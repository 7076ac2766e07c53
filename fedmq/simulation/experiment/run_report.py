"""A simulated run as the report of a real one, for ``coordinator plot`` and ``coordinator compare``."""

from collections.abc import Mapping
from typing import Any

from coordinator.monitoring.report import build_report
from fedmq.simulation.experiment.experiment import Experiment, Result

__all__ = ["run_report"]


def run_report(experiment: Experiment, result: Result, *, strategy: str, codec: str) -> Mapping[str, Any]:
    """What `coordinator.monitoring.report.build_report` says of the store, with what only the simulator knows.

    Times are virtual. ``bytes_up`` counts the frames of the updates, each as large as the mean of the run; models and
    messages do not travel in this simulation, so ``bytes_down`` is 0.
    """
    made: dict[str, Any] = build_report(experiment.coordinator.store, strategy=strategy, codec=codec)
    figures = {one.version: one for one in result.versions}
    frame_bytes = result.payload_bytes / max(1, sum(result.verdicts.values()))
    for row in made["rounds"]:
        metrics = dict(figures[row["version"]].metrics) if row["version"] in figures else {}
        updates = row["accepted"] + row["stale"] + row["refused"]
        row |= {"metrics": metrics, "accuracy": metrics.get("accuracy"), "loss": metrics.get("loss")}
        row |= {"bytes_up": round(frame_bytes * updates), "bytes_down": 0}
    made["updates"] |= {"loss": _losses(made["updates"], experiment, result)}
    made |= {"bytes_up_total": result.payload_bytes, "bytes_down_total": 0, "nodes": experiment.plan.nodes}
    return made | {"final_accuracy": next((row["accuracy"] for row in reversed(made["rounds"])), None)}


def _losses(updates: Mapping[str, Any], experiment: Experiment, result: Result) -> list[float | None]:
    """The training loss of each update that is part of a version."""
    known = {
        (experiment.names[index], one.version): loss for one in result.versions for index, loss in one.losses.items()
    }
    return [known.get(key) for key in zip(updates["node"], updates["version"], strict=True)]
