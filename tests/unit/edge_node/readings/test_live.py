"""What a task sees of readings, and what is said of them: how many are new, how old, how far they moved."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_node.readings.live import NodeReadings
from edge_node.storage.reading_store import Block, ReadingStore
from federation.errors import TaskError
from federation.readings.live import LiveWindows
from federation.readings.windows import WindowSpec

SPEC = WindowSpec(columns=("heat", "flow"), length=5, period_s=1.0)


class Device:
    """A node's store, and what its task sees."""

    def __init__(self, folder: Path) -> None:
        self.store = ReadingStore(folder)
        self.folder, self.time, self.memos = folder, 0, dict[str, object]()
        self.readings = self.started()

    def started(self) -> NodeReadings:
        return NodeReadings(self.folder, wall=lambda: self.time + 10.0, remember=self.remember)

    def remember(self, memos: Mapping[str, object]) -> None:
        self.memos |= memos
        self.store.add(None, memos=memos)

    def measure(self, count: int, *, heat: float = 20.0, seed: int = 0) -> None:
        times = [float(self.time + number) for number in range(count)]
        self.time += count
        noise = np.random.default_rng(seed).normal(size=count)
        for name, values in (("heat", heat + noise), ("flow", noise)):
            self.store.add(Block(times, [name] * count, values.tolist()), latest=self.time + 60.0)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_each_look_has_what_is_there_then(device: Device) -> None:
    data = LiveWindows(device.readings, SPEC, holdout=0.2)
    with pytest.raises(TaskError, match="nothing has arrived for heat, flow"):
        data.train()
    device.measure(9)
    with pytest.raises(TaskError, match="no window to train on: 4 rows, 4 of them whole, and a window takes 5"):
        data.train()
    device.measure(11)
    assert [len(data.train()[0]), len(data.test()[0])] == [11, 1]
    device.measure(80)
    windows, targets = data.train()
    assert windows.shape == (76, 5, 2)
    assert targets is windows
    assert len(data.test()[0]) == 16


def test_a_window_is_never_in_both_parts(device: Device) -> None:
    device.measure(50)
    data = LiveWindows(device.readings, SPEC, holdout=0.3)
    train, test = data.train()[0], data.test()[0]
    held_out = set(test[:, :, 1].ravel().tolist())
    assert not held_out & set(train[:, :, 1].ravel().tolist())


def test_a_store_that_is_not_there_yet_says_so(tmp_path: Path) -> None:
    readings = NodeReadings(tmp_path, wall=lambda: 0.0)
    with pytest.raises(TaskError, match="no reading has arrived yet"):
        readings.read(("heat",))
    assert readings.why_not(1) == "readings: no reading has arrived yet"
    assert readings.why_not(0) is None
    assert readings.trained() == {}


def test_what_is_new_is_counted_in_windows_and_begins_anew_with_each_training(device: Device) -> None:
    data = LiveWindows(device.readings, SPEC)
    device.measure(30)
    assert device.readings.new_examples() == 26
    assert device.readings.why_not(27) == "readings: 26 new examples < 27"
    assert device.readings.why_not(26) is None
    data.train()
    assert device.readings.trained()["new_examples"] == 26
    assert device.readings.new_examples() == 0
    assert device.readings.why_not(1) == "readings: 0 new examples < 1"
    device.measure(7)
    assert device.readings.new_examples() == 7
    assert device.started().why_not(8) is not None


def test_a_restart_knows_what_was_trained_on(device: Device) -> None:
    LiveWindows(device.readings, SPEC)
    device.measure(100)
    LiveWindows(device.readings, SPEC).train()
    device.readings.trained()
    again = device.started()
    again.uses(SPEC)
    assert again.new_examples() == 0


def test_readings_without_windows_are_counted_by_their_moments(device: Device) -> None:
    device.measure(10)
    assert device.readings.new_examples() == 10


