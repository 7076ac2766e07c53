"""C-MAPSS FD001: 100 engines are 100 nodes, each run to its failure; 100 others, cut off, are the test.

The usual task (Saxena et al., "Damage propagation modeling for aircraft engine run-to-failure simulation", PHM 2008;
Heimes, PHM 2008, for the cap): from the last 30 cycles of an engine, how many are left, where more than 125 are not
told apart. The figure is the root of the mean squared error over the 100 test engines, in cycles. Sensors that never
change are left out; all nodes share one scaler, that of the training engines' sums.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.jobs.row import Row
from federation.errors import TaskError
from federation.task import Parameters, TaskContext
from federation.tasks.arguments import joined
from federation.tasks.registry import load_task
from federation.tasks.sensors.task import SensorTask, TableSource
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment

__all__ = ["fd001"]

ENGINES, SEEDS = 100, (0, 1, 2)
SENSORS_FROM, SENSORS = 5, 21
"""Columns: engine, cycle, three settings, then the sensors."""

TARGET, SCALER = "left", "scaler.json"
CAP, BATCH = 125, 64
ROUNDS, PER_ROUND = 250, 15
EPOCHS = 10
"""Of the pooled model."""

SETTINGS = (
    "strategy.server_learning_rate=0.008",
    "strategy.tau=1e-6",
    "train.max_steps=2",
    "train.batch_size=32",
    "train.schedule=cosine",
)
"""Both models' learning rates end at 0: else a hundred engines' error moves by a cycle from version to version."""

Table = NDArray[np.float64]


def fd001(data: Path, out: Path) -> Iterator[Row]:
    """The federated model against the same on pooled data."""
    folder = out / "fd001"
    task = _prepared(data, folder)
    federated, pooled, last = [], [], dict[str, NDArray[np.generic]]()
    for seed in SEEDS:
        found, parameters = _federated(task, folder, seed)
        last = last or dict(parameters)
        federated.append(found)
        pooled.append(_pooled(task, folder, seed))
    _draw(_server(task, folder), last, out / "fd001.png")
    yield from _rows(federated, pooled)


def _rows(federated: list[float], pooled: list[float]) -> Iterator[Row]:
    shown: dict[str, Any] = {
        "model": "GRU of 32 over 30 cycles, 14 sensors, C-MAPSS FD001",
        "setting": f"100 engines = 100 nodes, {PER_ROUND} per round, {ROUNDS} rounds of two steps of 32, "
        "SGD 0.05 (cosine), fedadam",
        "ran": "simulator",
        "reference": f"pooled {np.mean(pooled):.2f} ({_listed(pooled)}), {EPOCHS} epochs of Adam 0.001; "
        "published: deep LSTM 16.14, deep convolutional network 12.61",
    }
    spread = f"mean of 3 seeds: {_listed(federated)}"
    mean = float(np.mean(federated))
    yield Row(job="FD001, RMSE", figure=mean, unit=" cycles", bar=15.0, at_least=False, spread=spread, **shown)
    ratio = mean / float(np.mean(pooled))
    yield Row(
        job="FD001, RMSE / pooled", figure=ratio, unit="", bar=1.05, at_least=False, spread="means of 3 seeds", **shown
    )


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _prepared(data: Path, folder: Path) -> str:
    """Write a table for each engine, and the scaler; give the task's name."""
    trains, tests, left = (_read(data, name) for name in ("train_FD001", "test_FD001", "RUL_FD001"))
    sensors = [
        column for column in range(SENSORS_FROM, SENSORS_FROM + SENSORS) if len(np.unique(trains[:, column])) > 2
    ]
    names = [f"s{column - SENSORS_FROM + 1}" for column in sensors]
    for engine in range(1, ENGINES + 1):
        _write(folder / "train" / f"{engine:03d}.csv", names, trains[trains[:, 0] == engine][:, sensors])
        rows = tests[tests[:, 0] == engine][:, sensors]
        labels = [""] * (len(rows) - 1) + [f"{left[engine - 1, 0]:g}"]
        _write(folder / "test" / f"{engine:03d}.csv", names, rows, labels)
    moments = {
        name: {"mean": float(trains[:, column].mean()), "std": float(trains[:, column].std())}
        for name, column in zip(names, sensors, strict=True)
    }
    (folder / SCALER).write_text(json.dumps({"columns": moments}))
    told = {"columns": names, "window": 30, "model": "gru", "target": TARGET, "cap": CAP, "scaler": SCALER}
    return joined("sensors/remaining-life", told)


def _read(data: Path, name: str) -> Table:
    path = data / "cmapss" / f"{name}.txt.gz"
    if not path.is_file():
        raise TaskError(f"C-MAPSS FD001 is not in {path.parent}")
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, ndmin=2)


def _write(file: Path, names: list[str], rows: Table, labels: list[str] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [[f"{value:g}" for value in row] for row in rows]
    lines = [",".join([*names, *([TARGET] if labels else [])])]
    lines += [",".join([*row, *([labels[place]] if labels else [])]) for place, row in enumerate(cells)]
    file.write_text("\n".join(lines) + "\n")


def _server(task: str, folder: Path) -> SensorTask:
    context = TaskContext(node_index=None, node_count=ENGINES, data=folder, device="cpu")
    return cast("SensorTask", load_task(task)(context))


def _tables(server: SensorTask) -> TableSource:
    assert isinstance(server.source, TableSource)  # noqa: S101 - the job has given a folder
    return server.source


def _federated(task: str, folder: Path, seed: int) -> tuple[float, Parameters]:
    options = TrainOptions(
        task=task,
        nodes=ENGINES,
        rounds=ROUNDS,
        per_round=PER_ROUND,
        data=folder,
        seed=seed,
        strategy="fedadam",
        settings=SETTINGS,
        evaluate_every=50,
    )
    experiment = build_experiment(options)
    return experiment.run().versions[-1].metrics["rmse"], experiment.manifest.unflatten(experiment.coordinator.model)


def _pooled(task: str, folder: Path, seed: int) -> float:
    """The same model in plain PyTorch, with all windows in one place."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    server = _server(task, folder)
    inputs, targets = (torch.from_numpy(each) for each in _tables(server).everybodys()[:2])
    test_inputs, test_targets = (torch.from_numpy(each) for each in _tables(server).tests())
    module = server.module_with(server.initial_parameters(seed)).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(BATCH):  # type: ignore[no-untyped-call]  # torch has no annotation
            loss = ((module(inputs[rows]) - targets[rows]) / CAP).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((module(test_inputs) - test_targets).square().mean().sqrt())


def _draw(server: SensorTask, parameters: Parameters, file: Path) -> None:
    inputs, found = _tables(server).tests()
    targets = found.astype(np.float64)
    told = server.predict(parameters, inputs).astype(np.float64)
    order = np.argsort(targets, kind="stable")[::-1]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(targets[order], color="#555555", linewidth=1.4)
    axes.vlines(np.arange(len(order)), targets[order], told[order], color="#b9cfe4", linewidth=1.6)
    axes.scatter(np.arange(len(order)), told[order], color="#1f4e79", s=12, zorder=3)
    axes.set(xlim=(-1, len(order)), ylim=(0, 140), xlabel="test engines, by what is left", ylabel="cycles left")
    error = float(np.sqrt(np.mean((told - targets) ** 2)))
    title = f"C-MAPSS FD001: 100 engines that nobody has trained on, the federated model's error is {error:.1f} cycles"
    axes.set_title(title, loc="left", fontsize=10)
    axes.text(0, 128, "true (at most 125 are told apart)", va="bottom", fontsize=8, color="#555555")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=110)
