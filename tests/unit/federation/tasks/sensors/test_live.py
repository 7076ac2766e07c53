"""A sensor task on readings that go on arriving: each round has what is there then, and a late label its window."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from federation.errors import TaskError
from federation.readings.live import Readings
from federation.readings.windows import WindowSpec
from federation.task import TaskContext
from federation.tasks.check import check_task
from federation.tasks.registry import default_settings, load_task
from federation.tasks.sensors.live import LiveSource
from federation.tasks.sensors.task import SensorTask


class Device:
    """Readings in memory; `said` are the uses that the task has named."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, str, float]] = []
        self.said: list[tuple[WindowSpec, Mapping[str, tuple[float, float]]]] = []

    def measure(self, begin: int, count: int, level: float = 0.0) -> None:
        for row in range(begin, begin + count):
            self.rows += [(float(row), "flow", level + np.sin(row / 3)), (row + 0.5, "current", np.cos(row / 3))]

    def read(self, columns: Sequence[str], *, since: float | None = None) -> Readings:
        found = sorted(row for row in self.rows if row[1] in columns)
        return Readings(
            tuple(columns),
            np.array([row[0] for row in found], np.float64),
            np.array([columns.index(row[1]) for row in found], np.int64),
            np.array([row[2] for row in found], np.float64),
        )

    def uses(self, spec: WindowSpec, scaler: Mapping[str, tuple[float, float]] | None = None) -> None:
        self.said.append((spec, dict(scaler or {})))


def build(device: Device, kind: str = "autoencoder", **more: object) -> SensorTask:
    arguments = {"columns": ["flow", "current"], "window": 8, "width": 8, "period_s": 1.0, **more}
    context = TaskContext(node_index=0, node_count=1, device="cpu", arguments=arguments, readings=device)
    task = load_task(f"sensors/{kind}")(context)
    assert isinstance(task, SensorTask)
    return task


SETTINGS = replace(default_settings("sensors/autoencoder"), batch_size=16)


def test_each_round_trains_on_what_is_there_then() -> None:
    device = Device()
    task = build(device)
    assert task.is_live
    device.measure(0, 50)
    parameters = task.initial_parameters(0)
    first = task.train(parameters, SETTINGS, bool)
    device.measure(50, 50)
    second = task.train(parameters, SETTINGS, bool)
    assert (first.num_examples, second.num_examples) == (40 - 7, 80 - 7)
    assert second.metrics["test_examples"] == 20 - 7
    assert device.said[0][0] == WindowSpec(("flow", "current"), 8, 1, 1.0)
    assert task.evaluate(parameters)["test_examples"] == 13
    check_task(task)


def test_one_broken_value_costs_its_own_reading() -> None:
    """It made the scale of its column so large that all other values were one; or it ended every round."""
    device, clean = Device(), Device()
    for one in (device, clean):
        one.measure(0, 100)
    device.rows[60:62] = [(30.0, "flow", -1e38), (30.5, "current", 3e38)]
    task, other = build(device), build(clean)
    parameters = task.initial_parameters(0)
    trained = task.train(parameters, SETTINGS, bool)
    assert trained.num_examples == other.train(parameters, SETTINGS, bool).num_examples
    assert task.readings.scaler.std == pytest.approx(other.readings.scaler.std, rel=0.05)
    assert np.isfinite(trained.metrics["loss"])
    device.rows.append((100.0, "flow", 1e38))  # among what is held out
    assert np.isfinite(task.train(parameters, SETTINGS, bool).metrics["loss"])


def test_a_new_device_starts_and_says_what_it_waits_for() -> None:
    device = Device()
    task = build(device)
    task.prepare()
    assert task.private_objection() is None
    with pytest.raises(TaskError, match="no reading has arrived for flow, current"):
        task.train(task.initial_parameters(0), SETTINGS, bool)
    device.rows.append((1.0, "flow", 1.0))
    with pytest.raises(TaskError, match="for current"):
        task.train(task.initial_parameters(0), SETTINGS, bool)


def test_the_threshold_is_of_what_was_trained_on() -> None:
    device = Device()
    task = build(device)
    device.measure(0, 60)
    trained = task.train(task.initial_parameters(0), SETTINGS, bool).parameters
    rule = task.score_rule(trained)
    assert rule.threshold is not None
    device.measure(60, 500, level=50.0)
    assert task.score_rule(trained) == rule
    task.train(trained, SETTINGS, bool)
    assert task.score_rule(trained).scaler.mean[0] > 10


def test_a_late_label_is_found_at_the_next_round() -> None:
    device = Device()
    task = build(device, "classifier", target="state", classes=["ok", "worn"], holdout=0.0)
    device.measure(0, 50)
    parameters = task.initial_parameters(0)
    with pytest.raises(TaskError, match="no window"):
        task.train(parameters, SETTINGS, bool)
    device.rows += [(10.2, "state", 0.0), (30.2, "state", 1.0)]
    assert task.train(parameters, SETTINGS, bool).num_examples == 50 - 10
    (_, labels) = task.source.train()
    assert labels.tolist() == [0] * 20 + [1] * 20
    device.rows.append((12.0, "state", 7.0))
    with pytest.raises(TaskError, match="state is 7, and the classes are 0 = ok, 1 = worn"):
        task.train(parameters, SETTINGS, bool)


def test_a_label_holds_no_longer_than_a_gap_is_filled() -> None:
    device = Device()
    more = {"target": "left", "cap": 20.0, "holdout": 0.0, "gap_max_s": 5.0, "window": 2, "scaler": "none"}
    source = build(device, "remaining-life", **more).source
    assert isinstance(source, LiveSource)
    device.measure(0, 30)
    device.rows += [(10.0, "left", 90.0), (20.0, "left", 3.0)]
    windows, left = source.train()
    assert left.tolist() == [20.0] * 5 + [3.0] * 5
    assert windows.shape == (10, 2, 2)


def test_rows_are_taken_as_they_come_without_a_period() -> None:
    device = Device()
    source = build(device, period_s=None, holdout=0.0, scaler="none", target="").source
    for row in range(10):
        device.rows += [(float(row), "flow", row), (float(row), "current", -row)]
    windows, _ = source.train()
    assert windows.shape == (3, 8, 2)
    assert windows[0, :, 1].tolist() == [-row for row in range(8)]