def test_age_and_drift_are_said(device: Device) -> None:
    data = LiveWindows(device.readings, SPEC)
    device.measure(2_000)
    data.train()
    first = device.readings.trained()
    assert first["data_age_s"] == 11.0
    assert first["drift"] < 0.1
    device.measure(1_000, heat=23.0, seed=1)
    data.train()
    second = device.readings.trained()
    assert second["drift"] > 1
    drift = device.memos["drift"]
    assert isinstance(drift, dict)
    assert drift["heat"][1] == pytest.approx(3, abs=0.3)
    assert abs(drift["flow"][1]) < 0.2


def test_the_reference_survives_a_restart(device: Device) -> None:
    LiveWindows(device.readings, SPEC)
    device.measure(1_000)
    LiveWindows(device.readings, SPEC).train()
    device.readings.trained()
    again = device.started()
    data = LiveWindows(again, SPEC)
    device.measure(1_000, heat=30.0)
    data.train()
    assert again.trained()["drift"] > 1


def test_a_scaler_of_all_nodes_is_what_a_shift_is_measured_by(device: Device) -> None:
    device.readings.uses(SPEC, {"heat": (10.0, 5.0)})
    device.measure(1_000)
    device.readings.read(SPEC.columns)
    device.readings.trained()
    drift = device.memos["drift"]
    assert isinstance(drift, dict)
    assert drift["heat"][1] == pytest.approx(2, abs=0.1)


def test_a_node_that_does_not_report_says_nothing_and_counts_all_the_same(device: Device) -> None:
    quiet = NodeReadings(device.folder, wall=lambda: 0.0, remember=device.remember, report=False)
    data = LiveWindows(quiet, SPEC)
    device.measure(30)
    data.train()
    assert quiet.trained() == {}
    assert quiet.new_examples() == 0


def test_a_late_label_finds_its_window(device: Device) -> None:
    data = LiveWindows(device.readings, SPEC, holdout=0.0, label="worn", tolerance_s=0.6)
    device.measure(10)
    with pytest.raises(TaskError, match="none of 6 windows to train on has a label in worn"):
        data.train()
    device.store.add(Block([6.5, 9.0, 3.0], ["worn"] * 3, [1.0, 2.0, 5.0]))
    windows, labels = data.train()
    ends = device.readings.read(("heat",)).values
    assert labels.tolist() == [1, 1, 2]
    assert windows[:, -1, 0].tolist() == np.float32(ends[[6, 7, 9]]).tolist()
    assert labels.dtype == np.int64
    measured = LiveWindows(device.readings, SPEC, holdout=0.0, label="worn", whole=False)
    assert measured.train()[1].tolist() == [[2.0]]


def test_a_coordinator_has_no_readings() -> None:
    data = LiveWindows(None, SPEC)
    with pytest.raises(TaskError, match=r"give the node \[data\]"):
        data.train()
    with pytest.raises(TaskError, match="holdout"):
        LiveWindows(None, SPEC, holdout=1.0)


def test_what_was_stored_while_the_clock_was_ahead_is_nothing_new_and_keeps_nothing_from_being_new(
    device: Device,
) -> None:
    """A device that begins in 2030 for a minute declined every round after it: nothing was newer than that."""
    device.measure(50)
    device.readings.uses(SPEC)
    device.store.add(Block([1e9] * 2, ["heat", "flow"], [20.0, 0.0]), latest=None)
    found = device.readings.read(("heat", "flow"))
    assert found.times.max() == 49
    device.readings.trained()
    assert device.memos["trained_to"] == 49
    device.measure(10)
    assert device.readings.new_examples() == 10
    assert device.readings.why_not(10) is None


def test_a_training_of_such_a_time_is_forgotten(device: Device) -> None:
    device.measure(50)
    device.remember({"trained_to": 1e9})
    readings = device.started()
    readings.uses(SPEC)
    assert readings.why_not(40) is None
    readings.read(("heat", "flow"))
    readings.trained()
    assert device.memos["trained_to"] == 49
    assert readings.new_examples() == 0


def test_a_clock_that_is_behind_all_readings_hides_none(device: Device) -> None:
    device.measure(50)
    device.time = -10_000
    assert len(device.readings.read(("heat",)).times) == 50
