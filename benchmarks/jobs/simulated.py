"""The jobs that run in the simulator with real training: J0, J2, J3, J4, J5, J6 and the simulator's own figure."""

import resource
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch.nn import functional

from benchmarks.algorithm_offline import HARDER, OUTAGES, SETTING, run_offline
from benchmarks.jobs.har_choice import CHOSEN
from benchmarks.jobs.plain import PlainJob, percent_right, run_plain, together
from benchmarks.jobs.row import Row
from federation.task import TaskContext
from federation.tasks.builtin.mlp import initial_mlp, mlp
from federation.tasks.data.whole_data import WholeData
from federation.tasks.registry import load_task
from federation.tasks.training.local_data import as_tensor
from federation.tasks.training.torch_task import TorchTask
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from fedmq.simulation.experiment.experiment import Experiment, Result

__all__ = ["SIMULATED"]

SEEDS = (0, 1, 2)
SIMULATOR = "simulator"

DIGIT = 7
"""Which row of J3's test is shown."""


def j0(data: Path, out: Path) -> Iterator[Row]:
    """938 nodes, ten full-batch steps: many at once, against one after the other."""
    del out
    options = TrainOptions(task="mnist-wide", nodes=938, rounds=10, per_round=938, data=data, workers=2)
    experiment, began_s = build_experiment(options), _cpu_s()
    result = experiment.run()
    cpu_s = _cpu_s() - began_s
    plain = run_plain(_plain("mnist-wide", data, 938, (784, 256, 10), rounds=10, epochs=10, batch=0), percent_right)
    shown: dict[str, Any] = {
        "model": "MLP 784-256-10, MNIST",
        "setting": "938 nodes of 64 standardised images, 10 rounds of all, 10 full-batch steps, SGD 0.1, average",
        "ran": SIMULATOR,
        "reference": f"{plain.last():.2f} %, the same scaling; {plain.wall_s:.0f} s, {plain.cpu_s:.0f} s of CPU",
    }
    yield Row(job="J0", figure=_accuracy(result), unit=" %", bar=88.0, **shown)
    apart = max(
        abs(100 * figures.metrics["accuracy"] - each)
        for figures, each in zip(result.versions, plain.metric, strict=True)
    )
    spread = "the round in which they differ most"
    yield Row(job="J0, points from plain", figure=apart, unit="", bar=0.1, at_least=False, spread=spread, **shown)
    spread = f"{result.wall_s:.0f} s in two processes, stacked; CPU time {cpu_s:.0f} s, {cpu_s / plain.cpu_s:.2f}"
    ratio = result.wall_s / plain.wall_s
    yield Row(job="J0, wall time / plain", figure=ratio, unit="", bar=0.35, at_least=False, spread=spread, **shown)


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def j2(data: Path, out: Path) -> Iterator[Row]:
    """Two nodes, a regression."""
    del out
    found, references = [], []
    for seed in SEEDS:
        options = TrainOptions(task="boston", nodes=2, rounds=100, per_round=2, data=data, seed=seed)
        found.append(build_experiment(options).run().versions[-1].metrics["loss"])
        job = _plain("boston", data, 2, (13, 32, 24, 16, 1), rounds=100, batch=8, learning_rate=0.001, seed=seed)
        references.append(run_plain(job, lambda output, target: float(functional.mse_loss(output, target))).last())
    setting = "2 nodes, 100 rounds of one epoch, batch 8, SGD 0.001, average"
    shown = {
        "model": "MLP 13-32-24-16-1, Boston housing",
        "setting": setting,
        "ran": SIMULATOR,
        "reference": f"{np.mean(references):.2f} (worst {max(references):.2f})",
    }
    spread = f"3 seeds: {', '.join(f'{each:.2f}' for each in found)}"
    yield Row(
        job="J2, test MSE",
        figure=float(np.mean(found)),
        unit="",
        bar=16.0,
        at_least=False,
        spread=f"mean of {spread}",
        **shown,
    )
    ratio = float(np.mean(found) / np.mean(references))
    yield Row(job="J2, MSE / plain", figure=ratio, unit="", bar=1.1, at_least=False, spread="means of 3 seeds", **shown)


def j3(data: Path, out: Path) -> Iterator[Row]:
    """Four local steps and server momentum; every node's loss curve, and a digit."""
    found, last = [], None
    for seed in SEEDS:
        options = TrainOptions(
            task="mnist-logreg", nodes=10, rounds=100, per_round=10, data=data, strategy="fedavgm", seed=seed
        )
        last = build_experiment(options)
        found.append(_accuracy(last.run()))
    job = _plain("mnist-logreg", data, 10, (784, 10), rounds=100, learning_rate=0.1, steps_max=4)
    plain = run_plain(job, percent_right).last()
    if last is not None:
        draw_losses(last, out / "j3-losses.png", "J3: training loss of every node, logistic regression on MNIST")
        draw_digit(last, out / "j3-digit.png")
    yield Row(
        job="J3",
        model="logistic regression 784-10, MNIST",
        setting="10 nodes of 6,000, 100 rounds of 4 steps, batch 32, SGD 0.1, server momentum 0.9",
        ran=SIMULATOR,
        figure=min(found),
        unit=" %",
        bar=91.59,
        reference=f"{plain:.2f} % (plain average)",
        spread=f"least of 3 seeds: {', '.join(f'{each:.2f}' for each in found)}",
    )


