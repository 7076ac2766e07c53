"""Tables of a folder, and the windows of a device."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from federation.errors import TaskError
from federation.tasks.sensors.examples import DeviceReadings
from federation.tasks.sensors.plan import Kind, SensorPlan
from federation.tasks.sensors.rules import Scaler
from federation.tasks.sensors.series import Series, read_series, table_files


def plan(**changes: object) -> SensorPlan:
    return SensorPlan.model_validate({"columns": ("a", "b"), "window": 3, "holdout": 0.0, "scaler": "none"} | changes)


def table(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def counted(rows: int) -> str:
    return "\n".join(["a;b", *(f"{row};{10 * row}" for row in range(rows))])


def device(kind: Kind, *series: Series, **changes: object) -> DeviceReadings:
    return DeviceReadings(plan(**changes), kind, series)


def test_tables_come_in_the_order_of_their_names_and_tests_are_apart(tmp_path: Path) -> None:
    for name in ("b.csv", "a/z.csv.gz", "test/t.csv", ".hidden.csv", "notes.md"):
        table(tmp_path, name, counted(1))
    assert [path.name for path in table_files(tmp_path)] == ["z.csv.gz", "b.csv"]
    assert [path.name for path in table_files(tmp_path, "test")] == ["t.csv"]
    table(tmp_path, "train/only.csv", counted(1))
    assert [path.name for path in table_files(tmp_path)] == ["only.csv"]
    assert table_files(tmp_path / "b.csv") == [tmp_path / "b.csv"]
    assert table_files(tmp_path / "b.csv", "test") == []


def test_a_broken_value_in_a_table_is_a_gap_of_what_trains_and_stays_in_what_tests(tmp_path: Path) -> None:
    rows = [f"{np.sin(row):.4f};{row}" for row in range(100)]
    rows[50] = "1e38;50"
    found = read_series(table(tmp_path, "a.csv", "\n".join(["a;b", *rows])), plan(), Kind.RECONSTRUCTION)
    one = device(Kind.RECONSTRUCTION, found, found, scaler="own", holdout=0.2)
    assert max(one.scaler.std) < 50
    assert len(one.train()[0]) == 2 * (80 - 2 - 3)
    assert len(one.whole()[0]) == 2 * 98
    assert np.isfinite(one.whole()[0]).all()


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no CSV file in"):
        table_files(tmp_path)
    with pytest.raises(TaskError, match="--data DIR"):
        table_files(None)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_table_is_read_by_the_names_of_its_columns(tmp_path: Path, name: str) -> None:
    path = table(tmp_path, name, "when;b;other;a\nx;1;y;2\nx;;y;3\n")
    found = read_series(path, plan(), Kind.RECONSTRUCTION)
    np.testing.assert_array_equal(found.values, np.array([[2, 1], [3, np.nan]], np.float32))
    assert np.isnan(found.targets).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;c\n1;2\n", "has no column b"),
        ("a;b\n", "has no rows"),
        ("a;b\n1;x\n", "which is no number"),
        ("a;b;a\n1;2;3\n", "two columns are called 'a'"),
        ("a;b\n1\n", "1 values, and 2 columns"),
    ],
)
def test_a_table_that_is_not_what_was_told_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        read_series(table(tmp_path, "a.csv", text), plan(), Kind.RECONSTRUCTION)


def test_a_packed_table_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "a.csv.gz", counted(50))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TaskError, match="cannot be read"):
        read_series(path, plan(), Kind.RECONSTRUCTION)


def test_a_life_ends_with_its_table_and_another_says_what_is_left(tmp_path: Path) -> None:
    whole = read_series(table(tmp_path, "a.csv", counted(5)), plan(cap=3), Kind.REMAINING)
    assert whole.targets.tolist() == [3, 3, 2, 1, 0]
    text = "a;b;left\n1;1;\n1;1;\n1;1;7\n"
    said = read_series(table(tmp_path, "b.csv", text), plan(cap=5, target="left"), Kind.REMAINING)
    np.testing.assert_array_equal(said.targets, np.array([np.nan, np.nan, 5], np.float32))
    inputs, targets = device(Kind.REMAINING, said, window=2).whole()
    assert (inputs.shape, targets.tolist()) == ((1, 2, 2), [5.0])  # a window that nobody has labelled is no example


def test_a_window_has_the_class_of_its_last_row(tmp_path: Path) -> None:
    text = "a;b;state\n0;0;ok\n1;1;ok\n2;2;worn\n3;3;\n4;4;ok\n"
    told = plan(window=2, target="state", classes=("ok", "worn"))
    found = read_series(table(tmp_path, "a.csv", text), told, Kind.CLASS)
    inputs, targets = DeviceReadings(told, Kind.CLASS, [found]).train()
    assert (inputs[:, -1, 0].tolist(), targets.tolist()) == ([1, 2, 4], [0, 1, 0])
    assert targets.dtype == np.int64
    with pytest.raises(TaskError, match="state is 'broken', and the classes are ok, worn"):
        read_series(table(tmp_path, "b.csv", text + "5;5;broken"), told, Kind.CLASS)


def test_rows_at_any_times_become_rows_of_a_period(tmp_path: Path) -> None:
    text = "t;a;b;state\n10;1;1;ok\n11;3;3;ok\n12;5;5;worn\n15;9;9;ok\n"
    told = plan(columns=("a",), time="t", period_s=2.0, target="state", classes=("ok", "worn"), window=2)
    found = read_series(table(tmp_path, "a.csv", text), told, Kind.CLASS)
    assert found.times is not None
    assert (found.times.tolist(), found.values[:, 0].tolist()) == ([10, 12, 14], [2, 5, 9])
    assert found.targets.tolist() == [0, 1, 0]


@pytest.mark.parametrize("text", ["2020-03-09 10:14:33", "2020-03-09T10:14:33+00:00", "1583748873"])
def test_a_time_is_a_date_or_seconds(tmp_path: Path, text: str) -> None:
    found = read_series(table(tmp_path, "a.csv", f"t;a;b\n{text};1;2\n"), plan(time="t"), Kind.RECONSTRUCTION)
    assert found.times is not None
    assert found.times.tolist() == [1583748873.0]
    with pytest.raises(TaskError, match="row 2: the time is 'noon'"):
        read_series(table(tmp_path, "b.csv", f"t;a;b\n{text};1;2\nnoon;1;2\n"), plan(time="t"), Kind.RECONSTRUCTION)


def test_no_window_goes_over_a_gap_in_values_or_in_time(tmp_path: Path) -> None:
    text = "t;a;b\n0;0;0\n1;1;1\n2;2;\n3;3;3\n4;4;4\n900;5;5\n901;6;6\n"
    told = plan(window=2, time="t")
    found = read_series(table(tmp_path, "a.csv", text), told, Kind.RECONSTRUCTION)
    inputs, _ = DeviceReadings(told, Kind.RECONSTRUCTION, [found]).train()
    assert inputs[:, 0, 0].tolist() == [0, 3, 5]


def rising(rows: int, name: str = "x", offset: float = 0.0) -> Series:
    values = np.stack([np.arange(rows) + offset, np.arange(rows) + offset], axis=1).astype(np.float32)
    return Series(name=name, values=values, targets=np.arange(rows - 1, -1, -1, dtype=np.float32))


def test_a_model_learns_the_first_rows_only_and_is_tested_on_the_last_of_them() -> None:
    found = device(Kind.RECONSTRUCTION, rising(100), rows=20, holdout=0.25, scaler="own")
    inputs, targets = found.train()
    assert inputs is targets
    assert found.scaler == Scaler.of(rising(15).values)
    assert (len(inputs), len(found.test()[0])) == (13, 3)
    np.testing.assert_allclose(found.test()[0][0], found.scaler.scaled(rising(100).values[15:18]))


def test_a_forecaster_learns_what_comes_after_a_window() -> None:
    inputs, targets = device(Kind.FORECAST, rising(6), horizon=2).train()
    assert (inputs.shape, targets.shape) == ((2, 3, 2), (2, 2, 2))
    assert (inputs[0, :, 0].tolist(), targets[0, :, 0].tolist()) == ([0, 1, 2], [3, 4])


def test_whole_lives_are_held_out_not_their_ends() -> None:
    found = device(Kind.REMAINING, *(rising(10, str(life), 100.0 * life) for life in range(4)), holdout=0.2)
    assert found.train()[0].max() < 300
    assert found.test()[0].min() >= 300


def test_too_few_rows_for_a_window_are_said() -> None:
    with pytest.raises(TaskError, match="no window of 3 rows in the 2 rows that trains"):
        device(Kind.RECONSTRUCTION, rising(2)).train()
    assert len(device(Kind.RECONSTRUCTION, rising(10), holdout=0.1).test()[0]) == 1  # one window at least is held out
    with pytest.raises(TaskError, match=r"no window of 3 rows in the 2 rows that is held out \(see holdout\)"):
        device(Kind.REMAINING, rising(9), rising(2), holdout=0.2).test()


def test_a_scaler_is_found_in_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "scaler.json").write_text('{"columns": {"a": {"mean": 1, "std": 2}, "b": {"mean": 0, "std": 1}}}')
    found = DeviceReadings(plan(scaler="scaler.json"), Kind.RECONSTRUCTION, [rising(5)], tmp_path)
    assert found.train()[0][0, :, 0].tolist() == [-0.5, 0.0, 0.5]
