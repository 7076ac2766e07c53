"""J3's pictures: every node's loss curve, and one test digit with its prediction."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from federation.tasks.training.torch_task import TorchTask
from fedmq.simulation.experiment.experiment import Experiment

__all__ = ["draw_digit", "draw_losses"]

DIGIT = 7
"""Which row of the test is shown."""


def draw_losses(experiment: Experiment, out: Path, title: str) -> None:
    """One line per node: mean training loss over the versions it took part in."""
    figure = Figure(figsize=(8.4, 4.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    versions = experiment.figures
    for node in range(experiment.plan.nodes):
        points = [(each.version, each.losses[node]) for each in versions if node in each.losses]
        colour = colormaps["tab10"](node % 10)
        axes.plot(*zip(*points, strict=True), lw=1.1, color=colour, label=experiment.names[node])
    axes.set_title(title, loc="left")
    axes.set_xlabel("model version")
    axes.set_ylabel("mean training loss (cross-entropy, nats)")
    axes.set_ylim(bottom=0)
    axes.grid(color="#e5e7eb", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(out)


def draw_digit(experiment: Experiment, out: Path) -> None:
    """The picture, and how sure the last model is of each class."""
    context = experiment.pool.context
    task = experiment.pool.server
    assert isinstance(task, TorchTask)  # noqa: S101 - the job's own
    images, labels = task.test_data()
    parameters = experiment.manifest.unflatten(experiment.coordinator.model)
    logits = np.asarray(task.predict(parameters, images[DIGIT : DIGIT + 1]))[0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    figure = Figure(figsize=(7.2, 3.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.imshow(images[DIGIT].reshape(28, 28), cmap="gray_r")
    left.set_title(f"test digit {DIGIT}: it is a {labels[DIGIT]}", loc="left")
    left.set_axis_off()
    right.bar(range(10), shares, color=["#2563eb" if each == shares.argmax() else "#cbd5e1" for each in range(10)])
    right.set_title(f"prediction: {shares.argmax()} ({shares.max():.1%}), {context.node_count} nodes", loc="left")
    right.set_xticks(range(10))
    right.set_xlabel("digit")
    right.set_ylabel("probability")
    right.set_ylim(0, 1)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)