def j4(data: Path, out: Path) -> Iterator[Row]:
    """Label-skewed, FedProx, asynchronous; with and without nodes that go offline."""
    del out
    calm = run_offline(data, "")
    for name, outages, how in (
        ("J4, points lost to outages", OUTAGES, "3 of 10 offline at any time, one in and one out every 3 s"),
        ("J4, points lost to longer outages", HARDER, "30 % of the trainings lose their link, for 10 s on average"),
    ):
        hit = run_offline(data, outages)
        yield Row(
            job=name,
            model="CNN, 9,226 parameters, MNIST",
            setting=f"{SETTING}; {how}",
            ran=SIMULATOR,
            figure=calm.accuracy - hit.accuracy,
            unit="",
            bar=0.5,
            at_least=False,
            reference=f"without outages {calm.accuracy:.2f} % ({_listed(calm.each)})",
            spread=f"{hit.accuracy:.2f} %, mean of 3 seeds: {_listed(hit.each)}; offline for {hit.away_share:.0%} of "
            f"the time, {hit.updates:.1f} updates in a version, {hit.late:.0f} updates did not count",
        )


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def j5(data: Path, out: Path) -> Iterator[Row]:
    """Each node a person; the test are people whom no node has seen."""
    del out
    found = []
    for seed in SEEDS:
        options = TrainOptions(
            task="har",
            nodes=16,
            rounds=100,
            per_round=16,
            data=data,
            strategy=CHOSEN.strategy,
            seed=seed,
            settings=(f"train.learning_rate={CHOSEN.learning_rate}",),
        )
        found.append(_accuracy(build_experiment(options).run(), 10))
    job = _plain("har", data, 16, (561, 6), rounds=100, learning_rate=0.05)
    average, pooled = (run_plain(each, percent_right).last(10) for each in (job, together(job)))
    yield Row(
        job="J5",
        model="softmax regression 561-6, UCI HAR",
        setting=f"16 people = 16 nodes, 100 rounds of one epoch, batch 32, {CHOSEN}; 5 others test",
        ran=SIMULATOR,
        figure=min(found),
        unit=" %",
        bar=93.9,
        reference=f"SGD 0.05: all data in one place {pooled:.2f} %, plain average {average:.2f} %",
        spread=f"mean of the last 10 rounds, least of 3 seeds: {', '.join(f'{each:.2f}' for each in found)}",
    )


def j6(data: Path, out: Path) -> Iterator[Row]:
    """The model travels from node to node, against averaging with as much training."""
    del out
    make = partial(TrainOptions, task="mnist-mlp", nodes=2, data=data, partition="shards:5")
    travelling = build_experiment(make(rounds=10, per_round=1, selector="fair")).run()
    averaged = build_experiment(make(rounds=5, per_round=2)).run()
    yield Row(
        job="J6",
        model="MLP 784-128-64-10, MNIST",
        setting="2 nodes with five label shards each, one after the other, 10 visits of one epoch",
        ran=SIMULATOR,
        figure=_accuracy(travelling, 2),
        unit=" %",
        bar=60.0,
        reference=f"averaging, 5 rounds of both: {_accuracy(averaged):.2f} %",
        spread="mean of the last visit to each",
    )


def simulator(data: Path, out: Path) -> Iterator[Row]:
    """1,000 nodes, ten per round."""
    del out
    options = TrainOptions(task="mnist-logreg", nodes=1000, rounds=100, per_round=10, data=data, evaluate_every=10)
    result = build_experiment(options).run()
    yield Row(
        job="simulator, wall time",
        model="logistic regression 784-10, MNIST",
        setting="1,000 nodes of 60 images, 10 per round, 100 rounds of one epoch",
        ran=SIMULATOR,
        figure=result.wall_s,
        unit=" s",
        bar=20.0,
        at_least=False,
        spread=f"{_accuracy(result):.2f} %",
    )


SIMULATED: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    "J0": j0,
    "J2": j2,
    "J3": j3,
    "J4": j4,
    "J5": j5,
    "J6": j6,
    "simulator": simulator,
}
"""By name: from data folder and picture folder to rows."""


def _accuracy(result: Result, last: int = 1) -> float:
    """Percent, mean of the last evaluations."""
    found = [figures.metrics["accuracy"] for figures in result.versions if figures.metrics]
    return 100 * float(np.mean(found[-last:]))


def _plain(name: str, data: Path, nodes: int, widths: tuple[int, ...], **settings: Any) -> PlainJob:
    """The same job for plain PyTorch: the same parts, the same initial model."""
    seed = settings.get("seed", 0)
    context = TaskContext(node_index=0, node_count=nodes, data=data, device="cpu", seed=seed)
    task = load_task(name)(context)
    assert isinstance(task, TorchTask)  # noqa: S101 - the built-in ones are
    assert isinstance(task.train_data, WholeData)  # noqa: S101 - as above
    inputs, targets = (as_tensor(array) for array in task.train_data())
    rows = task.train_data.parts(context, task.split)
    return PlainJob(
        model=mlp(*widths),
        initial=initial_mlp(widths, seed),
        loss=task.loss,
        parts=[(inputs[own], targets[own]) for own in rows],
        tests=tuple(as_tensor(array) for array in task.test_data()),  # type: ignore[arg-type]  # two of them
        **({"learning_rate": 0.1} | settings),
    )


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
