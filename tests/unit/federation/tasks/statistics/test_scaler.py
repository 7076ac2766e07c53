"""The scaler file: what it says, what it is named by, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.errors import StorageError, TaskError
from federation.tasks.sensors.rules import Scaler as SensorScaler
from federation.tasks.statistics.scaler import ScaledColumn, Scaler

HEAT = ScaledColumn(name="heat", mean=50.0, std=2.0, minimum=40.0, maximum=60.0)
FLOW = ScaledColumn(name="flöw", mean=0.1, std=1e-9, minimum=0.0, maximum=1.0)
SCALER = Scaler((HEAT, FLOW))
GOLDEN = "66f77977b481c1c3428004422875d1953250aa1875da5653a0b5485c783eb412"
"""A file of today must be the same scaler in a later release."""


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    SCALER.write(tmp_path / "s.json")
    read = Scaler.read(tmp_path / "s.json")
    assert read == SCALER
    assert (read.digest, read.names) == (SCALER.digest, ("heat", "flöw"))


def test_its_digest_is_that_of_what_it_says() -> None:
    assert SCALER.digest != Scaler((replace(HEAT, mean=50.000001), FLOW)).digest
    assert SCALER.digest != Scaler((FLOW, HEAT)).digest
    assert SCALER.digest == GOLDEN


def test_it_scales_the_last_axis() -> None:
    found = Scaler((HEAT, replace(HEAT, name="b", mean=0.0))).apply(np.array([[[52.0, 4.0]], [[48.0, -4.0]]]))
    assert found.dtype == np.float32
    assert found.tolist() == [[[1.0, 2.0]], [[-1.0, -2.0]]]


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 1)), np.zeros(())])
def test_other_columns_are_not_scaled(values: Any) -> None:
    with pytest.raises(TaskError, match="2 columns"):
        SCALER.apply(values)


def test_columns_are_chosen_by_name() -> None:
    assert SCALER.of(["flöw"]).columns == (FLOW,)
    with pytest.raises(TaskError, match="lacks vibration: it has heat, flöw"):
        SCALER.of(["heat", "vibration"])


@pytest.mark.parametrize(
    "columns",
    [(), (HEAT, HEAT), (replace(HEAT, std=0.0),), (replace(HEAT, mean=float("nan")),), (replace(HEAT, std=-1.0),)],
)
def test_what_cannot_scale_is_refused(columns: tuple[ScaledColumn, ...]) -> None:
    with pytest.raises(TaskError):
        Scaler(columns)


def test_another_file_than_the_one_that_is_wanted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    SCALER.write(path)
    assert Scaler.read(path, SCALER.digest[:16]) == SCALER
    path.write_text(path.read_text().replace("50.0", "51.0"))
    with pytest.raises(TaskError, match=f"has the digest .*, and {SCALER.digest[:12]} is wanted"):
        Scaler.read(path, SCALER.digest)


def test_a_task_for_sensors_reads_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    SCALER.write(path)
    other = SensorScaler.read(path, ("flöw", "heat"), SCALER.digest)
    assert (other.mean, other.std, other.source) == ((0.1, 50.0), (1e-9, 2.0), SCALER.digest)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", "{}", "\x00", "[" * 5000),
        *('{"format": "other"}', '{"format": "fedmq-scaler/1"}', '{"format": "fedmq-scaler/1", "columns": []}'),
    ],
)
def test_what_is_no_scaler_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(TaskError, match="cannot be read as a scaler file"):
        Scaler.read(path)


@pytest.mark.parametrize("key", ["mean", "std", "min", "max"])
@pytest.mark.parametrize("value", [None, "1", True, [], float("inf")])
def test_a_column_of_something_else_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "s.json"
    SCALER.write(path)
    said = json.loads(path.read_text())
    said["columns"]["heat"][key] = value
    path.write_text(json.dumps(said))
    with pytest.raises(TaskError):
        Scaler.read(path)


def test_a_file_that_is_not_there_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        Scaler.read(tmp_path / "none.json")
    with pytest.raises(StorageError, match="cannot be written"):
        SCALER.write(tmp_path / "none" / "s.json")
