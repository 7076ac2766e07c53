"""SKAB: 34 experiments on a pump loop are 34 nodes, each trained on its normal beginning.

The benchmark's protocol for outliers, from its definition (Katser and Kozitsin, "Skoltech Anomaly Benchmark (SKAB)",
2020): a detector learns the first 400 rows of an experiment, and judges every row of it. True and false alarms and
misses are counted over all rows of all experiments together; F1 = TP / (TP + (FP + FN) / 2), false alarm rate =
FP / (FP + TN), missed alarm rate = FN / (FN + TP).

Threshold and rule are the task's defaults, fixed before any row behind the 400 is looked at, and the same for the
federated model, the same model on pooled data, and one model for each node.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.jobs.row import Row
from federation.errors import TaskError
from federation.task import Parameters, TaskContext
from federation.tasks.arguments import joined
from federation.tasks.data.tables import read_columns
from federation.tasks.registry import load_task
from federation.tasks.sensors.examples import windows_of
from federation.tasks.sensors.rules import point_scores
from federation.tasks.sensors.task import SensorTask
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment

__all__ = ["Confusion", "skab"]

Flags = NDArray[np.bool]

FOLDERS = ("valve1", "valve2", "other")
COLUMNS = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)
NORMAL_ROWS = 400
TASK = joined("sensors/autoencoder", {"columns": COLUMNS, "window": 60, "rows": NORMAL_ROWS, "holdout": 0.0})
ROUNDS, SEEDS = 20, (0,)

PUBLISHED = "published: Conv-AE 0.78 / 13.55 / 28.02; F1 of MSET 0.78, PCA 0.76, LSTM-AE 0.74, isolation forest 0.29"
SHOWN = "valve1-04"
"""The experiment that is drawn."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How alarms and labels agree, over rows.

    Attributes:
        hits: Alarms at rows of an anomaly.
        false: Alarms elsewhere.
        missed: Rows of an anomaly without an alarm.
        quiet: The rest.
    """

    hits: int = 0
    false: int = 0
    missed: int = 0
    quiet: int = 0

    @classmethod
    def of(cls, labels: Flags, alarms: Flags) -> Self:
        """Count one experiment.

        Args:
            labels: Whether each row is an anomaly, bool (rows,).
            alarms: Whether the detector says so, bool (rows,).
        """
        pairs = ((labels & alarms), (~labels & alarms), (labels & ~alarms), (~labels & ~alarms))
        return cls(*(int(each.sum()) for each in pairs))

    def __add__(self, other: "Confusion") -> "Confusion":
        """Both together."""
        return Confusion(
            self.hits + other.hits, self.false + other.false, self.missed + other.missed, self.quiet + other.quiet
        )

    @property
    def f1(self) -> float:
        """0 to 1."""
        return _share(self.hits, (self.false + self.missed) / 2)

    @property
    def false_alarm_rate(self) -> float:
        """In percent."""
        return 100 * _share(self.false, self.quiet)

    @property
    def missed_alarm_rate(self) -> float:
        """In percent."""
        return 100 * _share(self.missed, self.hits)


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part else 0.0


@dataclass(frozen=True)
class Experiment:
    """One node: its task, and what its rows are."""

    name: str
    task: SensorTask
    labels: Flags

    def points(self, parameters: Parameters) -> tuple[NDArray[np.float32], float]:
        """The score of each row, float32 (rows,), and the threshold, both as the device itself has them."""
        rule = self.task.score_rule(parameters)
        series = self.task.readings.series[0]
        starts, windows = windows_of(series, self.task.plan, rule.rows)
        scores = self.task.score(parameters, windows, rule)
        assert rule.threshold is not None  # noqa: S101 - it is the device's own
        return point_scores(scores, starts, rule.rows, len(series.values), rule.points), rule.threshold

    def judged(self, parameters: Parameters, begin: int = 0) -> Confusion:
        """The rows from ``begin`` on."""
        points, threshold = self.points(parameters)
        return Confusion.of(self.labels[begin:], (points > threshold)[begin:])


def skab(data: Path, out: Path) -> Iterator[Row]:
    """The federated model, the same pooled, and each node alone."""
    folder = _folder(data, out)
    experiments = _experiments(folder)
    found: dict[str, list[Confusion]] = {"federated": [], "pooled": [], "alone": []}
    later: list[Confusion] = []
    for seed in SEEDS:
        federated = _federated(folder, seed)
        if seed == SEEDS[0]:
            _draw(next(each for each in experiments if each.name == SHOWN), federated, out / "skab.png")
        found["federated"].append(_judged(experiments, [federated] * len(experiments)))
        later.append(_judged(experiments, [federated] * len(experiments), NORMAL_ROWS))
        found["pooled"].append(_judged(experiments, [_pooled(experiments, seed)] * len(experiments)))
        found["alone"].append(_judged(experiments, _alone(experiments, seed)))
    yield from _rows(found, later)


def _rows(found: Mapping[str, Sequence[Confusion]], later: Sequence[Confusion]) -> Iterator[Row]:
    f1 = {name: float(np.mean([each.f1 for each in some])) for name, some in found.items()}
    federated = found["federated"]
    shown: dict[str, Any] = {
        "model": "convolutional autoencoder of 60 rows, 8 sensors, SKAB",
        "setting": "34 experiments = 34 nodes, first 400 rows of each, 20 rounds of one epoch, Adam 0.001, average; "
        "threshold: the node's own 0.99 quantile; a row is an alarm if all windows over it are",
        "ran": "simulator",
        "reference": f"pooled {_told(found['pooled'])}; each alone {_told(found['alone'])}; {PUBLISHED}",
    }
    each = ", ".join(f"{one.f1:.3f}" for one in federated)
    yield Row(
        job="SKAB, F1",
        figure=f1["federated"],
        unit="",
        bar=0.8,
        spread=f"{_seeds(each)}F1 / false / missed {_told(federated)}",
        **shown,
    )
    rates = [one.false_alarm_rate for one in federated]
    yield Row(
        job="SKAB, false alarms",
        figure=float(np.mean(rates)),
        unit=" %",
        bar=15.0,
        at_least=False,
        spread=f"{_seeds(', '.join(f'{rate:.1f}' for rate in rates))}of the rows behind the 400 alone "
        f"F1 / false / missed {_told(later)}",
        **shown,
    )
    better = max(f1["pooled"], f1["alone"])
    yield Row(
        job="SKAB, F1 above the better of pooled and alone",
        figure=f1["federated"] - better,
        unit="",
        bar=0.0,
        **shown,
    )


def _seeds(each: str) -> str:
    """Each seed's figure, where there are several."""
    return f"mean of {len(SEEDS)} seeds: {each}; " if len(SEEDS) > 1 else ""


