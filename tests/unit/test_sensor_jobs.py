"""The reference jobs with sensors: SKAB's protocol on a case made by hand, and what a job makes of its data."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks.jobs import skab, turbofan
from benchmarks.jobs.skab import Confusion, Experiment
from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.registry import load_task
from federation.tasks.sensors.task import SensorTask, TableSource


def flags(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


def test_alarms_are_counted_row_by_row_over_all_experiments() -> None:
    #                          labels          alarms
    one = Confusion.of(flags("....xxxx"), flags("..x..xxx"))  # 3 hits, 1 false, 1 missed, 3 quiet
    other = Confusion.of(flags("xx.."), flags("...x"))  # 0 hits, 1 false, 2 missed, 1 quiet
    assert (one, other) == (Confusion(3, 1, 1, 3), Confusion(0, 1, 2, 1))
    both = one + other
    assert both.f1 == 3 / (3 + (2 + 3) / 2)
    assert both.false_alarm_rate == pytest.approx(100 * 2 / 6)
    assert both.missed_alarm_rate == 50.0


@pytest.mark.parametrize(
    ("labels", "alarms", "rates"),
    [
        ("xx..", "xx..", (1.0, 0, 0)),
        ("xx..", "....", (0, 0, 100)),
        ("....", "....", (0, 0, 0)),
        ("..", "xx", (0, 100, 0)),
    ],
)
def test_a_perfect_detector_a_silent_one_and_one_that_always_alarms(
    labels: str, alarms: str, rates: tuple[float, float, float]
) -> None:
    found = Confusion.of(flags(labels), flags(alarms))
    assert (found.f1, found.false_alarm_rate, found.missed_alarm_rate) == rates


def experiment(tmp_path: Path) -> Experiment:
    """40 rows: a sensor at rest, and 10 rows far from it."""
    fault = np.isin(np.arange(40), np.arange(20, 30))
    values = np.sin(np.arange(40)) + 50 * fault
    (tmp_path / "one.csv").write_text("\n".join(["a;b", *(f"{value:.5f};{value:.5f}" for value in values)]))
    name = "sensors/autoencoder?columns=a,b&window=4&width=4&rows=20&holdout=0&threshold=5"
    task = load_task(name)(TaskContext(node_index=0, node_count=1, data=tmp_path, device="cpu"))
    assert isinstance(task, SensorTask)
    return Experiment("one", task, fault)


def test_a_row_is_an_alarm_if_all_windows_over_it_are(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    parameters = found.task.initial_parameters(0)
    points, threshold = found.points(parameters)
    alarms = points > threshold
    # rows 20 to 29 are far from what was learnt: windows from 17 on have one of them, and those up to 29
    assert alarms[20:30].all()
    assert not alarms[30:].any()
    assert np.isnan(points[[0, 1, 2, 37, 38, 39]]).all()
    judged = found.judged(parameters)
    assert (judged.hits, judged.missed) == (10, 0)
    assert judged == Confusion.of(found.labels, alarms)
    assert found.judged(parameters, begin=30) == Confusion(0, 0, 0, 10)


def test_an_engine_becomes_a_table_that_ends_with_its_failure_or_says_what_is_left(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def text(rows: int) -> str:
        """Engines 1 to 100, so many cycles each; the first sensor never changes."""
        lines = []
        for engine in range(1, 101):
            for cycle in range(rows):
                sensors = [1.0, *rng.normal(cycle, 1.0, 20)]
                lines.append(" ".join(map(str, [engine, cycle + 1, 0, 0, 0, *sensors])))
        return "\n".join(lines)

    data = tmp_path / "cmapss"
    data.mkdir()
    for name, content in (
        ("train_FD001", text(40)),
        ("test_FD001", text(32)),
        ("RUL_FD001", "\n".join(str(engine) for engine in range(100, 200))),
    ):
        (data / f"{name}.txt.gz").write_bytes(gzip.compress(content.encode()))
    name = turbofan._prepared(tmp_path, tmp_path / "out")  # what the job itself begins with
    task = load_task(name)(TaskContext(node_index=4, node_count=100, data=tmp_path / "out", device="cpu"))
    assert isinstance(task, SensorTask)
    assert task.plan.columns == tuple(f"s{number}" for number in range(2, 22))
    assert task.readings.train()[1].tolist() == list(range(10, -1, -1))
    assert isinstance(task.source, TableSource)
    inputs, left = task.source.tests()
    assert (inputs.shape, left[:2].tolist(), left[-1]) == ((100, 30, 20), [100, 101], 125)
    assert task.readings.scaler.source != "own"
    assert task.readings.scaler.mean[0] == pytest.approx(19.5, abs=0.1)  # everybody's


@pytest.mark.parametrize("job", [skab.skab, turbofan.fd001])
def test_a_sensor_job_without_its_data_says_so(job: object, tmp_path: Path) -> None:
    assert callable(job)
    with pytest.raises(TaskError, match="is not in"):
        next(job(tmp_path, tmp_path / "out"))