def _told(some: Sequence[Confusion]) -> str:
    """Means: F1, false and missed alarms."""
    f1, false, missed = (
        float(np.mean([getattr(each, name) for each in some]))
        for name in ("f1", "false_alarm_rate", "missed_alarm_rate")
    )
    return f"{f1:.3f} / {false:.1f} / {missed:.1f}"


def _folder(data: Path, out: Path) -> Path:
    """A folder with the table of each node, in one order."""
    files = [path for name in FOLDERS for path in sorted((data / "skab" / name).glob("*.csv.gz"))]
    if not files:
        raise TaskError(f"SKAB is not in {data / 'skab'}")
    folder = out / "skab"
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        number = int(path.name.partition(".")[0])
        shutil.copyfile(path, folder / f"{path.parent.name}-{number:02d}.csv.gz")
    return folder


def _experiments(folder: Path) -> list[Experiment]:
    files = sorted(folder.glob("*.csv.gz"))
    build, found = load_task(TASK), []
    for index, path in enumerate(files):
        task = build(TaskContext(node_index=index, node_count=len(files), data=folder, device="cpu"))
        labels = read_columns(path, ["anomaly"])[0]["anomaly"] > 0
        found.append(Experiment(path.name.partition(".")[0], cast("SensorTask", task), labels))
    return found


def _federated(folder: Path, seed: int) -> Parameters:
    count = len(list(folder.glob("*.csv.gz")))
    options = TrainOptions(
        task=TASK, nodes=count, rounds=ROUNDS, per_round=count, data=folder, seed=seed, evaluate_every=0
    )
    experiment = build_experiment(options)
    experiment.run()
    return experiment.manifest.unflatten(experiment.coordinator.model)


def _pooled(experiments: Sequence[Experiment], seed: int) -> Parameters:
    windows = [torch.from_numpy(each.task.readings.train()[0]) for each in experiments]
    return _trained(experiments[0].task, torch.cat(windows), seed)


def _alone(experiments: Sequence[Experiment], seed: int) -> list[Parameters]:
    return [_trained(each.task, torch.from_numpy(each.task.readings.train()[0]), seed) for each in experiments]


def _trained(task: SensorTask, windows: Tensor, seed: int) -> Parameters:
    """As many passes as there are rounds, by the same optimizer from the same initial model, in plain PyTorch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    module: nn.Module = task.module_with(task.initial_parameters(seed)).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(ROUNDS):
        for rows in torch.randperm(len(windows)).split(32):  # type: ignore[no-untyped-call]  # torch has no annotation
            batch = windows[rows]
            loss = nn.functional.mse_loss(module(batch), batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # as above
            optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def _judged(experiments: Sequence[Experiment], models: Sequence[Parameters], begin: int = 0) -> Confusion:
    found = Confusion()
    for each, parameters in zip(experiments, models, strict=True):
        found += each.judged(parameters, begin)
    return found


def _draw(experiment: Experiment, parameters: Parameters, file: Path) -> None:
    points, threshold = experiment.points(parameters)
    rows = np.arange(len(points))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    fault = np.flatnonzero(experiment.labels)
    axes.axvspan(fault[0], fault[-1], color="#f4c7c3")
    axes.axvspan(0, NORMAL_ROWS, color="#e4eaf2")
    axes.plot(rows, points, color="#1f4e79", linewidth=1.2)
    axes.plot(rows, np.where(points > threshold, points, np.nan), color="#c0392b", linewidth=1.6)
    axes.axhline(threshold, color="#555555", linewidth=0.9, linestyle="--")
    axes.set(xlim=(0, len(rows)), ylim=(0, None), xlabel="seconds", ylabel="score (deviations)")
    axes.set_title(f"SKAB {experiment.name}: the federated model, on one pump", loc="left", fontsize=10, pad=18)
    top = axes.get_ylim()[1]
    axes.text(NORMAL_ROWS / 2, top, "this node has trained on", ha="center", va="bottom", fontsize=8, color="#4a6585")
    axes.text(fault[0], top, "fault, as labelled", ha="left", va="bottom", fontsize=8, color="#a8322a")
    axes.text(len(rows), threshold, "threshold ", ha="right", va="bottom", fontsize=8, color="#555555")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=110)
